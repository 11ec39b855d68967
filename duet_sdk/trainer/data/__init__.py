"""Questions to train on: checked, freed of copies and leaks, and in one order on all processes."""

from duet_sdk.trainer.data.ahead import grader_problem, questions_ahead
from duet_sdk.trainer.data.overlap import Leak, find_leaks
from duet_sdk.trainer.data.prepare import DataReport, Prepared, prepare
from duet_sdk.trainer.data.ranks import check_same_on_all_ranks

__all__ = [
    "DataReport",
    "Leak",
    "Prepared",
    "check_same_on_all_ranks",
    "find_leaks",
    "grader_problem",
    "prepare",
    "questions_ahead",
]
