"""What a client of Anthropic's Messages sends → a body in the form of chat completions, and the request of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway.limits import limits, tokens
from duet_sdk.gateway.scope import session_of
from duet_sdk.gateway.wires.chat_in import OF_A_MESSAGE, request
from duet_sdk.gateway.wires.messages_blocks import turns_of

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Asked, Given

_SAMPLING: Final = ("temperature", "top_p", "top_k")
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_READ: Final = (*OF_A_MESSAGE, "signal")
"""Of a message made here, whose signal is the gateway's own, found by its signature."""


def asked(given: Given) -> Asked:
    """The request that a body makes.

    Raises:
        Refused: 400, a field that cannot be used.
        InvalidRequest: likewise, in the words of the SDK.
    """
    body = given.body
    thinking, output = mapping(body, "thinking"), mapping(body, "output_config")
    mode, budget = limits(
        given.choice,
        effort="none" if thinking.get("type") == "disabled" else output.get("effort"),
        signal=tokens(thinking, "budget_tokens"),
        answer=tokens(body, "max_tokens"),
    )
    session = session_of(body, given.headers, given.caller)
    return request(in_chat_form(given), given, mode, budget, session=session, read=_READ)


def in_chat_form(given: Given) -> dict[str, Any]:
    """The body as a client of chat completions would have sent it.

    Raises:
        Refused: 400, a field that cannot be used.
    """
    body = given.body
    form: dict[str, Any] = {name: body[name] for name in _SAMPLING if name in body}
    form["messages"] = turns_of(body, lambda signature: given.signals.signed(given.caller.tenant, signature))
    form["stream"] = body.get("stream")
    form["stop"] = body.get("stop_sequences") or None
    form["tools"] = _functions(body.get("tools"))
    form["tool_choice"] = _tool_choice(mapping(body, "tool_choice"))
    form["response_format"] = _response_format(body)
    form["user"] = body.get("user")
    form["metadata"] = body.get("metadata")
    return form


def mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object; empty where it is left out or something else."""
    found = body.get(name)
    return found if isinstance(found, Mapping) else {}


def takes_one_call(body: Mapping[str, Any]) -> bool:
    """Whether the client takes at most one call in an answer."""
    return mapping(body, "tool_choice").get("disable_parallel_tool_use") is True


def _functions(given: object) -> list[dict[str, Any]] | None:
    """The tools that are the client's own; what else there is, such as a provider's search, the pair cannot call.

    Raises:
        Refused: 400, tools that are none.
    """
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
        raise Refused(400, None, "tools must be a list of objects", param="tools")
    return [_function(tool, at) for at, tool in enumerate(given) if tool.get("type") in (None, "custom")]


def _function(tool: Mapping[str, Any], at: int) -> dict[str, Any]:
    name, schema, what = tool.get("name"), tool.get("input_schema"), tool.get("description")
    if not isinstance(name, str) or not isinstance(schema, Mapping) or not isinstance(what, str | None):
        raise Refused(400, None, f"tool {at} needs a name, an input_schema, and a text as description", param="tools")
    function = {"name": name, "parameters": schema, **({"description": what} if what else {})}
    return {"type": "function", "function": function}


def _tool_choice(given: Mapping[str, Any]) -> object:
    if given.get("type") == "tool":
        return {"type": "function", "function": {"name": given.get("name")}}
    kind = given.get("type")
    return _CHOICES.get(kind) if isinstance(kind, str) else None


def _response_format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of the answer; ``output_format`` is what older clients call it."""
    wanted = mapping(mapping(body, "output_config"), "format") or mapping(body, "output_format")
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), Mapping):
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted["schema"], "strict": True}}
