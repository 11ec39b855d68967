"""A run's batches, fitted to the machine that it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from duet_sdk.environment import variable
from duet_sdk.errors import TrainingError
from duet_sdk.trainer.plan import Hardware, find_shape
from duet_sdk.trainer.plan.fit import fitted

if TYPE_CHECKING:
    from duet_sdk.trainer.build import Start
    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.plan import ModelShape


def for_this_machine(config: TrainConfig, start: Start, *, processes: int) -> TrainConfig:
    """The configuration with a number wherever ``auto`` stood, the same on all processes of machines that are alike."""
    shapes = {"reasoner": _shape(str(start.reasoner)), "generator": _shape(str(start.generator))}
    return fitted(config, shapes, _hardware(config, processes))


def _hardware(config: TrainConfig, processes: int) -> Hardware:
    """What each process has, as a plan takes it."""
    sharded = bool(config.training.fsdp) or (variable("ACCELERATE_USE_FSDP") or "").lower() == "true"
    if torch.cuda.is_available() and not config.training.use_cpu:
        cards = [torch.cuda.get_device_properties(at).total_memory for at in range(torch.cuda.device_count())]
        return Hardware(gpus=processes, gpu_gb=min(cards) / 1e9, sharded=sharded)
    machine = Hardware.this_cpu()
    if processes == 1:
        return machine
    return Hardware(gpus=processes, gpu_gb=machine.to_fill_gb / processes, sharded=sharded)


def _shape(folder: str) -> ModelShape | None:
    try:
        return find_shape(folder)
    except TrainingError:  # another kind of decoder: it can be trained, and its memory is not known
        return None
