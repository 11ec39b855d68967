"""What a grader gets and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Attempt:
    r"""One answer to grade.

    >>> Attempt("It is \\boxed{17}.", "17").reference
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
    """What went wrong in the grader itself, None where nothing did; holds no text of the answer."""


class ReferenceReader(Protocol):
    """Says which right answers it could not compare anything with."""

    name: str

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of the references that this grader cannot read: no answer could ever match them."""
        ...


class Grader(ReferenceReader, Protocol):
    """Grades answers; the same ones always alike, whoever wrote them."""

    def grade(self, attempts: Sequence[Attempt]) -> list[Grade]:
        """One grade for each attempt, in their order; never raises for an answer that is odd."""
        ...

    def close(self) -> None:
        """Let go of what it holds; harmless when done twice."""
        ...
