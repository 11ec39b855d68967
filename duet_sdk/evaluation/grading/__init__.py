"""Graders: how right an answer is, within a time limit, by one rule for guided and alone answers.

A grader that hangs, fails or gives no usable score makes its answer count as wrong, and says so; past a share of such
answers `Checked` ends the run. Graders that could hang run in a process of their own, which is killed at the limit.
"""

from duet_sdk.evaluation.grading.checked import Checked, GradingCounts
from duet_sdk.evaluation.grading.find import find_grader
from duet_sdk.evaluation.grading.plain import Exact, MultipleChoice
from duet_sdk.evaluation.grading.protocol import Attempt, Grade, Grader, ReferenceReader

__all__ = [
    "Attempt",
    "Checked",
    "Exact",
    "Grade",
    "Grader",
    "GradingCounts",
    "MultipleChoice",
    "ReferenceReader",
    "find_grader",
]
