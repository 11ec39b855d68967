"""Batches of samples from a model in this process, outside of GRPO: warm-up, proposals, evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel


_MOST_SAMPLES = 256
"""Drawn at once: more no longer makes a GPU faster, and short prompts would else be drawn in one huge batch."""
_MOST_TOKENS = 131_072
"""Of prompts and samples drawn at once: 18 GiB of cache for a model of 4 B weights (144 KiB a token)."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How samples are drawn."""

    max_new_tokens: int
    """Most tokens of a sample."""
    ends: frozenset[int]
    """Tokens that end one; the last token of a sample that was not cut."""
    temperature: float = 0.0
    """0 takes the likeliest token."""


@torch.inference_mode()
def sample(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], decoding: Decoding, *, pad_id: int, seed: int = 0
) -> list[list[int]]:
    """One sample for each prompt, its end token included; the same for the same seed, model and prompts.

    The process's own random state is left as it was.
    """
    found: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for places in _batches([len(prompt) for prompt in prompts], decoding.max_new_tokens):
                written = _generate(model, [prompts[at] for at in places], decoding, pad_id)
                for at, ids in zip(places, written, strict=True):
                    found[at] = ids
    finally:
        model.train(training)
    return found


def _batches(lengths: Sequence[int], new: int) -> Iterator[list[int]]:
    """Places of prompts of similar length, to pad little; as many as memory holds with ``new`` tokens each."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        full = len(batch) == _MOST_SAMPLES or (len(batch) + 1) * (lengths[at] + new) > _MOST_TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], decoding: Decoding, pad_id: int
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    how: dict[str, object] = {"do_sample": False}
    if decoding.temperature > 0:
        how = {"do_sample": True, "temperature": decoding.temperature, "top_p": 1.0, "top_k": 0}
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=sorted(decoding.ends),
        pad_token_id=pad_id,
        **how,
    )
    rows = model.generate(  # type: ignore[operator]
        ids, attention_mask=mask, generation_config=config
    )[:, width:].tolist()
    return [_up_to_end(row, decoding.ends) for row in rows]


def _up_to_end(row: list[int], ends: frozenset[int]) -> list[int]:
    for at, token in enumerate(row):
        if token in ends:
            return row[: at + 1]
    return row
