"""How long prompts and outputs can become, and what holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from duet_sdk.trainer.config import Model, TrainConfig


def longest_prompts(config: TrainConfig) -> dict[str, int]:
    """Tokens of each policy's longest prompt; the generator reads question and signal."""
    question = config.data.max_prompt_tokens
    return {"reasoner": question, "generator": question + config.reasoner.max_new_tokens}


def longest_sequences(config: TrainConfig) -> dict[str, int]:
    """Tokens of each policy's longest prompt and output together."""
    prompts = longest_prompts(config)
    return {stage: tokens + getattr(config, stage).max_new_tokens for stage, tokens in prompts.items()}


def length_problems(config: TrainConfig, windows: Mapping[str, int | None]) -> list[str]:
    """Where a policy's longest sequence is too long for its model or its engine, and values with which none is.

    Args:
        config: the run.
        windows: tokens that each stage's model holds; None for any number, or where that is not known.
    """
    longest, found = longest_sequences(config), []
    shorter = _shorter(config, {stage: window for stage, window in windows.items() if window is not None})
    for stage, tokens in longest.items():
        window = windows[stage]
        if window is not None and tokens > window:
            found.append(
                f"the {stage}'s window holds {window} tokens, and prompt and output can have {tokens} "
                f"({_lengths(stage, config)}); set {shorter.written}"
            )
    # An engine is to hold what is left once the windows do.
    fitting = longest_sequences(shorter.on(config)) if found else longest
    for stage, needed in fitting.items():
        part: Model = getattr(config, stage)
        held = part.vllm.max_model_length if part.vllm is not None else None
        if held is not None and needed > held:
            found.append(
                f"{stage}.vllm.max_model_length is {held}, and prompt and output can have {longest[stage]} "
                f"({_lengths(stage, config)}); set {stage}.vllm.max_model_length={needed}"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits that all windows hold."""

    written: str
    signal: int
    question: int
    answer: int

    def on(self, config: TrainConfig) -> TrainConfig:
        """The configuration with them."""
        return config.model_copy(
            update={
                "data": config.data.model_copy(update={"max_prompt_tokens": self.question}),
                "reasoner": config.reasoner.model_copy(update={"max_new_tokens": self.signal}),
                "generator": config.generator.model_copy(update={"max_new_tokens": self.answer}),
            }
        )


def _shorter(config: TrainConfig, windows: Mapping[str, int]) -> _Limits:
    """A signal that every window holds, or shares of the smallest where little would be left for one."""
    question, signal, answer = (
        config.data.max_prompt_tokens,
        config.reasoner.max_new_tokens,
        config.generator.max_new_tokens,
    )
    longest = longest_sequences(config)
    signal -= max([0, *(longest[stage] - window for stage, window in windows.items())])
    least = min(windows.values(), default=0)
    if signal >= least // 4:
        return _Limits(f"reasoner.max_new_tokens={signal}, or lower another of these", signal, question, answer)
    question, signal, answer = least // 4, least // 2, least // 4
    return _Limits(
        f"data.max_prompt_tokens={question} reasoner.max_new_tokens={signal} "
        f"generator.max_new_tokens={answer}, or take a model with a longer one",
        signal,
        question,
        answer,
    )


def _lengths(stage: str, config: TrainConfig) -> str:
    """What makes up a policy's longest sequence, by the names of its settings."""
    own = f"data.max_prompt_tokens {config.data.max_prompt_tokens}"
    own += f" + reasoner.max_new_tokens {config.reasoner.max_new_tokens}"
    return own + (f" + generator.max_new_tokens {config.generator.max_new_tokens}" if stage == "generator" else "")
