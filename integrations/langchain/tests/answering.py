"""How the scripted server answers: as a model that only writes and obeys grammars, or as one that calls tools, too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from support.fault_server import Answer

from duet_sdk import ToolCall

SIGNAL = "Be brief."
TEXT = "Hello to you, too."
JOKE = {"setup": "Why did the cat sit?", "punchline": "It could."}


def writes(body: Mapping[str, Any]) -> Answer:
    """Text, and whatever a grammar demands, filled in without understanding."""
    if body["model"] == "reasoner":
        return Answer(SIGNAL)
    if (tool := _demanded(body)) is not None:
        return _call(tool, example(tool.get("parameters") or {}))
    if (schema := _schema(body)) is not None:
        return Answer(json.dumps(example(schema), ensure_ascii=False))
    return Answer(TEXT)


def calls_tools(body: Mapping[str, Any]) -> Answer:
    """The same, and where tools are offered and the user spoke last, the call that the user asks for."""
    if body["model"] == "reasoner":
        return Answer(SIGNAL)
    tools = body.get("tools") or ()
    may_call = tools and body.get("tool_choice") != "none" and body["messages"][-1]["role"] == "user"
    tool = _demanded(body) or (tools[0]["function"] if may_call else None)
    if tool is not None:
        return _call(tool, _understood(tool, _said(body)))
    if (body.get("response_format") or {}).get("type") in ("json_object", "json_schema"):
        return Answer(json.dumps(JOKE))
    return Answer(TEXT)


def example(schema: Mapping[str, Any]) -> Any:
    """The least value that a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return example(schema[choices][0])
    match schema.get("type", "object"):
        case "object":
            return {name: example(inner) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
    return "something"


def _demanded(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tool that must be called."""
    choice, tools = body.get("tool_choice"), [tool["function"] for tool in body.get("tools") or ()]
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    return tools[0] if choice == "required" else None


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema that the answer must follow."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    schema = wanted.get("json_schema", {}).get("schema")
    return dict(schema) if schema is not None else None


def _call(tool: Mapping[str, Any], arguments: Any) -> Answer:
    call = ToolCall("call-1", tool["name"], json.dumps(arguments, ensure_ascii=False))
    return Answer("", tool_calls=(call,))


def _understood(tool: Mapping[str, Any], said: str) -> Any:
    """The arguments that the user named, by the tests' own words."""
    named = re.search(r"'([^']+)'", said)
    known = {
        "magic_function": {"input": 3},
        "greeting_generator": {"answer_style": "Pirate"},
        "get_weather": {"location": "San Francisco, CA"},
        "unicode_customer": {"customer_name": named[1] if named else "", "description": "a company"},
        "Joke": JOKE,
        "JokeDict": JOKE,
    }
    return known.get(tool["name"], example(tool.get("parameters") or {}))


def _said(body: Mapping[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
