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
_FIRST_SENTENCE = re.compile(r".*?(?=\. [A-Z]|\n|$)")
# A name of its own: type checkers that target a later Python would skip what is for the earlier ones.
_READS_EVERY_TYPEDDICT = sys.version_info >= (3, 12)
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_FORMS = ("json_schema", "json_object", "text", "structural_tag", "regex", "grammar")
"""OpenAI's types, and those that servers of open models add."""
_WRAPPED = "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}"
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
    if given is None:
        return None, None
    if isinstance(given, Mapping):
        _check_form(given)
        return given, None
    if not isinstance(given, type) and get_origin(given) is None:
        raise InvalidRequest(
            "response_format must be a pydantic model, a TypedDict, another type with a schema, or a dict such as "
            f"{{'type': 'json_object'}}, got {_got(given)}"
        )
    name = getattr(given, "__name__", "answer")
    adapter, schema = _adapted(given, name)
    if not schema.keys() - {"title", "description"}:
        raise InvalidRequest(f"{name} says nothing of the answer's form; leave response_format out")
    if given is dict:
        return {"type": "json_object"}, Parser(adapter)
    return {"type": "json_schema", "json_schema": {"name": _name(name), "schema": schema}}, Parser(adapter)


def _check_form(form: Json) -> None:
    """Check a response format in OpenAI's form, as far as every server reads it.

    Raises:
        InvalidRequest: its type is unknown, or it has no schema where one belongs.
    """
    kind = form.get("type")
    if kind in ("object", "array") or (kind is None and ("properties" in form or "$ref" in form)):
        raise InvalidRequest(f"response_format is a bare JSON schema; write {_WRAPPED}")
    if kind not in _FORMS:
        raise InvalidRequest(f"response_format has the type {kind!r}; known: {', '.join(_FORMS)}")
    within = form.get("json_schema")
    if kind == "json_schema" and not (isinstance(within, Mapping) and isinstance(within.get("schema"), Mapping)):
        raise InvalidRequest(f"response_format has no schema where it belongs; write {_WRAPPED}")
    if kind == "json_schema" and isinstance(within, Mapping) and not isinstance(within.get("name"), str):
        raise InvalidRequest(f"the schema of response_format has no name; write {_WRAPPED}")


def tool_of(given: object) -> object:
    """A tool in OpenAI's form, where it is a Python function: its name, its docstring, its arguments by their types.

    Raises:
        InvalidRequest: its arguments have no JSON schema, or cannot be given by name.
    """
    _refuse_tool_of_other_library(given)
    if not callable(given):
        return given
    name = getattr(given, "__name__", type(given).__name__)
    _, schema = _adapted(given, f"the function {name}")
    if schema.get("type") != "object":
        raise InvalidRequest(f"the function {name} cannot be a tool: its arguments must be ones that are given by name")
    _check_function(given, name)
    described = inspect.getdoc(given)
    told = {"description": described.partition("\n\n")[0]} if described else {}
    return {"type": "function", "function": {"name": _name(name), **told, "parameters": schema}}


def _refuse_tool_of_other_library(given: object) -> None:
    for held in ("func", "fn", "function"):
        if callable(getattr(given, held, None)):
            raise InvalidRequest(f"a {type(given).__name__} cannot be a tool: pass the function that it holds ({held})")


def _check_function(given: Any, name: str) -> None:
    """Check that a model can be told how to call it.

    Raises:
        InvalidRequest: it has no name, or an argument without a type.
    """
    if name == "<lambda>":
        raise InvalidRequest("a lambda cannot be a tool, as the model calls it by its name: write def")
    if not inspect.isroutine(given) or inspect.isbuiltin(given):
        return
    for parameter in inspect.signature(given).parameters.values():
        if parameter.annotation is parameter.empty:
            raise InvalidRequest(
                f"the argument {parameter.name!r} of the tool {name} has no type, which the model goes by: write "
                f"{parameter.name}: str, or what it is"
            )


def _adapted(given: Any, name: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What pydantic makes of a type or a function, and its JSON schema.

    Raises:
        InvalidRequest: it has none.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    if isinstance(given, type) and hasattr(given, "__get_validators__") and not hasattr(given, "model_fields"):
        raise InvalidRequest(f"{name} is a model of pydantic 1; derive it from pydantic.BaseModel, not pydantic.v1's")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_readable(given))
        return adapter, adapter.json_schema()
    except (PydanticUserError, NameError) as error:  # NameError: a hint that cannot be looked up
        raise InvalidRequest(f"{name} has no JSON schema: {_FIRST_SENTENCE.match(str(error))[0]}") from None  # type: ignore[index]


def _readable(given: Any) -> Any:
    """The type, with the standard library's TypedDicts as pydantic reads them before Python 3.12."""
    if _READS_EVERY_TYPEDDICT or not typing_extensions.is_typeddict(given):
        return given
    hints = {
        name: _readable(hint) for name, hint in typing_extensions.get_type_hints(given, include_extras=True).items()
    }
    fields = {
        name: hint if name in given.__required_keys__ else typing_extensions.NotRequired[hint]
        for name, hint in hints.items()
    }
    return typing_extensions.TypedDict(given.__name__, fields)  # type: ignore[operator]  # by its functional form


def _got(given: object) -> str:
    """What was given in the place of a type."""
    kind = type(given)
    has_schema = hasattr(kind, "model_fields") or hasattr(kind, "__dataclass_fields__")
    return f"an instance of {kind.__name__}: pass the class itself" if has_schema else kind.__name__


def _name(given: str) -> str:
    return _NOT_IN_NAMES.sub("_", given)[:_MOST_IN_NAME] or "answer"
