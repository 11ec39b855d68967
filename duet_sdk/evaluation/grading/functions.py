"""Users' functions in TRL's reward signature: by name in a process of their own, or as they are in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from typing_extensions import override

from duet_sdk.errors import EvaluationError
from duet_sdk.evaluation.grading.base import DEFAULT_LIMIT_S, Grade, Grader, Submission, to_grade
from duet_sdk.evaluation.grading.process import GradingPool, GradingProcess
from duet_sdk.evaluation.grading.reward_function import call

MOST_TOGETHER = 8
"""Answers in one call. A hang is noticed at the limit of all of them: with a whole round it would take hours."""
MOST_ABANDONED = 4
"""Threads that hang cannot be stopped; each keeps a core busy, so after a few of them grading ends."""


class RewardFunction(Grader):
    """A user's function in TRL's reward signature, ``module:function``, in a process of its own.

    It is called as ``function(prompts=…, completions=…, **columns)``: prompts and completions are lists of chats
    (``[{"role": …, "content": …}]``), columns are those of the data set, and ``answer`` is the reference. It returns
    one number in [0, 1] for each, or None if an answer cannot be read. It may be ``async``. Token ids and the trainer's
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
        order: dict[str, JsonValue] = {
            "kind": "function",
            "function": function,
            "beside": str(beside) if beside else None,
        }
        self._pool = GradingPool(order, what=f"the grader {function!r}", limit_s=limit_s, size=processes)

    def start(self) -> None:
        """Start a process and import the function, which the first grading would do otherwise.

        Raises:
            EvaluationError: it cannot be imported, or is not a function.
        """
        self._pool.start()

    @override
    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:

        def one(process: GradingProcess, part: Sequence[Submission]) -> list[Grade]:
            return _grade_part(part, lambda some: self._ask(process, some))

        return [grade for part in self._pool.run(one, _parts_of(submissions)) for grade in part]

    @override
    def unreadable(self, references: Sequence[str]) -> list[int]:
        return []

    @override
    def close(self) -> None:
        self._pool.close()

    def _ask(self, process: GradingProcess, submissions: Sequence[Submission]) -> list[Grade] | str:
        rows: list[JsonValue] = [*_rows_of(submissions)]
        reply = process.ask({"rows": rows}, limit_s=self._pool.limit_s * len(submissions))
        grades = reply.get("grades")
        if not isinstance(grades, list):
            return str(reply.get("fault"))
        return [to_grade(one if isinstance(one, dict) else {}) for one in grades]


class CalledFunction(Grader):
    """A function that no other process could import (a lambda, or one of the running script), called in a thread.

    Prefer one by name (`RewardFunction`), which runs in a process that can be killed: a thread that hangs stays.

    Args:
        function: see `RewardFunction`.
        limit_s: seconds for one answer.
    """

    def __init__(self, function: Callable[..., Any], *, limit_s: float = DEFAULT_LIMIT_S) -> None:
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._limit_s = limit_s
        self._abandoned = 0

    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:
        """The function's scores.

        Raises:
            EvaluationError: it hung several times.
        """
        return [grade for part in _parts_of(submissions) for grade in _grade_part(part, self._within_limit)]

    @override
    def unreadable(self, references: Sequence[str]) -> list[int]:
        return []

    def close(self) -> None:
        """Nothing to do: a thread cannot be stopped."""

    def _within_limit(self, submissions: Sequence[Submission]) -> list[Grade] | str:
        """The grades, or what went wrong."""
        outcome: list[list[Grade] | str] = []

        def work() -> None:
            try:
                outcome.append([_graded(score) for score in call(self._function, _rows_of(submissions))])
            except Exception as error:  # noqa: BLE001 - the user's code: whatever it is, its answer counts as wrong
                outcome.append(type(error).__name__)

        thread = threading.Thread(target=work, name=f"grader {self.name}", daemon=True)
        thread.start()
        thread.join(self._limit_s * len(submissions))
        if outcome:
            return outcome[0]
        self._abandoned += 1
        if self._abandoned > MOST_ABANDONED:
            raise EvaluationError(
                f"the grader {self.name!r} hung {self._abandoned} times, and its threads cannot be stopped; name it as "
                "'module:function', so that it runs in a process that can"
            )
        return f"no grade within {self._limit_s * len(submissions):g} s"


def _rows_of(submissions: Sequence[Submission]) -> list[dict[str, JsonValue]]:
    """As `duet_sdk.evaluation.grading.reward_function.call` takes them."""
    return [
        {"question": one.question, "answer": one.answer, "columns": {**one.columns, "answer": one.reference}}
        for one in submissions
    ]


def _parts_of(submissions: Sequence[Submission]) -> list[Sequence[Submission]]:
    """The submissions in their order, at most `MOST_TOGETHER` in a part."""
    return [submissions[at : at + MOST_TOGETHER] for at in range(0, len(submissions), MOST_TOGETHER)]


def _grade_part(part: Sequence[Submission], ask: Callable[[Sequence[Submission]], list[Grade] | str]) -> list[Grade]:
    """The grades of a part; where it fails as a whole, only those that cause it count as wrong.

    Args:
        part: at least one submission.
        ask: gives a grade for each, or what went wrong.
    """
    found = ask(part)
    if not isinstance(found, str):
        return found
    if len(part) == 1:
        return [Grade(0.0, read=False, fault=found)]
    return [grade for submission in part for grade in _grade_part([submission], ask)]


def _graded(score: object) -> Grade:
    if score is None:
        return Grade(0.0, read=False)
    return to_grade({"score": _number(score)})


def _number(score: object) -> Any:
    try:
        return float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(type(score))
