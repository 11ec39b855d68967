"""Tools of Responses → functions, and which of them stands for what when it is called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from duet_sdk.gateway.errors import Refused
from duet_sdk.types import ToolCall

_INPUT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""Parameters of the function that stands for a custom tool, whose input is text."""
_WORDS: Final = ("auto", "none", "required")


def offered(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], object]:
    """The functions that a body offers, and the choice among them.

    Those in a namespace stand among the others. What a provider runs itself, such as a search, is left out, and of two
    of one name the second: a call tells no more than a name.

    Raises:
        Refused: 400, tools that are none.
    """
    functions: dict[str, dict[str, Any]] = {}
    for tool in _flat(body.get("tools")):
        functions.setdefault(tool["name"], _function(tool))
    choice = body.get("tool_choice")
    if isinstance(choice, str) or choice is None:
        return list(functions.values()), choice
    if not isinstance(choice, Mapping):
        raise Refused(400, None, "tool_choice must be a word or an object", param="tool_choice")
    if choice.get("type") == "allowed_tools":
        named = choice.get("tools")
        names = [tool.get("name") for tool in named if isinstance(tool, Mapping)] if isinstance(named, list) else []
        mode = choice.get("mode")
        kept = [function for name, function in functions.items() if name in names]
        return kept, mode if isinstance(mode, str) and mode in _WORDS else "auto"
    if choice.get("type") in ("function", "custom"):
        return list(functions.values()), {"type": "function", "function": {"name": choice.get("name")}}
    return list(functions.values()), None  # a provider's tool, which was left out


def custom_names(body: Mapping[str, Any]) -> frozenset[str]:
    """The tools that are called with text instead of arguments."""
    tools = list(_flat(body.get("tools")))
    first = {tool["name"]: tool.get("type") for tool in reversed(tools)}
    return frozenset(name for name, kind in first.items() if kind == "custom")


def custom_input(call: ToolCall) -> str:
    """The text of a custom tool's call."""
    try:
        found = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    text = found.get("input") if isinstance(found, dict) else None
    return text if isinstance(text, str) else call.arguments


def _flat(given: object) -> Sequence[Mapping[str, Any]]:
    """The tools that have a name to be called by, those in namespaces among them.

    Raises:
        Refused: 400, it is no list of objects, or one has no name.
    """
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
        raise Refused(400, None, "tools must be a list of objects", param="tools")
    found: list[Mapping[str, Any]] = []
    for at, tool in enumerate(given):
        if tool.get("type") == "namespace":
            found += _flat([one for one in _inner(tool) if _is_own(one)])
        elif _is_own(tool):
            if not isinstance(tool.get("name"), str) or not tool["name"]:
                raise Refused(400, None, f"tool {at} needs a name", param="tools")
            found.append(tool)
    return found


def _inner(tool: Mapping[str, Any]) -> Sequence[Any]:
    inner = tool.get("tools")
    return inner if isinstance(inner, list) else ()


def _is_own(tool: object) -> bool:
    """Whether the client runs it."""
    return isinstance(tool, Mapping) and tool.get("type") in ("function", "custom")


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    what = tool.get("description")
    function: dict[str, Any] = {"name": tool["name"], **({"description": what} if isinstance(what, str) else {})}
    if tool["type"] == "custom":
        return {"type": "function", "function": {**function, "parameters": _INPUT}}
    more = {name: tool[name] for name in ("parameters", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": {**function, **more}}
