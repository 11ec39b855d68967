"""Empty signals, proposed where the generator alone is right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from duet_sdk.trainer.proposing.cycle import Verdict
from duet_sdk.trainer.supervised import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.evaluation.question import Question
    from duet_sdk.trainer.measure import PairModels
    from duet_sdk.trainer.proposing.cycle import Cycle

_CHECKS = 4
"""Answers without a signal that must all be right: one alone is right by luck too often."""


def propose_silence(
    cycle: Cycle, pair: PairModels, questions: Sequence[Question], held: Sequence[Question]
) -> PairModels:
    """The pair whose reasoner is silent where the generator alone is right, if that held its accuracy on ``held``.

    Everywhere else the reasoner is tuned on its own right signals as they are, so that it forgets nothing.
    """
    fresh = replace(pair, temperature=1.0)
    before = cycle.measure_held(fresh, held)
    seen = cycle.measure(fresh, questions)
    needless = [True] * len(questions)
    for check in range(_CHECKS):
        drawn = replace(fresh, seed=pair.seed + check)
        grades = cycle.grader.grade(questions, drawn.answers(questions, [""] * len(questions)))
        needless = [so_far and grade >= 1 for so_far, grade in zip(needless, grades, strict=True)]
    rows = [
        Example(pair.prompts.ask_ids(question.messages), pair.prompts.signal_ids("" if silent else signal))
        for question, signal, silent, right in zip(questions, seen.signals, needless, seen.right, strict=True)
        if silent or right
    ]
    cycle.journal.decision("proposal", f"silence at {sum(needless)} of {len(questions)} questions")
    if not any(needless):
        return pair
    learned = cycle.tune(fresh, "reasoner", rows, cycle.settings.tune_steps)
    verdict = Verdict.of(before, cycle.measure_held(learned, held), accept_drop=cycle.settings.accept_drop)
    cycle.journal.decision("verdict", f"silence {verdict.words}", accepted=verdict.kept)
    return replace(learned, temperature=pair.temperature) if verdict.kept else pair
