"""How well a pair does on questions it was not trained on, sampled by the policies' own engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from duet_sdk.evaluation.grading import CountingGrader
from duet_sdk.trainer.round import gathered, holds_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.policy import Policy
    from duet_sdk.trainer.prompts import PairPrompts

_SEED = 7919
"""Of every validation, so that they differ by the models only."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation found."""

    row: dict[str, JsonValue]
    """As ``metrics.jsonl`` holds it."""
    lengths: list[int]
    """Tokens of each signal."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Validates a pair in training. Leaves the random state of training as it was."""

    reasoner: Policy
    generator: Policy
    prompts: PairPrompts
    questions: Sequence[Question]
    """Of this process; the same number on all."""
    grader: QuestionGrader
    journal: Journal
    samples: int
    """Samples to keep."""

    def run(self, round_number: int) -> Validated:
        """Ask every question once with a signal and once without, and write down the result."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_SEED)
            table = self._table(round_number)
        table = gathered(table).double().cpu()
        guided, alone, tokens, empty, leak = table.T
        row: dict[str, JsonValue] = {
            "round": round_number,
            "phase": "validation",
            "questions": len(table),
            "guided": float(guided.mean()),
            "alone": float(alone.mean()),
            "utility": float(guided.mean() - alone.mean()),
            "tokens_mean": float(tokens.mean()),
            "tokens_p50": float(tokens.quantile(0.5)),
            "tokens_p95": float(tokens.quantile(0.95)),
            "empty": float(empty.mean()),
            "leak_rate": float(leak.mean()),
            **_grading(self.grader),
        }
        self.journal.metrics(row)
        return Validated(row, [int(one) for one in tokens])

    def _table(self, round_number: int) -> torch.Tensor:
        """A row for each question of this process."""
        prompts = self.prompts
        messages = [question.messages for question in self.questions]
        ends = frozenset(self.reasoner.eos_token_ids)
        sampled, _ = self.reasoner.sample([prompts.ask_ids(one) for one in messages], 1)
        signals = [prompts.signal(one, ends=ends) for one in sampled]
        asked = [prompts.guided_ids(one, signal.text) for one, signal in zip(messages, signals, strict=True)]
        written, _ = self.generator.sample([*asked, *(prompts.unguided_ids(one) for one in messages)], 1)
        texts = [prompts.answer_text(one) for one in written]
        number = len(messages)
        guided = self.grader.grade(self.questions, texts[:number])
        alone = self.grader.grade(self.questions, texts[number:])
        for at in range(min(self.samples, number)):
            self.journal.sample(
                {
                    "round": round_number,
                    "question": self.questions[at].text,
                    "signal": signals[at].text,
                    "tokens": signals[at].tokens,
                    "answer": texts[at],
                    "alone": texts[number + at],
                    "grade": guided[at],
                    "right": self.questions[at].answer,
                }
            )
        facts = zip(self.questions, signals, guided, alone, strict=True)
        return torch.tensor(
            [
                [right, without, signal.tokens, float(not signal.text), holds_answer(signal.text, question.answer)]
                for question, signal, right, without in facts
            ]
        )


def _grading(grader: QuestionGrader) -> dict[str, JsonValue]:
    """Of the answers this process graded since the last validation: shares that were unreadable, and that failed."""
    if not isinstance(grader, CountingGrader):
        return {}
    counts = grader.take_counts()
    return {"unread": counts.unread_share, "faults": counts.fault_share}
