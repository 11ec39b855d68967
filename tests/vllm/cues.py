"""Requests that make a model of 135 million parameters do what a large one would."""

from __future__ import annotations

from duet_sdk import Sampling

THOUGHT = "The capital is Paris."
"""What the think server's reasoner thinks on cue."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}


def thinks() -> Sampling:
    """Think `THOUGHT`; without the bias the tags would be spelled out in pieces."""
    return _shaped(rf"<think>\n{THOUGHT.replace('.', '[.]')}\n</think>", bias=(3, 4))


def calls_weather() -> Sampling:
    """Call `WEATHER` for Paris."""
    arguments = r'\{"name": "weather", "arguments": \{"city": "Paris"\}\}'
    return _shaped(rf"<tool_call>\n{arguments}\n</tool_call>", bias=(5, 6))


def never_ends(more: dict[str, object] | None = None) -> Sampling:
    """Write on until the limit; ``more`` is sent along."""
    return Sampling(temperature=0, extra_body={"ignore_eos": True, **(more or {})})


def _shaped(regex: str, *, bias: tuple[int, ...]) -> Sampling:
    shape = {"structured_outputs": {"regex": regex}, "logit_bias": {str(at): 100 for at in bias}}
    return Sampling(temperature=0, extra_body=shape)
