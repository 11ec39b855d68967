"""Graders: how right an answer is, within a time limit, by one rule for guided and alone answers.

A grader that hangs, fails or returns no usable score makes its answer count as wrong, and says so; past a share of such
answers `CountingGrader` stops. Graders that could hang run in a process of their own, which is killed at the limit.
"""

from duet_sdk.evaluation.grading.base import Grade, Grader, ReferenceReader, Submission
from duet_sdk.evaluation.grading.counted import CountingGrader, GradingCounts
from duet_sdk.evaluation.grading.find import find_grader
from duet_sdk.evaluation.grading.plain import Exact, MultipleChoice

__all__ = [
    "CountingGrader",
    "Exact",
    "Grade",
    "Grader",
    "GradingCounts",
    "MultipleChoice",
    "ReferenceReader",
    "Submission",
    "find_grader",
]
