"""How many questions a run will train on, as far as this machine tells without a download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duet_sdk.errors import DuetError, TrainingError
from duet_sdk.evaluation.datasets import is_hub_set
from duet_sdk.evaluation.grading import find_grader
from duet_sdk.evaluation.question import Question
from duet_sdk.trainer.config import Data
from duet_sdk.trainer.data.prepare import CountTokens, prepare


def questions_ahead(data: Data, *, seed: int, count_tokens: CountTokens | None = None) -> int | None:
    """The questions left to train on, read now; None for a data set of the hub, or a folder.

    Evaluation sets of the hub are not looked into, and references that the grader cannot read are not looked for; of
    prompts, it is only seen whether all are too long. So a run can have fewer.

    Args:
        data: the section ``data`` of the run.
        seed: the run's.
        count_tokens: as of `prepare`; None counts words, of which each has a token at least.

    Raises:
        TrainingError: as `prepare`, or every prompt is too long.
    """
    if not is_file(data.train):
        return None
    known = {
        "leak_against": tuple(name for name in data.leak_against if is_file(name)),
        "validation": data.validation if data.validation is not None and is_file(data.validation) else None,
        "holdout": 0 if data.validation is not None else data.holdout,
    }
    questions = prepare(data.model_copy(update=known), seed=seed).train
    _check_lengths(questions, data, count_tokens or _count_words)
    return len(questions)


def grader_problem(data: Data, *, beside: Path) -> str | None:
    """Why a grader of your own cannot be started, found by importing its module in a process of its own.

    Args:
        data: the section ``data`` of the run.
        beside: folder in which the module is looked for first.
    """
    grading = data.grading
    if ":" not in grading.grader:
        return None
    try:
        find_grader(grading.grader, limit_s=grading.timeout_s, beside=beside).close()
    except DuetError as err:
        return f"data.grading.grader: {err}; its module is looked for in {beside}, then as Python does"
    return None


def _check_lengths(questions: Sequence[Question], data: Data, count: CountTokens) -> None:
    """Refuse a limit that no prompt keeps, by the question of the fewest characters."""
    if not questions:
        return
    ordered = sorted(questions, key=lambda question: len(question.text))
    least, most = count(ordered[0]), count(ordered[-1])
    if least > data.max_prompt_tokens:
        raise TrainingError(
            f"data.max_prompt_tokens is {data.max_prompt_tokens}, and the shortest question of {data.train} makes a "
            f"prompt of {least} tokens at least: none would be left; the longest has {most} at least"
        )


def _count_words(question: Question) -> int:
    return len(question.text.split())


def is_file(name: str) -> bool:
    """Whether a set of questions is a file, and not a folder or a data set of the hub."""
    return not is_hub_set(name) and not Path(name.partition("#")[0]).expanduser().is_dir()
