"""Checks of values that a caller sets, with one wording for each kind of value."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, TypeGuard, TypeVar

from duet_sdk.errors import ConfigError, DuetError, UnknownOption

_Class = TypeVar("_Class", bound=type)
_FIELDS: Final[Mapping[str, str]] = {
    "max_tokens": "answer_tokens",
    "max_completion_tokens": "answer_tokens",
    "timeout": "deadline_s",
    "timeout_s": "deadline_s",
    "usd": "cost_usd",
    "max_usd": "cost_usd",
    "max_cost": "cost_usd",
    "max_attempts": "attempts",
    "max_retries": "attempts",
    "stop_sequences": "stop",
    "temp": "temperature",
    "text": "content",
}
"""What other libraries call a field → how it is called here."""


def whole(name: str, value: object, *, at_least: int = 1, error: type[DuetError] = ConfigError, hint: str = "") -> None:
    """Require a whole number of at least ``at_least``; ``True`` is not a number here.

    Raises:
        ConfigError: or the ``error`` given instead; ``hint`` ends its message.
    """
    if type(value) is not int or value < at_least:
        raise error(f"{name} must be a whole number of at least {at_least}, got {value!r}{hint}")


def share(name: str, value: object, *, above_zero: bool = False, error: type[DuetError] = ConfigError) -> None:
    """Require a number in [0, 1], or in (0, 1] with ``above_zero``.

    Raises:
        ConfigError: or the ``error`` given instead.
    """
    if not _is_number(value) or not 0 <= value <= 1 or (above_zero and value == 0):
        bounds = "above 0 and at most 1" if above_zero else "between 0 and 1"
        raise error(f"{name} must be {bounds}, got {value!r}")


def seconds(name: str, value: object, *, or_zero: bool = False, error: type[DuetError] = ConfigError) -> None:
    """Require a finite number above 0, or of at least 0 with ``or_zero``.

    Raises:
        ConfigError: or the ``error`` given instead.
    """
    if not _is_number(value) or not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        bounds = "at least 0" if or_zero else "above 0"
        raise error(f"{name} must be a finite number of seconds, {bounds}, got {value!r}")


def one_of(name: str, value: object, known: Collection[str], *, error: type[DuetError] = ConfigError) -> None:
    """Require one of the known words.

    Raises:
        ConfigError: or the ``error`` given instead.
    """
    if not isinstance(value, str) or value not in known:
        raise error(f"{name} {value!r} is unknown; known: {', '.join(known)}")


def _is_number(value: object) -> TypeGuard[float | Decimal]:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def tells_fields(kind: _Class) -> _Class:
    """Let a dataclass answer an argument that it does not have, or one too many, with what was probably meant."""
    init = kind.__init__  # type: ignore[misc]  # that of this very class

    @functools.wraps(init)
    def told(self: object, *given: Any, **named: Any) -> None:
        try:
            init(self, *given, **named)
        except TypeError as error:
            if (problem := _argument_problem(kind, given, named)) is None:
                raise
            raise UnknownOption(problem) from error

    setattr(kind, "__init__", told)  # noqa: B010  # assigned, it is an error to type checkers
    return kind


def _argument_problem(kind: type, given: tuple[object, ...], named: Mapping[str, object]) -> str | None:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in named:
        if name not in fields:
            meant = _FIELDS.get(name) if _FIELDS.get(name) in fields else None
            close = [meant] if meant else get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(fields)}"
            return f"{kind.__name__} has no {name!r}; {hint}"
    if len(given) > len(fields):
        return f"{kind.__name__} takes {', '.join(fields)}, and got {len(given)} values; write name=value"
    twice = [name for name in list(fields)[: len(given)] if name in named]
    missing = [
        name
        for at, (name, field) in enumerate(fields.items())
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and at >= len(given)
        and name not in named
    ]
    if twice:
        return f"{kind.__name__} got {twice[0]!r} twice, by its place and by its name"
    return f"{kind.__name__} needs {', '.join(missing)}" if missing else None
