"""How long prompts and outputs can become, and what holds them."""

from __future__ import annotations

from duet_sdk.trainer.config import Model, TrainConfig


def longest_prompts(config: TrainConfig) -> dict[str, int]:
    """Tokens of each policy's longest prompt; the generator reads question and signal."""
    question = config.data.max_prompt_tokens
    return {"reasoner": question, "generator": question + config.reasoner.max_new_tokens}


def length_problems(stage: str, config: TrainConfig, window: int | None, longest: int) -> list[str]:
    """Where a policy's longest sequence is too long for its model or its engine, and values with which it is not.

    Args:
        stage: the policy.
        config: the run.
        window: tokens that its model holds; None for any number.
        longest: of prompt and output together.
    """
    part: Model = getattr(config, stage)
    found = []
    if window is not None and longest > window:
        found.append(
            f"the {stage}'s window holds {window} tokens, and prompt and output can have {longest} "
            f"({_lengths(stage, config)}); set {_shorter(config, window, longest)}"
        )
    if part.vllm is not None and part.vllm.max_model_length is not None and longest > part.vllm.max_model_length:
        found.append(
            f"{stage}.vllm.max_model_length is {part.vllm.max_model_length}, and prompt and output can have {longest} "
            f"({_lengths(stage, config)}); set {stage}.vllm.max_model_length={longest}"
        )
    return found


def _shorter(config: TrainConfig, window: int, longest: int) -> str:
    """Limits that a window holds: a shorter signal, or shares of it where little would be left for one."""
    signal = config.reasoner.max_new_tokens - (longest - window)
    if signal >= window // 4:
        return f"reasoner.max_new_tokens={signal}, or lower another of these"
    return (
        f"data.max_prompt_tokens={window // 4} reasoner.max_new_tokens={window // 2} "
        f"generator.max_new_tokens={window // 4}, or take a model with a longer one"
    )


def _lengths(stage: str, config: TrainConfig) -> str:
    """What makes up a policy's longest sequence, by the names of its settings."""
    own = f"data.max_prompt_tokens {config.data.max_prompt_tokens}"
    own += f" + reasoner.max_new_tokens {config.reasoner.max_new_tokens}"
    return own + (f" + generator.max_new_tokens {config.generator.max_new_tokens}" if stage == "generator" else "")
