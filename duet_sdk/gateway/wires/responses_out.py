"""Replies → responses of OpenAI's Responses, and their items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.wires.chat_out import finish_of, logprobs_of, receipt_of, shown_signal, usage_of
from duet_sdk.gateway.wires.responses_in import includes, mapping
from duet_sdk.gateway.wires.responses_items import listed
from duet_sdk.gateway.wires.responses_tools import custom_input, custom_names

if TYPE_CHECKING:
    from duet_sdk.gateway.errors import Refused
    from duet_sdk.gateway.wires.wire import Answer, Given
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob, ToolCall

Item = dict[str, Any]
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer ended, in the words of chat completions → why a response is incomplete."""
_ECHOED: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""Fields of a request that its response repeats → what stands there where they are left out."""


class Head:
    """What all states of a response have in common."""

    def __init__(self, given: Given) -> None:
        body = given.body
        self._receipt = given.receipt
        reasoning, text = mapping(body, "reasoning"), mapping(body, "text")
        self.fields: dict[str, Any] = {
            "id": f"resp_{given.receipt}",
            "object": "response",
            "created_at": given.created,
            "model": body["model"],
            "background": False,
            **{name: default if body.get(name) is None else body[name] for name, default in _ECHOED.items()},
            "metadata": mapping(body, "metadata"),
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "store": is_kept(given),
            "text": {"format": {"type": "text"}, **text},
        }

    def state(self, status: str, output: Sequence[Item] = (), **more: object) -> dict[str, Any]:
        """The response as it is now."""
        told = {"status": status, "output": output, "error": None, "incomplete_details": None, "usage": None}
        return {**self.fields, **told, **more}

    def whole(self, output: Sequence[Item], finish: str | None, reply: Reply) -> dict[str, Any]:
        """The response when nothing more will come."""
        why = _INCOMPLETE.get(finish_of(finish, has_calls=False))
        return self.state(
            "incomplete" if why else "completed",
            output,
            incomplete_details={"reason": why} if why else None,
            usage=_usage(reply),
            duet=receipt_of(reply, self._receipt),
        )

    def failed(self, told: Refused, output: Sequence[Item]) -> dict[str, Any]:
        """The response that broke off."""
        return self.state("failed", output, error={"code": told.code or "server_error", "message": str(told)})


def output_of(given: Given, answer: Answer, reply: Reply) -> list[Item]:
    """The items of a whole answer."""
    found: list[Item] = []
    if shows_reasoning(given) and (signal := shown_signal(reply)):
        found.append(reasoning(given, signal))
    calls = final_calls(given, answer.calls, answer.finish_reason)
    if answer.text or not calls:
        found.append(message(given, answer.text, answer.finish_reason, answer.logprobs))
    return found + calls


def shows_reasoning(given: Given) -> bool:
    """Whether the caller gets a reasoning item."""
    return given.signal_field != "none"


def shows_summary(given: Given) -> bool:
    """Whether its summary has the signal; older clients call the wish ``generate_summary``."""
    asked = mapping(given.body, "reasoning")
    return bool(asked.get("summary") or asked.get("generate_summary"))


def reasoning(given: Given, signal: str | None) -> Item:
    """The item of the signal, None for one that begins.

    What is called its encrypted content finds the signal again, and holds none of it.
    """
    item: Item = {
        "id": f"rs_{given.receipt}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": signal}] if signal is not None and shows_summary(given) else [],
    }
    if includes(given.body, "reasoning.encrypted_content"):
        item["encrypted_content"] = given.signals.signature(given.caller.tenant, given.receipt)
    return item


def message(given: Given, text: str, finish: str | None, logprobs: Sequence[TokenLogprob]) -> Item:
    """The item of the answer's text, complete."""
    cut = finish_of(finish, has_calls=False) in _INCOMPLETE
    return {
        "id": f"msg_{given.receipt}",
        "type": "message",
        "status": "incomplete" if cut else "completed",
        "role": "assistant",
        "content": [part(text, logprobs)],
    }


def part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """The part of a message that has its text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs_of(logprobs)}


def final_calls(given: Given, calls: Sequence[ToolCall], finish: str | None) -> list[Item]:
    """The items of the calls that can be run; one that was cut off is none, as clients run whatever they get."""
    if finish_of(finish, has_calls=False) in _INCOMPLETE:
        calls = [call for call in calls if _is_object(call.arguments)]
    if given.body.get("parallel_tool_calls") is False:
        calls = calls[:1]
    custom = custom_names(given.body) if calls else ()
    return [_call(given, call, at, is_custom=call.name in custom) for at, call in enumerate(calls)]


def keep(given: Given, response: Mapping[str, Any]) -> None:
    """Keep a response where its client may come back to it."""
    if is_kept(given):
        given.kept.keep(given.caller.tenant, response, listed(given.body.get("input")))


def is_kept(given: Given) -> bool:
    """Whether the response will be known by its id."""
    return given.body.get("store") is not False and given.kept.most_bytes > 0


def _call(given: Given, call: ToolCall, at: int, *, is_custom: bool) -> Item:
    common = {"status": "completed", "call_id": call.id, "name": call.name}
    if is_custom:
        return {"id": f"ctc_{given.receipt}_{at}", "type": "custom_tool_call", **common, "input": custom_input(call)}
    return {"id": f"fc_{given.receipt}_{at}", "type": "function_call", **common, "arguments": call.arguments_on_wire}


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _usage(reply: Reply) -> dict[str, Any]:
    told = usage_of(reply)
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": told["prompt_tokens_details"],
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
    }
