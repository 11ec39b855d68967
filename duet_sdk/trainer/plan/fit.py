"""Batch sizes that are left to ``auto``: the largest that fit the card, by the plan's own formulae."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from duet_sdk.trainer.config import Model, TrainConfig
from duet_sdk.trainer.plan.arithmetic import PolicyBatches, batches
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.memory import RESERVE_GB, MemoryUse, held, passing, stage_memory
from duet_sdk.trainer.plan.shape import ModelShape

_SAMPLED_UNSEEN = 16
"""Sampled at once by models whose sizes are not known: few, as nothing says what they take."""


def fitted(config: TrainConfig, shapes: Mapping[str, ModelShape | None], hardware: Hardware) -> TrainConfig:
    """The configuration with a number wherever ``auto`` stood; one that was given stays.

    Where nothing fits, or a model's sizes are not known, a pass has one sequence.

    Args:
        config: the run.
        shapes: of both models, by stage; None where it is not known.
        hardware: what it runs on.
    """
    made = batches(config, processes=hardware.processes)
    sized = {"reasoner": made.reasoner, "generator": made.generator}
    known = {stage: shape for stage, shape in shapes.items() if shape is not None}
    card = _Card(config, known, hardware, sized) if len(known) == len(shapes) else None
    changes: dict[str, Model] = {}
    for stage, batch in sized.items():
        part: Model = getattr(config, stage)
        passes, sampled = part.gradient_accumulation, part.sampled_at_once
        if passes is None:
            passes = card.passes(stage) if card else batch.passes
        if sampled is None:
            sampled = card.sampled(stage) if card else min(batch.samples_per_process, _SAMPLED_UNSEEN)
        changes[stage] = part.model_copy(update={"gradient_accumulation": passes, "sampled_at_once": sampled})
    return config.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class _Card:
    """A card, or a machine, that both policies are to share."""

    config: TrainConfig
    shapes: Mapping[str, ModelShape]
    hardware: Hardware
    sized: Mapping[str, PolicyBatches]

    def passes(self, stage: str) -> int:
        """The fewest passes of an update that fit."""
        batch = self.sized[stage]
        update = batch.per_device * batch.passes
        for passes in range(1, update):
            if update % passes == 0:
                tried = replace(batch, passes=passes, per_device=update // passes)
                if passing(self._memory(stage, tried), stage, "training") <= self._room:
                    return passes
        return update

    def sampled(self, stage: str) -> int:
        """The most sequences sampled at once that fit, in equal shares of a round's."""
        samples = self.sized[stage].samples_per_process
        for calls in range(1, samples):
            tried = replace(self.sized[stage], sampled_at_once=-(-samples // calls))
            if passing(self._memory(stage, tried), stage, "sampling") <= self._room:
                return tried.sampled_at_once
        return 1

    @property
    def _room(self) -> float:
        """What is left once both policies hold what they hold all the time, in 10⁹ bytes."""
        both = [part for stage, batch in self.sized.items() for part in self._memory(stage, batch)]
        return self.hardware.to_fill_gb - held(both) - RESERVE_GB

    def _memory(self, stage: str, batch: PolicyBatches) -> list[MemoryUse]:
        return stage_memory(stage, self.config, self.shapes[stage], batch, self.hardware)
