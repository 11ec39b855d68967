"""A run that is under way, a line at a time."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from duet_sdk.trainer.config import TrainConfig


def batches_line(config: TrainConfig) -> str:
    """How each policy's round is split up, with the numbers that ``auto`` became.

    >>> from duet_sdk.trainer.files import checked
    >>> model = {"model": "./m", "gradient_accumulation": 4, "sampled_at_once": 64}
    >>> values = {"output": "x", "reasoner": model, "generator": model, "data": {"train": "q.jsonl"}}
    >>> batches_line(checked(values, "a test"))
    'updates in passes: reasoner 4, generator 4; sampled at once: reasoner 64, generator 64'
    """
    stages = {"reasoner": config.reasoner, "generator": config.generator}
    passes = ", ".join(f"{stage} {part.gradient_accumulation}" for stage, part in stages.items())
    sampled = ", ".join(f"{stage} {'by vLLM' if part.vllm else part.sampled_at_once}" for stage, part in stages.items())
    return f"updates in passes: {passes}; sampled at once: {sampled}"


def round_line(row: Mapping[str, JsonValue], rounds: int) -> str | None:
    """A row of measures or decisions in words; None for one that says nothing new.

    Args:
        row: as ``metrics.jsonl`` or ``decisions.jsonl`` has it.
        rounds: of the whole run.

    >>> round_line({"round": 3, "phase": "train", "guided": 0.75, "tokens_mean": 412.0}, 100)
    'round 3 of 100: 75 % right, 412 tokens a signal'
    >>> round_line({"round": 0, "phase": "validation", "guided": 0.5, "alone": 0.25, "tokens_mean": 9.5}, 100)
    'validation after round 0: 50 % right, 25 % without a signal, 9.5 tokens a signal'
    >>> round_line({"kind": "back", "what": "back to step 40"}, 100)
    'back: back to step 40'
    """
    if "kind" in row:
        return f"{row['kind']}: {row['what']}"
    guided, alone, tokens = (row.get(name) for name in ("guided", "alone", "tokens_mean"))
    if not isinstance(guided, float) or not isinstance(tokens, float):
        return None
    without = f", {alone:.0%} without a signal".replace("%", " %") if isinstance(alone, float) else ""
    where = f"round {row['round']} of {rounds}" if row["phase"] == "train" else f"validation after round {row['round']}"
    return f"{where}: {guided:.0%} right".replace("%", " %") + f"{without}, {tokens:.3g} tokens a signal"
