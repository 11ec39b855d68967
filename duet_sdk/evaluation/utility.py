"""What a pair is worth on questions held out: with the signal against without, on the same questions."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from duet_sdk.client import AsyncDuetClient
from duet_sdk.errors import DuetError, EvaluationError
from duet_sdk.evaluation.grading import CountingGrader, Grader
from duet_sdk.evaluation.intervals import Interval, difference_interval, share_interval
from duet_sdk.evaluation.question import Question
from duet_sdk.policies import Sampling
from duet_sdk.reply import Reply

CONCURRENT = 8
"""Questions asked at the same time: a server batches them, and a model in this process is not flooded."""
MOST_FAILED = 0.1
"""Share of questions that may fail, and of answers that the grader may fail on; past it too little is left."""


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
        """``worse``: the interval is below the recorded utility; ``none``: it reaches down to 0; else ``ok``."""
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

    A reasoner that chose to write nothing has given its signal: such an answer counts as guided.

    Args:
        client: the pair, without a signal cache.
        questions: held out from training.
        grader: grades the answers of both ways.
        recorded: the utility that training measured, taken as exact.
        seed: of both models' sampling, where they take one.
        tell: called with what is done and the share that is done.

    Raises:
        EvaluationError: there are no questions, or more than a tenth failed, or the grader failed on more than a tenth
            of the answers; names the first error.
    """
    if not questions:
        raise EvaluationError("there are no questions to measure on")
    results = await _ask_all(client, questions, seed=seed, tell=tell)
    _refuse_failures(results)
    answered = [
        (question, result)
        for question, result in zip(questions, results, strict=True)
        if not isinstance(result, DuetError)
    ]
    asked, pairs = [question for question, _ in answered], [result for _, result in answered]
    # Over the window of this measurement: a grader that fails on all of few answers must not give 0 against 0.
    counting = CountingGrader(grader, most_faults=MOST_FAILED, window=2 * len(asked))
    guided = await asyncio.to_thread(counting.grade, asked, [pair.guided for pair in pairs])
    alone = await asyncio.to_thread(counting.grade, asked, [pair.alone for pair in pairs])
    return Utility(
        questions=len(answered),
        failed=len(questions) - len(answered),
        guided=share_interval(sum(guided), len(answered)),
        alone=share_interval(sum(alone), len(answered)),
        utility=difference_interval(guided, alone),
        signal_tokens=statistics.fmean(pair.signal_tokens for pair in pairs),
        recorded=recorded,
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Both answers to a question."""

    guided: str
    alone: str
    signal_tokens: int


async def _ask_all(
    client: AsyncDuetClient,
    questions: Sequence[Question],
    *,
    seed: int,
    tell: Callable[[str, float], None] | None,
) -> list[_Answers | DuetError]:
    """What each question came to, in their order."""
    done, limit = 0, asyncio.Semaphore(CONCURRENT)

    async def ask(question: Question) -> _Answers | DuetError:
        nonlocal done
        async with limit:
            found = await _ask(client, question, seed)
        done += 1
        if tell is not None:
            tell("asking questions", done / len(questions))
        return found

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(question)) for question in questions]
    return [task.result() for task in asked]


async def _ask(client: AsyncDuetClient, question: Question, seed: int) -> _Answers | DuetError:
    """Both answers to one question, or why there are none."""
    try:
        # `seed` alone sets the stage that answers.
        guided = await client.chat(
            question.messages, mode="duet", gate="always", seed=seed, reasoner_params=Sampling(seed=seed)
        )
        alone = await client.chat(question.messages, mode="generator", seed=seed)
    except DuetError as error:
        return error
    if _said_nothing(guided):
        return _Answers("", alone.text, guided.usage.reasoner.output_tokens)
    if guided.served_by not in ("pair", "pair_cut") and not _was_silent(guided):
        return EvaluationError(f"an answer was served by {guided.served_by}, not by the pair")
    return _Answers(guided.text, alone.text, guided.usage.reasoner.output_tokens)


def _said_nothing(reply: Reply) -> bool:
    """Whether the generator ended without an answer: the pair's answer is then none, whoever stood in for it."""
    attempts = [attempt for attempt in reply.receipt.attempts if attempt.stage == "generator"]
    return bool(attempts) and all(attempt.error_type == "NoAnswer" for attempt in attempts)


def _was_silent(reply: Reply) -> bool:
    """Whether the reasoner was asked, ended by itself without a fault, and wrote no signal."""
    attempts = [attempt for attempt in reply.receipt.attempts if attempt.stage == "reasoner"]
    return (
        reply.served_by == "generator_fallback"
        and bool(attempts)
        and all(attempt.error_type is None for attempt in attempts)
        and not reply.signal.text
        and not reply.signal.truncated
    )


def _refuse_failures(results: Sequence[_Answers | DuetError]) -> None:
    """Refuse to measure a pair where more than a tenth of its questions failed.

    Raises:
        EvaluationError: they did.
    """
    errors = [result for result in results if isinstance(result, DuetError)]
    if len(errors) > MOST_FAILED * len(results):
        raise EvaluationError(f"{len(errors)} of {len(results)} questions failed; the first: {errors[0]}") from errors[
            0
        ]
