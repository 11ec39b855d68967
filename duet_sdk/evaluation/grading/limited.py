"""Graders that could hang, in processes of their own: math-verify, and users' functions by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.evaluation.grading.parts import grade_part, parts_of
from duet_sdk.evaluation.grading.process import GradingProcess
from duet_sdk.evaluation.grading.protocol import Attempt, Grade

DEFAULT_LIMIT_S = 5.0
MATH_MEMORY_MB = 4096
"""Address space of a process that compares formulas: ``10^(10^10)`` must not take the machine's."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class MathVerify:
    """Right where the final answer equals the reference as mathematics, by math-verify.

    Each answer has its own time limit. It works from any thread, which math-verify itself does not.

    Args:
        limit_s: seconds for one answer.
        processes: how many grade at the same time.

    Raises:
        MissingExtra: math-verify is not installed.
    """

    name = "math"

    def __init__(self, *, limit_s: float = DEFAULT_LIMIT_S, processes: int = 1) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtra("the grader 'math'", extra="train")
        order: dict[str, JsonValue] = {"kind": "math", "memory_mb": MATH_MEMORY_MB}
        self._limit_s = _checked(limit_s)
        self._pool = _Pool(lambda: GradingProcess(order, what="math-verify's process"), processes)

    def grade(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """Compare each final answer with its reference."""

        def one(process: GradingProcess, attempt: Attempt) -> Grade:
            asked: dict[str, JsonValue] = {"reference": attempt.reference, "answer": attempt.answer}
            return to_grade(process.ask(asked, limit_s=self._limit_s))

        return self._pool.run(one, attempts)

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of references that are no mathematics, or take too long to read."""

        def one(process: GradingProcess, reference: str) -> bool:
            reply = process.ask({"reference": reference}, limit_s=self._limit_s)
            return reply.get("fault") is None and reply.get("read") is True

        return [at for at, readable in enumerate(self._pool.run(one, references)) if not readable]

    def close(self) -> None:
        """Kill the processes."""
        self._pool.close()


class RewardFunction:
    """A user's function in TRL's reward signature, ``module:function``, in a process of its own.

    It is called as ``function(prompts=…, completions=…, **columns)``: prompts and completions are lists of chats
    (``[{"role": …, "content": …}]``), columns are those of the data set, and ``answer`` is the reference. It gives one
    number in [0, 1] for each, or None where an answer cannot be read. It may be ``async``. Token ids and the trainer's
    state are not passed on.

    It is called with up to eight answers at once, and ``limit_s`` for each of them; where that hangs or fails, it is
    called with each answer alone, so that only those which cause it count as wrong.

    Args:
        function: ``module:function``; the module is found as Python finds it.
        limit_s: seconds for one answer.
        processes: how many grade at the same time.
        beside: folder in which the module is looked for first.
    """

    def __init__(
        self, function: str, *, limit_s: float = DEFAULT_LIMIT_S, processes: int = 1, beside: Path | None = None
    ) -> None:
        self.name = function
        self._limit_s = _checked(limit_s)
        order: dict[str, JsonValue] = {
            "kind": "function",
            "function": function,
            "beside": str(beside) if beside else None,
        }
        self._pool = _Pool(lambda: GradingProcess(order, what=f"the grader {function!r}"), processes)

    def start(self) -> None:
        """Start a process and import the function, which the first grading would do otherwise.

        Raises:
            TrainingError: it cannot be imported, or is no function.
        """
        self._pool.start()

    def grade(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """The function's scores."""

        def one(process: GradingProcess, part: Sequence[Attempt]) -> list[Grade]:
            return grade_part(part, lambda some: self._ask(process, some))

        return [grade for part in self._pool.run(one, parts_of(attempts)) for grade in part]

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """Nobody but the function knows, so none."""
        return []

    def close(self) -> None:
        """Kill the processes."""
        self._pool.close()

    def _ask(self, process: GradingProcess, attempts: Sequence[Attempt]) -> list[Grade] | str:
        rows: list[JsonValue] = [
            {
                "question": attempt.question,
                "answer": attempt.answer,
                "columns": {**attempt.columns, "answer": attempt.reference},
            }
            for attempt in attempts
        ]
        reply = process.ask({"rows": rows}, limit_s=self._limit_s * len(attempts))
        grades = reply.get("grades")
        if not isinstance(grades, list):
            return str(reply.get("fault"))
        return [to_grade(one if isinstance(one, dict) else {}) for one in grades]


def to_grade(reply: dict[str, JsonValue]) -> Grade:
    """The grade in a worker's reply; whatever is no score in [0, 1] is a fault."""
    fault, score = reply.get("fault"), reply.get("score")
    if fault is not None:
        return Grade(0.0, read=False, fault=str(fault))
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
        kind = f"the score {score}" if isinstance(score, int | float) else f"a score of type {type(score).__name__}"
        return Grade(0.0, read=False, fault=f"{kind}, which is no number in [0, 1]")
    return Grade(float(score), read=reply.get("read") is not False)


class _Pool:
    """Some processes, each asked by one thread at a time."""

    def __init__(self, make: Callable[[], GradingProcess], size: int) -> None:
        if size < 1:
            raise ConfigError(f"a grader needs at least 1 process, got {size}")
        self._processes = [make() for _ in range(size)]

    def start(self) -> None:
        """Start the first process; the others start with their first work."""
        self._processes[0].start()

    def run(self, work: Callable[[GradingProcess, Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results in the order of the items."""
        size = min(len(self._processes), len(items)) or 1

        def share(start: int) -> list[Result]:
            return [work(self._processes[start], item) for item in items[start::size]]

        if size == 1:
            return share(0)
        with ThreadPoolExecutor(size) as threads:
            shares = list(threads.map(share, range(size)))
        return [shares[at % size][at // size] for at in range(len(items))]

    def close(self) -> None:
        for process in self._processes:
            process.close()


def _checked(limit_s: float) -> float:
    if not 0 < limit_s < math.inf:
        raise ConfigError(f"a grader's limit must be above 0 seconds and finite, got {limit_s}")
    return limit_s
