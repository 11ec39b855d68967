"""Replies → messages of Anthropic's protocol, and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.wires.chat_out import FINISHES, finish_of, receipt_of, shown_signal, usage_of
from duet_sdk.gateway.wires.messages_in import mapping, takes_one_call

if TYPE_CHECKING:
    from duet_sdk.gateway.errors import Refused
    from duet_sdk.gateway.wires.wire import Answer, Given
    from duet_sdk.reply import Reply
    from duet_sdk.types import ToolCall

_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
"""Why an answer ended, in OpenAI's words → in Anthropic's. That a stop sequence ended it, models do not tell."""
_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Status → type of an error."""
_OVERLOADED: Final = 529
"""Anthropic's own status: its clients come back after it."""


def opened(given: Given, content: list[dict[str, Any]], usage: Mapping[str, Any]) -> dict[str, Any]:
    """A message, which has not ended yet."""
    return {
        "id": f"msg_{given.receipt}",
        "type": "message",
        "role": "assistant",
        "model": given.body["model"],
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def message(given: Given, answer: Answer, reply: Reply) -> dict[str, Any]:
    """A whole message."""
    content: list[dict[str, Any]] = []
    if shows_thinking(given) and (signal := shown_signal(reply)):
        shown = "" if omits_thinking(given) else signal
        content.append({"type": "thinking", "thinking": shown, "signature": signature_of(given)})
    calls = calls_of(answer.calls, given, answer.finish_reason)
    if answer.text or not calls:
        content.append({"type": "text", "text": answer.text})
    content += [tool_use(call, json.loads(call.arguments_on_wire)) for call in calls]
    told = opened(given, content, usage_told(reply))
    told["stop_reason"] = stop_of(answer.finish_reason, has_calls=bool(calls))
    return {**told, "duet": receipt_of(reply, given.receipt)}


def tool_use(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a call."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def calls_of(calls: Sequence[ToolCall], given: Given, finish: str | None) -> Sequence[ToolCall]:
    """The calls that the client takes; one that a limit has cut is none."""
    if FINISHES.get(finish) == "length":
        calls = [call for call in calls if call.arguments_on_wire == call.arguments]
    return calls[:1] if takes_one_call(given.body) else calls


def stop_of(reason: str | None, *, has_calls: bool) -> str:
    """The protocol's word."""
    return _STOPS[finish_of(reason, has_calls=has_calls)]


def usage_told(reply: Reply) -> dict[str, int]:
    """Tokens as clients count them: what was read from a cache is not part of the input."""
    usage = usage_of(reply)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return usage_form(max(0, usage["prompt_tokens"] - cached), cached, usage["completion_tokens"])


def usage_form(fresh: int, cached: int, output: int) -> dict[str, int]:
    """Usage in the protocol's form."""
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }


def shows_thinking(given: Given) -> bool:
    """Whether the signal is shown, as a block of thinking."""
    return given.signal_field != "none" and mapping(given.body, "thinking").get("type") != "disabled"


def omits_thinking(given: Given) -> bool:
    """Whether that block has its signature alone."""
    return mapping(given.body, "thinking").get("display") == "omitted"


def signature_of(given: Given) -> str:
    """The signature of this request's signal."""
    return given.signals.signature(given.caller.tenant, given.receipt)


def error_of(told: Refused, receipt: str) -> tuple[int, dict[str, Any]]:
    """Status and body of an error."""
    is_overload = told.status == 503 and any(name == b"retry-after" for name, _ in told.headers)
    status = _OVERLOADED if is_overload else told.status
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    text = str(told)
    if told.overflow is not None:
        text = "prompt is too long: {} tokens > {} maximum".format(*told.overflow)
    return status, {"type": "error", "error": {"type": kind, "message": text}, "request_id": receipt}
