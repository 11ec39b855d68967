"""Python's own types and functions in OpenAI's form: what an answer has to look like, and what a tool takes."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, get_origin

import typing_extensions

from duet_sdk.errors import InvalidRequest
from duet_sdk.types import Json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

ResponseFormat: TypeAlias = "Json | type[Any]"
"""The form of an answer: OpenAI's own, or a pydantic model, a TypedDict, a dataclass or another type with a schema."""
ToolLike: TypeAlias = "Json | Callable[..., Any]"
"""A tool in OpenAI's form, or a Python function, which is only read."""
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_MOST_IN_NAME = 64
"""Characters that OpenAI allows in the name of a schema or a tool."""


@dataclass(frozen=True, slots=True)
class Parser:
    """Reads an answer as the type that was asked for."""

    adapter: TypeAdapter[Any]

    def read(self, text: str) -> tuple[object, str]:
        """What the text holds, and why it holds nothing of that type; the other one is None or empty."""
        from pydantic import ValidationError

        try:
            return self.adapter.validate_json(text), ""
        except ValidationError as error:
            (first, *_) = error.errors(include_input=False, include_url=False, include_context=False)
            where = ".".join(str(part) for part in first["loc"])
            return None, f"{where}: {first['msg']}" if where else str(first["msg"])
        except RecursionError:
            return None, "it is nested too deeply"


def response_form(given: object) -> tuple[Json | None, Parser | None]:
    """A response format in OpenAI's form, and what reads the answer where a type was given.

    Raises:
        InvalidRequest: it is neither a dict nor a type that has a JSON schema.
    """
    if given is None or isinstance(given, Mapping):
        return given, None
    if not isinstance(given, type) and get_origin(given) is None:
        raise InvalidRequest(
            "response_format must be a pydantic model, a TypedDict, another type with a schema, or a dict such as "
            f"{{'type': 'json_object'}}, got {type(given).__name__}"
        )
    name = getattr(given, "__name__", "answer")
    adapter, schema = _adapted(given, name)
    if given is dict:
        return {"type": "json_object"}, Parser(adapter)
    return {"type": "json_schema", "json_schema": {"name": _name(name), "schema": schema}}, Parser(adapter)


def tool_of(given: object) -> object:
    """A tool in OpenAI's form, where it is a Python function: its name, its docstring, its arguments by their types.

    Raises:
        InvalidRequest: its arguments have no JSON schema, or cannot be given by name.
    """
    if not callable(given):
        return given
    name = getattr(given, "__name__", type(given).__name__)
    _, schema = _adapted(given, f"the function {name}")
    if schema.get("type") != "object":
        raise InvalidRequest(f"the function {name} cannot be a tool: its arguments must be ones that are given by name")
    described = inspect.getdoc(given)
    told = {"description": described.partition("\n\n")[0]} if described else {}
    return {"type": "function", "function": {"name": _name(name), **told, "parameters": schema}}


def _adapted(given: Any, name: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What pydantic makes of a type or a function, and its JSON schema.

    Raises:
        InvalidRequest: it has none.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_readable(given))
        return adapter, adapter.json_schema()
    except (PydanticUserError, NameError) as error:  # NameError: a hint that cannot be looked up
        raise InvalidRequest(f"{name} has no JSON schema: {str(error).partition(chr(10))[0]}") from None


def _readable(given: Any) -> Any:
    """The type, with the standard library's TypedDicts as pydantic reads them before Python 3.12."""
    if sys.version_info >= (3, 12) or not typing_extensions.is_typeddict(given):
        return given
    hints = {
        name: _readable(hint) for name, hint in typing_extensions.get_type_hints(given, include_extras=True).items()
    }
    fields = {
        name: hint if name in given.__required_keys__ else typing_extensions.NotRequired[hint]
        for name, hint in hints.items()
    }
    return typing_extensions.TypedDict(given.__name__, fields)  # type: ignore[operator]  # by its functional form


def _name(given: str) -> str:
    return _NOT_IN_NAMES.sub("_", given)[:_MOST_IN_NAME] or "answer"
