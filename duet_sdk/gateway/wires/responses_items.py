"""Items of Responses → turns in the form of chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.errors import Refused

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Given

_DETAILS: Final = ("auto", "low", "high")
_FILES: Final = {
    "input_file": "files cannot be read here; send their text",
    "input_audio": "audio cannot be heard here",
}
_CALLS: Final = ("function_call", "custom_tool_call")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")


def listed(given: object) -> list[Any]:
    """The input as a list of items.

    Raises:
        Refused: 400, it is neither text nor a list.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise Refused(400, None, "input must be a string or a list of items", param="input")
    return given


def turns_of(items: Sequence[Any], given: Given) -> list[dict[str, Any]]:
    """The turns that items make; those that the pair has no use for, such as a provider's own searches, are left out.

    Raises:
        Refused: 400, an item that cannot be used.
    """
    turns: list[dict[str, Any]] = []
    signal: str | None = None
    known: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for at, named in enumerate(items):
        if not isinstance(named, Mapping):
            raise Refused(400, None, f"item {at} of input must be an object", param="input")
        item = _referred(named.get("id"), given, known) if named.get("type") == "item_reference" else named
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "reasoning":
            signal = _signal_of(item, given) or signal
        elif kind in _CALLS:
            _assistant(turns, signal).setdefault("tool_calls", []).append(_call(item, at))
            signal = None
        elif kind in _OUTPUTS:
            turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _result(item, at)})
        elif kind == "message" and item.get("role") == "assistant":
            turns.append({"role": "assistant", "content": _content(item.get("content"), at)})
            _assistant(turns, signal)
            signal = None
        elif kind == "message":
            turns.append({"role": item.get("role"), "content": _content(item.get("content"), at)})
    return turns


def _assistant(turns: list[dict[str, Any]], signal: str | None) -> dict[str, Any]:
    """The turn that goes on: what an assistant says and calls without anything between is one."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": ""})
    if signal is not None:
        turns[-1]["signal"] = signal
    return turns[-1]


def _call(item: Mapping[str, Any], at: int) -> dict[str, Any]:
    """A call; the input of a custom tool is the one argument of the function that stands for it."""
    name, call_id = item.get("name"), item.get("call_id") or item.get("id")
    if not isinstance(name, str) or not isinstance(call_id, str):
        raise Refused(400, None, f"item {at} of input is a call and needs call_id and name", param="input")
    arguments = item.get("arguments")
    if item.get("type") == "custom_tool_call":
        arguments = json.dumps({"input": item.get("input")})
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(item: Mapping[str, Any], at: int) -> object:
    """A tool's result; one that is neither text nor parts is told as JSON."""
    output = item.get("output")
    if output is None or isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(part, Mapping) and "type" in part for part in output):
        return _content(output, at)
    return json.dumps(output)


def _content(given: object, at: int) -> object:
    """The content of a message, images in the form of chat completions.

    Raises:
        Refused: 400, a file, or an image that the gateway does not have.
    """
    return [_part(part, at) for part in given] if isinstance(given, list) else given


def _part(part: object, at: int) -> object:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind in _FILES:
        raise Refused(400, None, f"item {at} of input: {_FILES[kind]}", param="input")
    if kind != "input_image" or not isinstance(part, Mapping):
        return part
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    if not isinstance(url, str):
        told = f"item {at} of input has an image without image_url; send it as data:image/…;base64,…"
        raise Refused(400, None, told, param="input")
    detail = part.get("detail")
    more = {"detail": detail} if isinstance(detail, str) and detail in _DETAILS else {}
    return {"type": "image_url", "image_url": {"url": url, **more}}


def _referred(name: object, given: Given, known: dict[str, Mapping[str, Mapping[str, Any]]]) -> Mapping[str, Any]:
    """The item of a response of the gateway's; one that is not kept may still name a signal.

    Args:
        name: of the item, which has its response's in it.
        given: the client's request.
        known: response → its items, of those that were looked up: thousands of items may be of one long response.
    """
    if not isinstance(name, str):
        return {}
    response = f"resp_{name.partition('_')[2].partition('_')[0]}"
    if response not in known:
        known[response] = given.kept.items(given.caller.tenant, response)
    found = known[response].get(name)
    if found is None and name.startswith("rs_"):
        return {"type": "reasoning", "id": name}
    return found or {}


def _signal_of(item: Mapping[str, Any], given: Given) -> str | None:
    """The signal of a reasoning item, by its signature or its id; none of one that is foreign or forgotten."""
    tenant, name = given.caller.tenant, item.get("id")
    found = given.signals.signed(tenant, item.get("encrypted_content"))
    if found is None and isinstance(name, str) and name.startswith("rs_"):
        found = given.signals.signed(tenant, given.signals.signature(tenant, name.removeprefix("rs_")))
    return found
