"""A pair of tiny models with random weights, and runs of a few rounds on it."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# pytest puts tests/ on the path for its conftest.py, where TRL takes the folder tests/vllm for the library.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent.parent]

import pytest
import torch
from toy_pair import family, models

from duet_sdk.evaluation.question import Question
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.files import checked
from duet_sdk.trainer.joint import JointTrainer


class Varied:
    """Grades by the letters of an answer, so that random models have groups with variance; counts what it graded."""

    def __init__(self) -> None:
        self.graded = 0

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        self.graded += len(answers)
        return [float(zlib.crc32(answer.encode()) % 2) for answer in answers]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``reasoner`` and ``generator`` with random weights."""
    folder = tmp_path_factory.mktemp("pair")
    models.save(folder / "reasoner", hidden=32, layers=1, seed=0)
    models.save(folder / "generator", hidden=32, layers=1, seed=1)
    return folder


@pytest.fixture(scope="session")
def questions() -> tuple[Question, ...]:
    """Short ones."""
    return tuple(one.question() for one in family.chains(3, 64, lengths=[0, 1]))


@pytest.fixture
def configure(pair: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes a configuration of a run of few rounds; sections given replace single values."""

    def make(**sections: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "reasoner": {"model": str(pair / "reasoner"), "learning_rate": 1e-3, "max_new_tokens": 8},
            "generator": {"model": str(pair / "generator"), "learning_rate": 1e-3, "max_new_tokens": 2},
            "data": {"train": "unused", "max_prompt_tokens": 64},
            "rollout": {"questions": 4, "signals": 2, "answers": 2, "mini_batches": 1},
            "training": {
                "rounds": 4,
                "precision": "float32",
                "use_cpu": True,
                "save_every": 2,
                "validate_every": 0,
            },
            "guard": {"enabled": False},
        }
        for name, given in sections.items():
            values[name] = {**values[name], **given} if isinstance(given, dict) and name in values else given
        return checked(values, "a test")

    return make


@pytest.fixture
def trainer(questions: tuple[Question, ...]) -> Callable[[TrainConfig], JointTrainer]:
    """Makes the trainer of a configuration."""

    def make(config: TrainConfig) -> JointTrainer:
        return JointTrainer(config, questions=questions, validation=questions[:8], grader=Varied())

    return make


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All weights in one row."""
    return torch.cat([value.detach().flatten() for _, value in sorted(model.state_dict().items())])
