"""What a client of Responses sends → a body in the form of chat completions, and the request of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway.limits import limits, tokens
from duet_sdk.gateway.scope import session_of
from duet_sdk.gateway.wires.chat_in import OF_A_MESSAGE, request
from duet_sdk.gateway.wires.responses_items import listed, turns_of
from duet_sdk.gateway.wires.responses_tools import offered

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Asked, Given

_READ: Final = (*OF_A_MESSAGE, "signal")
"""Of a message made here, whose signal is the gateway's own, found by its signature."""
_ELSEWHERE: Final = {
    "background": "background responses are not run here: leave background out, and stream",
    "conversation": "conversations are not kept here: send the items in input, or name previous_response_id",
    "prompt": "prompts are not kept here: send instructions and input",
}
"""Fields that name what a provider keeps, without which there is nothing to answer → what to send in their place."""
_LOGPROBS: Final = "message.output_text.logprobs"


def asked(given: Given) -> Asked:
    """The request that a body makes.

    Raises:
        Refused: 400, a field that cannot be used, or a previous response that is not known.
        InvalidRequest: likewise, in the words of the SDK.
    """
    body = given.body
    for name, told in _ELSEWHERE.items():
        if body.get(name):
            raise Refused(400, "unsupported_parameter", told, param=name, headers=NOT_AGAIN)
    mode, budget = limits(
        given.choice,
        effort=mapping(body, "reasoning").get("effort"),
        both=tokens(body, "max_output_tokens"),
    )
    session = session_of(body, given.headers, given.caller)
    return request(_in_chat_form(given), given, mode, budget, session=session, read=_READ)


def mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object; empty where it is left out or something else."""
    found = body.get(name)
    return found if isinstance(found, Mapping) else {}


def includes(body: Mapping[str, Any], name: str) -> bool:
    """Whether the client wants something more in the answer."""
    wanted = body.get("include")
    return isinstance(wanted, list) and name in wanted


def _in_chat_form(given: Given) -> dict[str, Any]:
    body = given.body
    tools, choice = offered(body)
    return {
        "messages": _messages(given),
        "stream": body.get("stream"),
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "tools": tools,
        "tool_choice": choice,
        "response_format": _response_format(mapping(mapping(body, "text"), "format")),
        "user": body.get("user") or body.get("safety_identifier"),
        "metadata": body.get("metadata"),
        "top_logprobs": body.get("top_logprobs"),
        "logprobs": bool(body.get("top_logprobs")) or includes(body, _LOGPROBS),
    }


def _messages(given: Given) -> list[dict[str, Any]]:
    """Instructions, what was said before, and the input; a previous response's instructions end with it."""
    body = given.body
    instructions = body.get("instructions")
    first: list[dict[str, Any]] = []
    if isinstance(instructions, str) and instructions:
        first = [{"role": "system", "content": instructions}]
    elif isinstance(instructions, list):
        first = turns_of(instructions, given)
    elif instructions:
        raise Refused(400, None, "instructions must be a string", param="instructions")
    return first + turns_of(_before(given), given) + turns_of(listed(body.get("input")), given)


def _before(given: Given) -> list[Any]:
    """The items of the responses that this one goes on from.

    Raises:
        Refused: 400, one of them is not kept here.
    """
    name = given.body.get("previous_response_id")
    if name is None or name == "":
        return []
    found = given.kept.chain(given.caller.tenant, name) if isinstance(name, str) else None
    if found is None:
        told = (
            "this previous response is not known here: it was not stored, is too old, or another key, another worker "
            "or an earlier run of the gateway made it; send the whole conversation in input"
        )
        raise Refused(400, "previous_response_not_found", told, param="previous_response_id", headers=NOT_AGAIN)
    return found


def _response_format(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    if wanted.get("type") != "json_schema":
        return {"type": wanted["type"]} if wanted.get("type") else None
    schema = {
        name: wanted[name] for name in ("name", "description", "schema", "strict") if wanted.get(name) is not None
    }
    return {"type": "json_schema", "json_schema": {"name": "answer", **schema}}
