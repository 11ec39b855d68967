"""What ``**options`` hide: calls that take a TypedDict's keys show each of them, to `help`, notebooks and editors."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])

_OPTIONS = "options: "
_ATTRIBUTES = "Attributes:\n"


def shows(options: type) -> Callable[[_Function], _Function]:
    """Show a TypedDict's keys in the signature and the docstring of a call whose ``**options`` they are.

    A docstring's line ``options: …`` is replaced by what the TypedDict's own docstring says of its attributes; one
    without that line gets them at its end.
    """

    def show(call: _Function) -> _Function:
        signature = inspect.signature(call)
        fixed = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        keys = [
            # None stands for "left out" here, whatever is used in its place.
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_text(kind))
            for name, kind in options.__annotations__.items()
        ]
        call.__signature__ = signature.replace(parameters=[*fixed, *keys])  # type: ignore[attr-defined]
        call.__doc__ = with_attributes(call.__doc__, options)
        return call

    return show


def with_attributes(doc: str | None, options: type) -> str | None:
    """A docstring with what a TypedDict's own docstring says of its keys; unchanged where there are none (-OO)."""
    if doc is None or options.__doc__ is None:
        return doc
    told = inspect.cleandoc(options.__doc__).partition(_ATTRIBUTES)[2]
    doc = inspect.cleandoc(doc)
    before, found, after = doc.partition(f"    {_OPTIONS}")
    if not found:
        return f"{doc}\n\nArgs:\n{told}"
    rest = after.partition("\n")[2]
    return f"{before}{textwrap.indent(textwrap.dedent(told), '    ')}\n{rest}"


def _text(annotation: object) -> str:
    return str(getattr(annotation, "__forward_arg__", annotation))
