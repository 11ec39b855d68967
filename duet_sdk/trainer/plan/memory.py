"""Where a GPU's memory goes, as formulae of shapes and settings.

For each number that is trained: its weight (4 bytes in float32, 2 in bfloat16), its gradient (as its weight), and
AdamW's two moments (8 bytes; 2 with 8-bit states). For each number that is not: its weight alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from duet_sdk.trainer.config import Model, TrainConfig, Vllm
from duet_sdk.trainer.plan.arithmetic import PolicyBatches
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.lengths import longest_prompts
from duet_sdk.trainer.plan.shape import ModelShape

RESERVE_GB = 3.0
"""CUDA's context, NCCL's buffers and fragments of the allocator; what is seen on H100s lies between 2 and 4."""
_LAYER_BYTES = 34
"""Bytes of a layer's activations a token and hidden unit, with attention that stores no matrix.
Source: arXiv 2205.05198, equation 2, without its quadratic term."""
_SERVER_SHARE = 0.9
"""Share of its GPUs that ``trl vllm-serve`` takes by default."""
_SCORE_BYTES = 16
"""Bytes of a word's score while a token is drawn: in four bytes as it is, sorted, as probability, and as their sum."""
_TILE_TOKENS, _TILE_WORDS = 4096, 32_768
"""TRL never holds all logits: it makes log-probabilities from tiles of so many tokens and words (as of its 1.16)."""


When: TypeAlias = Literal["always", "training", "sampling", "both"]
"""When something is held: ``both`` while its policy trains and while it samples, but not while the other one does."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory that one thing takes on each training GPU."""

    stage: str
    """``reasoner``, ``generator``, or ``both``."""
    name: str
    gb: float
    """In 10⁹ bytes."""
    how: str
    """The formula with its numbers."""
    when: When = "always"
    """A policy samples before it trains, and the other waits meanwhile."""


def stage_memory(
    stage: str, config: TrainConfig, shape: ModelShape, batch: PolicyBatches, hardware: Hardware
) -> list[MemoryUse]:
    """All that a policy holds on a training GPU."""
    part, prompt = getattr(config, stage), longest_prompts(config)[stage]
    mixed = config.training.precision != "float32"
    return [
        *policy_states(stage, part, shape, hardware),
        *rollouts(stage, part, shape, batch, prompt_tokens=prompt, width=2 if mixed else 4, hardware=hardware),
        *activations(stage, part, shape, batch, prompt_tokens=prompt, mixed=mixed, sharded=hardware.sharded),
    ]


def peak(parts: Sequence[MemoryUse]) -> float:
    """Most that is held at once, in 10⁹ bytes: what is always there, and the largest of what is not.

    >>> peak([MemoryUse("generator", "weights", 3, ""), MemoryUse("generator", "activations", 2, "", "training")])
    5.0
    """
    return held(parts) + max(
        (passing(parts, stage, when) for stage in ("reasoner", "generator") for when in ("training", "sampling")),
        default=0.0,
    )


def held(parts: Sequence[MemoryUse]) -> float:
    """What is there all the time, in 10⁹ bytes."""
    return float(sum(part.gb for part in parts if part.when == "always"))


def passing(parts: Sequence[MemoryUse], stage: str, when: Literal["training", "sampling"]) -> float:
    """What is there only while this policy trains, or samples, in 10⁹ bytes."""
    return float(sum(part.gb for part in parts if part.stage == stage and part.when in (when, "both")))


def policy_states(stage: str, part: Model, shape: ModelShape, hardware: Hardware) -> list[MemoryUse]:
    """Weights, gradients and optimizer of a policy."""
    base = shape.parameters
    weight_bytes = 4 if part.weights == "float32" else 2
    adapter = shape.adapter_parameters(part.lora.r) if part.lora is not None else 0
    trained = adapter or base
    adam_bytes = 2 if "8bit" in part.optimizer else 8
    shards = hardware.processes if hardware.sharded else 1
    over = f" / {shards} processes" if shards > 1 else ""
    size = f"{base / 1e9:.2f} B"
    rows = [MemoryUse(stage, "weights", base * weight_bytes / shards / 1e9, f"{size} × {weight_bytes} bytes{over}")]
    if adapter:
        size = f"{adapter / 1e9:.3f} B"
        rows.append(MemoryUse(stage, "adapter", adapter * 4 / shards / 1e9, f"{size} × 4 bytes{over}"))
    # Freed after each update, before the other policy's turn.
    rows.append(MemoryUse(stage, "gradients", trained * 4 / shards / 1e9, f"{size} × 4 bytes{over}", "training"))
    rows.append(MemoryUse(stage, "Adam", trained * adam_bytes / shards / 1e9, f"{size} × {adam_bytes} bytes{over}"))
    if part.kl > 0 and not adapter:
        gb = base * weight_bytes / shards / 1e9
        rows.append(MemoryUse(stage, "starting model", gb, f"for kl: {size} × {weight_bytes}{over}"))
    return rows


