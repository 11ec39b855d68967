"""What one request gets, and every fault that there is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from duet_sdk.types import ToolCall

Fault: TypeAlias = Literal[
    "stall_before_headers",
    "stall_mid_stream",
    "cut_fin",
    "cut_rst",
    "rate_limited",
    "error_500",
    "unavailable_503",
    "unauthorized_401",
    "rejected_400",
    "overflow_400",
    "payment_402",
    "quota_429",
    "filter_400",
    "key_400",
    "error_200",
    "model_404",
    "nothing_404",
    "redirect_307",
    "html",
    "broken_json",
    "broken_sse",
    "wrong_content_type",
    "error_event",
    "no_usage",
    "wrong_usage",
    "no_finish",
    "no_done",
    "ignored_max_tokens",
    "duplicate_chunks",
    "endless",
    "giant_line",
    "slow_drip",
    "odd_sse",
    "empty_answer",
    "only_thinking",
    "answer_as_thinking",
    "open_thought",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

STATUS: dict[str, tuple[int, str]] = {
    "rate_limited": (429, "too many requests"),
    "error_500": (500, "the engine died"),
    "unavailable_503": (503, "overloaded"),
    "unauthorized_401": (401, "Unauthorized"),
    "rejected_400": (400, "top_k must be at least 1, in {prompt}"),
    "overflow_400": (
        400,
        "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens. {prompt}",
    ),
    "payment_402": (402, "Insufficient Balance"),
    "quota_429": (429, "You exceeded your current quota, please check your plan and billing details."),
    "filter_400": (400, "The response was filtered due to the prompt triggering a content management policy."),
    "key_400": (400, "API key not valid. Please pass a valid API key."),
    "error_200": (200, "the engine died"),
    "model_404": (404, "The model `{model}` does not exist."),
    "nothing_404": (404, "Not Found"),
    "redirect_307": (307, ""),
}


@dataclass(frozen=True)
class Answer:
    """What one request gets."""

    text: str = "one two three"
    reasoning: str = ""
    """Thinking, in a field of its own before the text."""
    reasoning_field: Literal["reasoning", "reasoning_content"] = "reasoning"
    tool_calls: tuple[ToolCall, ...] = ()
    """Called where the request has tools."""
    fault: Fault | None = None
    fault_after: int = 2
    """Tokens after which a fault within the stream happens."""
    retry_after: str | None = None
    """The header of an answer that says no."""
    error: str | None = None
    """Words of an answer that says no, in place of the usual ones."""
    cost: float | None = None
    """What the usage says that the call cost."""
    cached: int = 0
    """Prompt tokens that the usage says were cached."""
    hold: asyncio.Event | None = None
    """Nothing comes after ``fault_after`` tokens until it is set."""


DEFAULT = Answer()


@dataclass
class Seen:
    """A request as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)
