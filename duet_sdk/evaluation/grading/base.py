"""What a grader receives and returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

DEFAULT_LIMIT_S = 5.0
"""Seconds for one answer: math-verify takes milliseconds, and what has not ended by then is stuck."""


@dataclass(frozen=True, slots=True)
class Submission:
    r"""One answer to grade.

    >>> Submission("It is \\boxed{17}.", "17").reference
    '17'
    """

    answer: str
    """What the model wrote."""
    reference: str
    """The right answer, as the data set has it."""
    question: str = ""
    columns: Mapping[str, JsonValue] = field(default_factory=dict)
    """The other columns of the question's row, for graders that want more than the reference."""


@dataclass(frozen=True, slots=True)
class Grade:
    """How right one answer is.

    >>> Grade(1.0).read
    True
    """

    score: float
    """In [0, 1]; 0 where the answer could not be read or the grader failed."""
    read: bool = True
    """Whether the grader found an answer in the text; False is the model's doing and no fault."""
    fault: str | None = None
    """What went wrong in the grader itself, None if nothing did; holds no text of the answer."""


class ReferenceReader(Protocol):
    """Says which right answers it could not compare anything with."""

    name: str

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of the references that this grader cannot read: no answer could ever match them."""
        ...


class Grader(ReferenceReader, Protocol):
    """Grades answers; equal ones always get equal grades, whoever wrote them."""

    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:
        """One grade for each submission, in their order; never raises for an answer that is odd."""
        ...

    def close(self) -> None:
        """Let go of what it holds; safe to call twice."""
        ...


def to_grade(reply: Mapping[str, JsonValue]) -> Grade:
    """The grade in a worker's reply; anything but a score in [0, 1] is a fault."""
    fault, score = reply.get("fault"), reply.get("score")
    if fault is not None:
        return Grade(0.0, read=False, fault=str(fault))
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
        kind = f"a score of {score}" if isinstance(score, int | float) else f"a score of type {type(score).__name__}"
        return Grade(0.0, read=False, fault=f"{kind}; it must be a number in [0, 1]")
    return Grade(float(score), read=reply.get("read") is not False)
