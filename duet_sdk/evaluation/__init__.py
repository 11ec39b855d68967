"""Questions, graders and intervals: what measures a pair, and what the trainer rewards by.

>>> from duet_sdk.evaluation import find_grader, question_of
>>> question = question_of({"prompt": "How many primes are below 60?", "answer": 17}, source="by hand")
>>> question.text, find_grader("exact").name
('How many primes are below 60?', 'exact')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duet_sdk.evaluation.datasets import read_questions
    from duet_sdk.evaluation.grading.base import Grade, Grader, Submission
    from duet_sdk.evaluation.grading.counted import CountingGrader
    from duet_sdk.evaluation.grading.find import find_grader
    from duet_sdk.evaluation.intervals import Interval, difference_interval, share_interval
    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.evaluation.rows import MissingColumn, question_of
    from duet_sdk.evaluation.utility import Utility, measure_utility

_HOME = {
    "CountingGrader": "grading.counted",
    "Grade": "grading.base",
    "Grader": "grading.base",
    "Interval": "intervals",
    "MissingColumn": "rows",
    "Question": "question",
    "QuestionGrader": "question",
    "Submission": "grading.base",
    "Utility": "utility",
    "difference_interval": "intervals",
    "find_grader": "grading.find",
    "measure_utility": "utility",
    "question_of": "rows",
    "read_questions": "datasets",
    "share_interval": "intervals",
}

__all__ = [
    "CountingGrader",
    "Grade",
    "Grader",
    "Interval",
    "MissingColumn",
    "Question",
    "QuestionGrader",
    "Submission",
    "Utility",
    "difference_interval",
    "find_grader",
    "measure_utility",
    "question_of",
    "read_questions",
    "share_interval",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use: a grading process loads a grader, and should not load the client for it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
