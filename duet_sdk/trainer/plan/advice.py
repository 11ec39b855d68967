"""Which values would fit, where a plan does not: each is tried on the plan itself before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from duet_sdk.trainer.config import Lora, Model, TrainConfig, Vllm
from duet_sdk.trainer.plan.arithmetic import batches
from duet_sdk.trainer.plan.fit import fitted
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.lengths import longest_prompts
from duet_sdk.trainer.plan.memory import (
    RESERVE_GB,
    MemoryUse,
    least_engine_share,
    peak,
    stage_memory,
)
from duet_sdk.trainer.plan.shape import ModelShape

_STAGES = ("reasoner", "generator")
_STEP_TOKENS = 64
"""Limits that are proposed are multiples of it."""
_NAMED = 4
"""Most ways that one message names."""
_SIDE_BY_SIDE, _ENGINE_GB = 0.05, 2.0
"""Share of a card for an engine's further sequences and what it computes with, and the least of it in 10⁹ bytes."""


@dataclass(frozen=True, slots=True)
class Change:
    """Values for a policy's section that could make a run smaller."""

    stage: str
    values: Mapping[str, object]
    written: str
    """As on the command line."""

    def on(self, config: TrainConfig) -> TrainConfig:
        """The configuration with it."""
        part: Model = getattr(config, self.stage)
        return config.model_copy(update={self.stage: part.model_copy(update=dict(self.values))})


_Make: TypeAlias = Callable[[str, TrainConfig], Change | None]
"""Makes a change of a policy; None where there is nothing to change."""


def memory(config: TrainConfig, shapes: Mapping[str, ModelShape], hardware: Hardware) -> list[MemoryUse]:
    """Memory of each training GPU, by part."""
    made = batches(config, processes=hardware.processes)
    sized = {"reasoner": made.reasoner, "generator": made.generator}
    parts = [part for stage in _STAGES for part in stage_memory(stage, config, shapes[stage], sized[stage], hardware)]
    return [*parts, MemoryUse("both", "reserve", RESERVE_GB, "runtime, buffers, fragments")]


def what_fits(config: TrainConfig, shapes: Mapping[str, ModelShape], hardware: Hardware) -> str:
    """Values with which the run would fit, in words: each that does alone, else the fewest that do together.

    Those that leave a tenth of a GPU free come first; where there are none, those that fill it.

    Args:
        config: the run, as it was given.
        shapes: of both models, by stage.
        hardware: what it does not fit.
    """
    for most in (hardware.most_gb, hardware.gpu_gb):
        if (found := _within(most, config, shapes, hardware)) is not None:
            return found
    more = "FSDP2 over several GPUs (--gpus N --fsdp2), " if hardware.gpus else ""
    return f"no batch, adapter or shorter output makes it fit: take {more}a larger card or smaller models"


def _within(most: float, config: TrainConfig, shapes: Mapping[str, ModelShape], hardware: Hardware) -> str | None:
    """As `what_fits`, in so many 10⁹ bytes; None where nothing does."""

    def fits(tried: TrainConfig) -> bool:
        return peak(memory(fitted(tried, shapes, hardware), shapes, hardware)) <= most

    engine = _smaller_engine(shapes, hardware)
    alone = [change for change in _changes(config, fits, engine) if fits(change.on(config))]
    if alone:
        return "it fits with " + ", or with ".join(
            _numbered(change, config, shapes, hardware) for change in alone[:_NAMED]
        )
    taken: list[str] = []
    for change in _changes(config, lambda _: False, engine):
        config = change.on(config)
        taken.append(change.written)
        if fits(config):
            return f"it fits with all of {' '.join(taken)}"
    return None


def _numbered(change: Change, config: TrainConfig, shapes: Mapping[str, ModelShape], hardware: Hardware) -> str:
    """A change with the numbers that ``auto`` stands for on this hardware, as a run there would choose them."""
    run = fitted(change.on(config), shapes, hardware)
    part: Model = getattr(run, change.stage)
    batch = getattr(batches(run, processes=hardware.processes), change.stage)
    written = change.written.replace("sampled_at_once=auto", f"sampled_at_once={part.sampled_at_once}")
    if "gradient_accumulation=auto" not in written:
        return written
    written = written.replace("gradient_accumulation=auto", f"gradient_accumulation={part.gradient_accumulation}")
    return f"{written} ({batch.per_device} {'sequence' if batch.per_device == 1 else 'sequences'} a pass)"


