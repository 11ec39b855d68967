"""A user's function that no other process could import: a lambda, or one of the running script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from duet_sdk.errors import TrainingError
from duet_sdk.evaluation.grading.limited import DEFAULT_LIMIT_S, to_grade
from duet_sdk.evaluation.grading.parts import grade_part, parts_of
from duet_sdk.evaluation.grading.protocol import Attempt, Grade
from duet_sdk.evaluation.grading.reward_function import call

MOST_ABANDONED = 4
"""Threads that hang cannot be stopped; each keeps a core busy, so after a few of them the run ends."""


class CalledFunction:
    """A function in TRL's reward signature, called in a thread of this process.

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

    def grade(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """The function's scores.

        Raises:
            TrainingError: it hung several times.
        """
        return [grade for part in parts_of(attempts) for grade in grade_part(part, self._within_limit)]

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """Nobody but the function knows, so none."""
        return []

    def close(self) -> None:
        """Nothing can be stopped."""

    def _within_limit(self, attempts: Sequence[Attempt]) -> list[Grade] | str:
        """The grades, or what went wrong."""
        rows: list[dict[str, Any]] = [
            {"question": one.question, "answer": one.answer, "columns": {**one.columns, "answer": one.reference}}
            for one in attempts
        ]
        outcome: list[list[Grade] | str] = []

        def work() -> None:
            try:
                outcome.append([_graded(score) for score in call(self._function, rows)])
            except Exception as error:  # noqa: BLE001 - the user's code: whatever it is, its answer counts as wrong
                outcome.append(type(error).__name__)

        thread = threading.Thread(target=work, name=f"grader {self.name}", daemon=True)
        thread.start()
        thread.join(self._limit_s * len(attempts))
        if outcome:
            return outcome[0]
        self._abandoned += 1
        if self._abandoned > MOST_ABANDONED:
            raise TrainingError(
                f"the grader {self.name!r} hung {self._abandoned} times, and its threads cannot be stopped; name it as "
                "'module:function', so that it runs in a process that can"
            )
        return f"no grade within {self._limit_s * len(attempts):g} s"


def _graded(score: object) -> Grade:
    if score is None:
        return Grade(0.0, read=False)
    return to_grade({"score": _number(score)})


def _number(score: object) -> Any:
    try:
        return float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(type(score))