def activations(
    stage: str,
    part: Model,
    shape: ModelShape,
    batch: PolicyBatches,
    *,
    prompt_tokens: int,
    mixed: bool,
    sharded: bool,
) -> list[MemoryUse]:
    """What one forward and backward pass holds, at the longest sequences.

    Args:
        stage: the policy.
        part: how it is trained.
        shape: its sizes.
        batch: its share of a round.
        prompt_tokens: of its longest prompt.
        mixed: whether it computes in two bytes.
        sharded: whether its weights are spread over the processes and gathered layer by layer (FSDP2).
    """
    tokens = batch.per_device * (prompt_tokens + part.max_new_tokens)
    inner = shape.hidden * _LAYER_BYTES
    if part.gradient_checkpointing:
        kept, how = shape.layers * shape.hidden * 2 + inner, f"{shape.layers} layers × 2 bytes + one whole"
    else:
        kept, how = shape.layers * inner, f"{shape.layers} layers × {_LAYER_BYTES} bytes"
    how_much = f"{tokens} tokens × {shape.hidden} × ({how})"
    rows = [
        MemoryUse(stage, "activations", tokens * kept / 1e9, how_much, "training"),
        _logits(stage, part, shape, batch, width=2 if mixed else 4),
    ]
    if mixed and (part.weights == "float32" or sharded):
        copied, what = (shape.vocabulary * shape.hidden, "embeddings") if sharded else (shape.parameters, "weights")
        how = f"{copied / 1e9:.2f} B × 2 bytes, to compute with"
        samples_here = part.vllm is None
        rows.append(
            MemoryUse(stage, f"copies of {what}", copied * 2 / 1e9, how, "both" if samples_here else "training")
        )
    return rows


def _logits(stage: str, part: Model, shape: ModelShape, batch: PolicyBatches, *, width: int) -> MemoryUse:
    """A tile of logits, the gradient of what they are made from, and that of the head where it is trained."""
    scored = batch.per_device * part.max_new_tokens
    tokens, words = min(scored, _TILE_TOKENS), min(shape.vocabulary, _TILE_WORDS)
    size = tokens * words * width + scored * shape.hidden * (4 + width)
    how = f"a tile of {tokens} × {words} × {width} bytes, {scored} × {shape.hidden} × {4 + width}"
    if part.lora is None:
        size += shape.vocabulary * shape.hidden * 4
        how += f", {shape.vocabulary} × {shape.hidden} × 4 for the head's gradient"
    return MemoryUse(stage, "logits", size / 1e9, how, "training")


def rollouts(
    stage: str,
    part: Model,
    shape: ModelShape,
    batch: PolicyBatches,
    *,
    prompt_tokens: int,
    width: int,
    hardware: Hardware,
) -> list[MemoryUse]:
    """What sampling holds on a training GPU, with so many bytes for a number."""
    if part.vllm is not None and part.vllm.mode == "server":
        return []
    if part.vllm is not None:
        share = part.vllm.gpu_memory_utilization
        return [MemoryUse(stage, "vLLM", share * hardware.gpu_gb, f"{share:g} × {hardware.gpu_gb:g} GB")]
    length, kept = prompt_tokens + part.max_new_tokens, shape.kv_bytes * width // 2
    samples = batch.sampled_at_once
    how = f"{samples} samples × {length} tokens × {kept / 1024:.3g} KiB"
    scores = samples * shape.vocabulary * _SCORE_BYTES
    return [
        MemoryUse(stage, "keys and values", samples * length * kept / 1e9, how, "sampling"),
        MemoryUse(stage, "scores", scores / 1e9, f"{samples} × {shape.vocabulary} × {_SCORE_BYTES} bytes", "sampling"),
    ]


def engine_problem(stage: str, part: Model, shape: ModelShape, *, longest: int, gpu_gb: float) -> str | None:
    """Why a vLLM engine could not hold its weights and one sequence of the longest; None where it can."""
    if part.vllm is None:
        return None
    share = _SERVER_SHARE if part.vllm.mode == "server" else part.vllm.gpu_memory_utilization
    room = share * gpu_gb * part.vllm.tensor_parallel_size
    length = part.vllm.max_model_length or longest
    weights, cache = _engine_gb(shape, length)
    if weights + cache > room:
        return (
            f"the {stage}'s vLLM has {room:.1f} GB and needs {weights:.1f} for weights and {cache:.1f} for one "
            f"sequence of {length} tokens; set {_engine_fit(stage, part.vllm, shape, longest, gpu_gb)}"
        )
    return None


def least_engine_share(vllm: Vllm, shape: ModelShape, *, length: int, gpu_gb: float) -> float:
    """The least ``gpu_memory_utilization`` that holds a colocated engine's weights and one sequence of that length.

    In hundredths; above 1 where no card of that size does.
    """
    return math.ceil(sum(_engine_gb(shape, length)) / gpu_gb / vllm.tensor_parallel_size * 100) / 100


def _engine_gb(shape: ModelShape, length: int) -> tuple[float, float]:
    """Weights, and the cache of one sequence."""
    return shape.parameters * 2 / 1e9, length * shape.kv_bytes / 1e9


def _engine_fit(stage: str, vllm: Vllm, shape: ModelShape, longest: int, gpu_gb: float) -> str:
    length = max(longest, vllm.max_model_length or 0)
    share = least_engine_share(vllm, shape, length=length, gpu_gb=gpu_gb)
    if vllm.mode == "colocate" and share < 1:
        return f"{stage}.vllm.gpu_memory_utilization={share:g}"
    return f"{stage}.vllm.tensor_parallel_size={math.ceil(share * vllm.tensor_parallel_size / _SERVER_SHARE)}"
