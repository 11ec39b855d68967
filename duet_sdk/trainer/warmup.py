"""Warm-up: both models learn signals of varied length, made from the reasoner's own long ones.

Joint training selects among lengths that the reasoner writes, so it must write several. Forms with which the generator
still answers right are kept; the reasoner learns to write them, the generator to read them.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.proposing.rules import sentences
from duet_sdk.trainer.supervised import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.measure import PairModels
    from duet_sdk.trainer.proposing.cycle import Tuner

_NUMBER = re.compile(r"\d")


def form(signal: str, style: str, rng: random.Random) -> str:
    """A signal in another form.

    ``whole``: as it is; ``dropped``: each sentence but the last dropped with a chance drawn anew for each signal;
    ``numbers``: sentences that hold a number, and the last; ``plan``: first and last sentence; ``empty``: nothing.
    """
    parts = sentences(signal)
    if style == "whole" or len(parts) < 2:
        return "" if style == "empty" else signal
    *before, last = parts
    if style == "dropped":
        chance = rng.uniform(0.2, 0.9)
        before = [part for part in before if rng.random() > chance]
    elif style == "numbers":
        before = [part for part in before if _NUMBER.search(part)]
    elif style == "plan":
        before = before[:1]
    else:
        return ""
    return " ".join([*before, last])


def warm_up(
    config: TrainConfig,
    pair: PairModels,
    questions: Sequence[Question],
    grader: QuestionGrader,
    tune: Tuner,
    journal: Journal,
) -> tuple[PairModels, dict[str, JsonValue]]:
    """The pair tuned on forms that let the generator answer, and what was kept of each.

    Raises:
        TrainingError: with no form of any signal does the generator answer right.
    """
    settings, rng = config.warmup, random.Random(config.seed)
    asked = list(questions[: settings.questions]) * settings.samples
    sampling = replace(pair, temperature=1.0, seed=config.seed)
    written = [signal.text for signal in sampling.signals(asked)]
    forms = {style: [form(text, style, rng) for text in written] for style in settings.styles}
    writing: list[Example] = []
    reading: list[Example] = []
    kept: dict[str, JsonValue] = {}
    for style, texts in forms.items():
        right = [0.0] * len(asked)
        answers = [""] * len(asked)
        for check in range(settings.checks):
            drawn = replace(sampling, seed=config.seed + check).answers(asked, texts)
            for at, grade in enumerate(grader.grade(asked, drawn)):
                right[at] += grade / settings.checks
                answers[at] = drawn[at] if grade >= 1 else answers[at]
        good = [at for at in range(len(asked)) if right[at] >= settings.keep and answers[at]]
        kept[style] = len(good)
        journal.decision("warmup", f"{style}: {len(good)} of {len(asked)} kept, accuracy {sum(right) / len(right):.3f}")
        for at in good:
            messages = asked[at].messages
            writing.append(Example(pair.prompts.ask_ids(messages), pair.prompts.signal_ids(texts[at])))
            reading.append(Example(pair.prompts.guided_ids(messages, texts[at]), pair.answer_ids(answers[at])))
    if not writing:
        raise TrainingError(
            f"the generator answers correctly with no form of the {len(asked)} signals sampled; use a stronger "
            "generator, easier questions, or a lower warmup.keep"
        )
    steps = max(1, round(settings.epochs * len(writing) / settings.batch))
    tuned = tune(tune(pair, "reasoner", writing, steps), "generator", reading, steps)
    return tuned, {"asked": len(asked), "kept": kept, "rows": len(writing), "steps": steps}
