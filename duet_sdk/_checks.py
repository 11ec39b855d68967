"""Checks of values that a caller sets, with one wording for each kind of value."""

from __future__ import annotations

import math
from collections.abc import Collection
from decimal import Decimal
from typing import TypeGuard

from duet_sdk.errors import ConfigError, DuetError


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
