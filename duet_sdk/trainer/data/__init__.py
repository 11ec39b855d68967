"""Questions to train on: read, checked, freed of copies and leaks, and in one order on all processes."""

from duet_sdk.evaluation.datasets import is_hub_set, read_questions
from duet_sdk.evaluation.rows import fingerprint, question_of, shuffled
from duet_sdk.trainer.data.overlap import Leak, find_leaks
from duet_sdk.trainer.data.prepare import DataReport, Prepared, prepare
from duet_sdk.trainer.data.ranks import check_same_on_all_ranks

__all__ = [
    "DataReport",
    "Leak",
    "Prepared",
    "check_same_on_all_ranks",
    "find_leaks",
    "fingerprint",
    "is_hub_set",
    "prepare",
    "question_of",
    "read_questions",
    "shuffled",
]
