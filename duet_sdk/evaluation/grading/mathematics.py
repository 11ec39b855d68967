"""Answers compared as mathematics, by math-verify."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from pydantic import JsonValue
from typing_extensions import override

from duet_sdk.errors import MissingExtra
from duet_sdk.evaluation.grading.base import DEFAULT_LIMIT_S, Grade, Grader, Submission, to_grade
from duet_sdk.evaluation.grading.process import GradingPool, GradingProcess

MATH_MEMORY_MB = 4096
"""Address space of a process that compares formulas: ``10^(10^10)`` must not take the machine's."""


class MathVerify(Grader):
    """Right where the final answer equals the reference as mathematics, by math-verify.

    Each answer has its own time limit, in a process of its own. It works from any thread, which math-verify itself does
    not.

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
        self._pool = GradingPool(order, what="math-verify's process", limit_s=limit_s, size=processes)

    @override
    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:

        def one(process: GradingProcess, submission: Submission) -> Grade:
            asked: dict[str, JsonValue] = {"reference": submission.reference, "answer": submission.answer}
            return to_grade(process.ask(asked, limit_s=self._pool.limit_s))

        return self._pool.run(one, submissions)

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of references that are not mathematics, or take too long to read."""

        def one(process: GradingProcess, reference: str) -> bool:
            reply = process.ask({"reference": reference}, limit_s=self._pool.limit_s)
            return reply.get("fault") is None and reply.get("read") is True

        return [at for at, readable in enumerate(self._pool.run(one, references)) if not readable]

    @override
    def close(self) -> None:
        self._pool.close()
