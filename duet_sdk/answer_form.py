"""What form a request requires of its answer: a tool call, or JSON that matches a schema.

A server that holds its model to a grammar fulfils this by itself. Others take ``tool_choice`` and ``response_format``
and let the model write what it likes: their answers are checked here, and one that fails is asked for once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from duet_sdk.request import Request
from duet_sdk.types import Json, Message, ToolCall

ASK_AGAIN = "That is not what was asked for: {problem}. Answer again in the requested format."
_MOST_CALLS = 64
"""Calls that a text is read for: no model means more at once."""
_SHOWN = 2000
"""Characters of a refused answer that the model is shown again."""


def unmet(request: Request, text: str, calls: Sequence[ToolCall]) -> str | None:
    """What an answer lacks of the required form, None if nothing; quotes the answer, so for models only.

    A schema is checked where the package jsonschema is installed (extra ``schema``); JSON itself always is.
    """
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        return _call_problem(request, calls)
    if request.response_format is not None and not calls:
        return _text_problem(request.response_format, text)
    return None


def calls_written(request: Request, text: str) -> list[Json]:
    """The calls that a text consists of, where a tool has to be called and a grammar had the model write just that.

    A server writes the arguments of the tool that is named, or a list of names with arguments where any will do:
    https://github.com/vllm-project/vllm/blob/main/docs/features/tool_calling.md
    """
    choice = request.tool_choice
    if not request.tools or choice in (None, "auto", "none"):
        return []
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(choice, Mapping) and isinstance(value, Mapping):
        return [{"name": _name_in(choice), "arguments": text}]
    known = {tool["function"]["name"] for tool in request.tools}
    calls = value if isinstance(value, list) and len(value) <= _MOST_CALLS else []
    if not all(isinstance(call, Mapping) and call.get("name") in known for call in calls):
        return []
    return [{"name": call["name"], "arguments": call.get("parameters", call.get("arguments"))} for call in calls]


def strict_tools(request: Request) -> tuple[Json, ...]:
    """The tools for a server that holds a call to its schema only where the tool says ``strict``.

    Where one has to be called, each that says nothing of it says so. Where the model may choose, a schema that the
    server's grammar cannot express must not fail the request.
    """
    if request.tool_choice in (None, "auto", "none"):
        return request.tools
    return tuple({**tool, "function": {"strict": True, **tool["function"]}} for tool in request.tools)


def ask_again(text: str, calls: Sequence[ToolCall], problem: str) -> tuple[Message, Message]:
    """The turns that tell a model what its answer lacks."""
    written = "\n".join((text, *(f"[called {call.name} with {call.arguments}]" for call in calls))).strip()
    return Message("assistant", written[:_SHOWN] or "…"), Message("user", ASK_AGAIN.replace("{problem}", problem))


def _call_problem(request: Request, calls: Sequence[ToolCall]) -> str | None:
    choice = request.tool_choice
    wanted = _name_in(choice)
    if not calls:
        return f"the tool {wanted} was not called" if wanted else "no tool was called"
    known = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.tools}
    for call in calls:
        if call.name not in known or (wanted and call.name != wanted):
            return f"{call.name} was called; " + (f"call {wanted}" if wanted else f"the tools are {', '.join(known)}")
        try:
            arguments: object = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return f"the arguments of {call.name} are not JSON"
        if (problem := _violation(arguments, known[call.name] or {"type": "object"})) is not None:
            return f"the arguments of {call.name} do not match its schema: {problem}"
    return None


def _text_problem(wanted: Json, text: str) -> str | None:
    kind = wanted.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return "the answer must be JSON, with nothing before or after it"
    form = wanted.get("json_schema") if kind == "json_schema" else {"schema": {"type": "object"}}
    schema = form.get("schema") if isinstance(form, Mapping) else None
    return _violation(value, schema) if isinstance(schema, Mapping) else None


def _name_in(choice: object) -> str | None:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    return function.get("name") if isinstance(function, Mapping) else None


def _violation(value: object, schema: Json) -> str | None:
    """The first thing about a value that its schema forbids; a value that is not a schema forbids nothing."""
    try:
        from jsonschema.exceptions import SchemaError, best_match
        from jsonschema.validators import extend, validator_for
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        return None
    try:
        kind = validator_for(schema)
        kind.check_schema(schema)
        # An empty registry: a reference in a schema must not make the client fetch anything.
        problem = best_match(extend(kind, _LINEAR)(schema, registry=Registry()).iter_errors(value))
    except (SchemaError, Unresolvable, TypeError):
        return None
    except RecursionError:
        return "it is nested too deeply"
    return None if problem is None else f"{problem.json_path}: {problem.message}"


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> Callable[[str], bool]:
    """Whether a text has a match, in linear time; any text has one where the engine cannot read the pattern."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        found = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return lambda text: True
    return found.isinstance_python


def _text_pattern(validator: Any, pattern: str, text: object, schema: Json) -> Iterator[Exception]:
    from jsonschema.exceptions import ValidationError

    if isinstance(text, str) and not _pattern(pattern)(text):
        yield ValidationError(f"{text[:_SHOWN]!r} does not match {pattern!r}")


def _name_patterns(validator: Any, patterns: Json, value: Any, schema: Json) -> Iterator[Exception]:
    for pattern, within in patterns.items():
        for name in value if isinstance(value, Mapping) else ():
            if _pattern(pattern)(name):
                yield from validator.descend(value[name], within, path=name, schema_path=pattern)


def _other_names(validator: Any, within: object, value: Any, schema: Json) -> Iterator[Exception]:
    from jsonschema.exceptions import ValidationError

    known, patterns = schema.get("properties", ()), schema.get("patternProperties", ())
    others = [
        name
        for name in (value if isinstance(value, Mapping) else ())
        if name not in known and not any(_pattern(pattern)(name) for pattern in patterns)
    ]
    if within is False and others:
        yield ValidationError(f"it has other properties than allowed: {', '.join(others)}"[:_SHOWN])
    elif isinstance(within, Mapping):
        for name in others:
            yield from validator.descend(value[name], within, path=name)


# Python's own engine takes exponential time for some patterns, which a model's answer could then make use of.
_LINEAR: Final = {"pattern": _text_pattern, "patternProperties": _name_patterns, "additionalProperties": _other_names}
