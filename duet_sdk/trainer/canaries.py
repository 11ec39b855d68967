"""What a pair is worth on questions held out: with the signal against without, on the same questions."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from duet_sdk.client import AsyncDuetClient
from duet_sdk.errors import DuetError, TrainingError
from duet_sdk.trainer.grading import Attempt, Grader
from duet_sdk.trainer.intervals import Interval, difference_interval, share_interval
from duet_sdk.trainer.question import Question

CONCURRENT = 8
"""Questions asked at the same time."""
MOST_FAILED = 0.1
"""Share of questions that may fail; over it nothing is said."""


@dataclass(frozen=True, slots=True)
class Utility:
    """What was measured."""

    questions: int
    """Those that both ways answered."""
    failed: int
    """Those that a model failed on; they count for neither."""
    guided: Interval
    """Accuracy with a signal."""
    alone: Interval
    """Accuracy of the generator without."""
    utility: Interval
    """Guided minus alone."""
    signal_tokens: float
    """Mean tokens billed for a signal."""
    recorded: float | None = None
    """Utility at training, as the manifest says."""

    @property
    def verdict(self) -> str:
        """``worse``: the interval lies below the recorded utility; ``none``: it reaches down to 0; else ``ok``."""
        if self.recorded is not None and self.utility.high < self.recorded:
            return "worse"
        return "ok" if self.utility.low > 0 else "none"

    def to_dict(self) -> dict[str, JsonValue]:
        """As JSON has it."""
        return {**asdict(self), "verdict": self.verdict}


async def measure_utility(
    client: AsyncDuetClient,
    questions: Sequence[Question],
    grader: Grader,
    *,
    recorded: float | None = None,
    seed: int = 0,
    tell: Callable[[str, float], None] | None = None,
) -> Utility:
    """Ask every question twice, with a signal and without, and compare the grades.

    Args:
        client: the pair, its gate asking always.
        questions: held out from training.
        grader: grades both ways alike.
        recorded: the utility that training measured.
        seed: of both models' sampling, where they take one.
        tell: told of the progress.

    Raises:
        TrainingError: there are no questions, or more than a tenth failed; names the first error.
    """
    if not questions:
        raise TrainingError("there are no canary questions to measure on")
    done = 0
    limit = asyncio.Semaphore(CONCURRENT)

    async def ask(question: Question) -> tuple[str, str, int] | DuetError:
        nonlocal done
        async with limit:
            try:
                guided = await client.chat(question.messages, mode="duet", gate="always", seed=seed)
                alone = await client.chat(question.messages, mode="generator", seed=seed)
            except DuetError as error:
                return error
            finally:
                done += 1
                if tell is not None:
                    tell("asking canaries", done / len(questions))
        if guided.served_by not in ("pair", "pair_cut"):
            return TrainingError(f"an answer was served by {guided.served_by}, not by the pair")
        return guided.text, alone.text, guided.usage.reasoner.output_tokens

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(question)) for question in questions]
    pairs = list(zip(questions, (task.result() for task in asked), strict=True))
    answered = [(question, result) for question, result in pairs if not isinstance(result, DuetError)]
    errors = [result for _, result in pairs if isinstance(result, DuetError)]
    if len(errors) > MOST_FAILED * len(questions):
        raise TrainingError(
            f"{len(errors)} of {len(questions)} canary questions failed; the first: {errors[0]}"
        ) from errors[0]

    def grades(texts: list[str]) -> list[float]:
        attempts = [
            Attempt(text, question.answer, question.text, question.columns)
            for (question, _), text in zip(answered, texts, strict=True)
        ]
        return [grade.score for grade in grader.grade(attempts)]

    guided = await asyncio.to_thread(grades, [result[0] for _, result in answered])
    alone = await asyncio.to_thread(grades, [result[1] for _, result in answered])
    return Utility(
        questions=len(answered),
        failed=len(errors),
        guided=share_interval(sum(guided), len(answered)),
        alone=share_interval(sum(alone), len(answered)),
        utility=difference_interval(guided, alone),
        signal_tokens=statistics.fmean(result[2] for _, result in answered),
        recorded=recorded,
    )