def _changes(config: TrainConfig, fits: Callable[[TrainConfig], bool], engine: _Make) -> Iterator[Change]:
    """Changes from those that cost nothing to those that change what is trained."""
    for make in (_small_batches, _checkpointing, _small_samples, engine, _shorter(fits), _adapter):
        for stage in _STAGES:
            change = make(stage, config)
            if change is not None:
                yield change


def _small_batches(stage: str, config: TrainConfig) -> Change | None:
    part: Model = getattr(config, stage)
    if part.gradient_accumulation is None:
        return None
    return Change(stage, {"gradient_accumulation": None}, f"{stage}.gradient_accumulation=auto")


def _checkpointing(stage: str, config: TrainConfig) -> Change | None:
    part: Model = getattr(config, stage)
    if part.gradient_checkpointing:
        return None
    values = {"gradient_checkpointing": True, "gradient_accumulation": None}
    return Change(stage, values, f"{stage}.gradient_checkpointing=true {stage}.gradient_accumulation=auto")


def _small_samples(stage: str, config: TrainConfig) -> Change | None:
    part: Model = getattr(config, stage)
    if part.sampled_at_once is None or part.vllm is not None:
        return None
    return Change(stage, {"sampled_at_once": None}, f"{stage}.sampled_at_once=auto")


def engine_share(stage: str, config: TrainConfig, shape: ModelShape, hardware: Hardware) -> float:
    """Share of a card with which a colocated engine can do: a sequence of the longest, and some side by side."""
    part: Model = getattr(config, stage)
    length = longest_prompts(config)[stage] + part.max_new_tokens
    share = least_engine_share(part.vllm or Vllm(), shape, length=length, gpu_gb=hardware.gpu_gb)
    return round(share + max(_SIDE_BY_SIDE, _ENGINE_GB / hardware.gpu_gb), 2)


def _smaller_engine(shapes: Mapping[str, ModelShape], hardware: Hardware) -> _Make:
    """The least that a colocated engine can do with, and a little for sequences side by side."""

    def make(stage: str, config: TrainConfig) -> Change | None:
        part: Model = getattr(config, stage)
        if part.vllm is None or part.vllm.mode != "colocate":
            return None
        share = engine_share(stage, config, shapes[stage], hardware)
        if share >= part.vllm.gpu_memory_utilization:
            return None
        values = {
            "gpu_memory_utilization": share,
            "max_model_length": longest_prompts(config)[stage] + part.max_new_tokens,
        }
        written = " ".join(f"{stage}.vllm.{name}={value}" for name, value in values.items())
        return Change(stage, {"vllm": part.vllm.model_copy(update=values)}, written)

    return make


def _shorter(fits: Callable[[TrainConfig], bool]) -> _Make:
    """Lower limits of what a policy writes: the highest that fits, or a quarter where none does."""

    def make(stage: str, config: TrainConfig) -> Change | None:
        part: Model = getattr(config, stage)

        def to(tokens: int) -> Change:
            return Change(stage, {"max_new_tokens": tokens}, f"{stage}.max_new_tokens={tokens}")

        low, high = 1, (part.max_new_tokens - 1) // _STEP_TOKENS
        if high < 1:
            return None
        if not fits(to(_STEP_TOKENS).on(config)):
            return to(max(_STEP_TOKENS, part.max_new_tokens // 4))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(to(middle * _STEP_TOKENS).on(config)) else (low, middle - 1)
        return to(low * _STEP_TOKENS)

    return make


def _adapter(stage: str, config: TrainConfig) -> Change | None:
    part: Model = getattr(config, stage)
    if part.lora is not None and part.weights == "bfloat16":
        return None
    lora = part.lora or Lora()
    values = {"lora": lora, "weights": "bfloat16"}
    return Change(stage, values, f"'{stage}.lora={{r: {lora.r}}}' {stage}.weights=bfloat16")
