"""A question with its right answer, and what grades answers to questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from duet_sdk.types import Message


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the data.

    >>> from duet_sdk.types import Message
    >>> Question((Message("user", "2+2?"),), "4").text
    '2+2?'
    """

    messages: tuple[Message, ...]
    """The conversation, a user's message last."""
    answer: str
    """The right answer, as the grader reads it."""
    source: str = ""
    """File and line, or data set and row."""
    columns: Mapping[str, JsonValue] = field(default_factory=dict)
    """The other columns of its row, for graders."""

    @property
    def text(self) -> str:
        """The last message's text."""
        return self.messages[-1].text


class QuestionGrader(Protocol):
    """Grades answers to questions; by one rule with and without a signal, or the difference says nothing.

    `duet_sdk.evaluation.grading.CountingGrader` makes one of a grader of texts.
    """

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        """A grade in [0, 1] for each answer; 0 where it cannot be read or grading took too long."""
