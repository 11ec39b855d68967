"""What a trial of a run takes over from the checkpoint that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from duet_sdk.trainer.callbacks import Monitor
from duet_sdk.trainer.checkpoints import Checkpoints
from duet_sdk.trainer.collapse import CollapseState
from duet_sdk.trainer.config import ScheduleName, TrainConfig
from duet_sdk.trainer.journal import Journal
from duet_sdk.trainer.schedule import ScheduleState


def restored(folder: Path, schedule: ScheduleName, *, lam: float, saved_at: int, gentler: int) -> float:
    """Lambda of a trial so gentle, from a checkpoint saved with ``lam`` in one of gentleness ``saved_at``."""
    config = TrainConfig.model_validate(
        {
            "output": folder,
            "reasoner": {"model": "big"},
            "generator": {"model": "small"},
            "data": {"train": "questions.jsonl"},
            "objective": {"reward": "additive", "schedule": schedule, "lam": 0.4, "lam_max": 0.5},
            "guard": {"gentler": 0.5},
        }
    )
    monitor = Monitor(config, config.objective, Journal(folder), Checkpoints(folder), gentler=gentler)
    monitor.restore(
        {
            "round": 3,
            "schedule": ScheduleState(lam).to_json(),
            "guard": CollapseState().to_json(),
            "gentler": saved_at,
        }
    )
    return monitor.lam


def test_lambda_is_softened_as_often_as_the_run_went_back_since_the_checkpoint(tmp_path: Path) -> None:
    assert restored(tmp_path, "guarded", lam=0.4, saved_at=0, gentler=1) == 0.2
    assert restored(tmp_path, "guarded", lam=0.4, saved_at=0, gentler=2) == 0.1
    assert restored(tmp_path, "guarded", lam=0.2, saved_at=1, gentler=2) == 0.1


def test_a_plain_resumption_takes_lambda_as_it_was_also_a_constant_one_above_the_bound(tmp_path: Path) -> None:
    assert restored(tmp_path, "guarded", lam=0.4, saved_at=1, gentler=1) == 0.4
    assert restored(tmp_path, "constant", lam=0.9, saved_at=0, gentler=0) == 0.9
