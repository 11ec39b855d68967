"""Counts what a grader does, and stops grading where it fails too often."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from duet_sdk.errors import EvaluationError
from duet_sdk.evaluation.grading.base import Grade, Grader, Submission
from duet_sdk.evaluation.question import Question

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GradingCounts:
    """What a grader did since the counts were last taken.

    >>> GradingCounts(graded=8, unread=2, faults=0).unread_share
    0.25
    """

    graded: int
    unread: int
    """Answers in which no final answer was found."""
    faults: int
    """Answers that count as wrong because the grader hung, failed, or gave no score in [0, 1]."""

    @property
    def unread_share(self) -> float:
        """In [0, 1]; 0 where nothing was graded."""
        return self.unread / self.graded if self.graded else 0.0

    @property
    def fault_share(self) -> float:
        """In [0, 1]; 0 where nothing was graded."""
        return self.faults / self.graded if self.graded else 0.0


class CountingGrader:
    """Grades answers to questions by another grader, whose faults are logged, counted, and past a share an error.

    >>> from duet_sdk.evaluation.grading import Exact
    >>> from duet_sdk.types import Message
    >>> grader = CountingGrader(Exact())
    >>> grader.grade([Question((Message("user", "How many?"),), "17")] * 2, ["Answer: 17", ""])
    [1.0, 0.0]
    >>> grader.take_counts()
    GradingCounts(graded=2, unread=1, faults=0)

    Args:
        inner: the grader that does the work.
        most_faults: share of the last ``window`` answers that may be faults, in [0, 1].
        window: answers looked back on; the share is of so many from the start.
    """

    def __init__(self, inner: Grader, *, most_faults: float = 0.05, window: int = 256) -> None:
        self.name = inner.name
        self._inner = inner
        self._most_faults = most_faults
        self._recent: deque[bool] = deque(maxlen=window)
        self._counts: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        """A grade in [0, 1] for each answer to the question at its place; 0 where it could not be graded.

        Raises:
            EvaluationError: too many of the last answers could not be graded, or the inner grader lost some.
        """
        submissions = [
            Submission(answer, question.answer, question.text, question.columns)
            for question, answer in zip(questions, answers, strict=True)
        ]
        grades = self._inner.grade(submissions)
        if len(grades) != len(submissions):
            raise EvaluationError(
                f"the grader {self.name!r} returned {len(grades)} grades for {len(submissions)} answers; it must "
                "return one for each"
            )
        for grade in grades:
            self._note(grade)
        faults, window = sum(self._recent), self._recent.maxlen or 1
        if faults > self._most_faults * window:
            common = ", ".join(f"{kind} ({count} times)" for kind, count in self._kinds.most_common(3))
            raise EvaluationError(
                f"the grader {self.name!r} failed on {faults} of the last {len(self._recent)} answers, and "
                f"{self._most_faults:.0%} of {window} may fail: {common}; correct the grader, or raise its time limit"
            )
        return [grade.score for grade in grades]

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """As the inner grader says."""
        return self._inner.unreadable(references)

    def take_counts(self) -> GradingCounts:
        """The counts since they were last taken."""
        counts = GradingCounts(self._counts["graded"], self._counts["unread"], self._counts["faults"])
        self._counts.clear()
        return counts

    def close(self) -> None:
        """Close the inner grader."""
        self._inner.close()

    def _note(self, grade: Grade) -> None:
        self._recent.append(grade.fault is not None)
        self._counts["graded"] += 1
        if grade.fault is None:
            self._counts["unread"] += not grade.read
            return
        self._counts["faults"] += 1
        self._kinds[grade.fault] += 1
        # Each kind at its first time and then ever more rarely: a run grades millions of answers.
        if (times := self._kinds[grade.fault]) & (times - 1) == 0:
            _log.warning(
                "the grader %r failed and its answer counts as wrong: %s (%d so far)", self.name, grade.fault, times
            )
