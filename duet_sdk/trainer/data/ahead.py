"""How many questions a run will train on, as far as this machine tells without a download."""

from __future__ import annotations

from pathlib import Path

from duet_sdk.evaluation.datasets import is_hub_set
from duet_sdk.trainer.config import Data
from duet_sdk.trainer.data.prepare import prepare


def questions_ahead(data: Data, *, seed: int) -> int | None:
    """The questions left to train on, read now; None for a data set of the hub, or a folder.

    Evaluation sets of the hub are not looked into, and prompts that are too long and references that the grader
    cannot read are not looked for, so a run can have fewer.

    Raises:
        TrainingError: as `prepare`.
    """
    if not is_file(data.train):
        return None
    known = {
        "leak_against": tuple(name for name in data.leak_against if is_file(name)),
        "validation": data.validation if data.validation is not None and is_file(data.validation) else None,
        "holdout": 0 if data.validation is not None else data.holdout,
    }
    return len(prepare(data.model_copy(update=known), seed=seed).train)


def is_file(name: str) -> bool:
    """Whether a set of questions is a file, and not a folder or a data set of the hub."""
    return not is_hub_set(name) and not Path(name.partition("#")[0]).expanduser().is_dir()
