"""The time that a limit applies to: by the UTC calendar, rolling, or without end.

Times are whole microseconds since the epoch, so that every store computes the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from duet_sdk.errors import ConfigError, InvalidRequest

SECOND: Final = 1_000_000
"""In microseconds, the unit of every moment and length here."""
_LENGTHS: Final = {"minute": 60 * SECOND, "hour": 3600 * SECOND, "day": 86_400 * SECOND}
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_S: Final = 31 * 86_400
"""Longest rolling window: a month, so that few slices and holds have to be kept."""
_NEVER: Final = 1 << 62
"""Later than any moment, and still a signed 64-bit integer for every store."""
SLICES: Final = 60
"""A rolling window is counted in so many slices: what was spent leaves it late by at most a sixtieth of
its length, and a hold reads and writes few sums."""


@dataclass(frozen=True, slots=True)
class Window:
    """Divides time into slices whose sums are kept: a calendar window is one slice, a rolling one is several.

    >>> day = window_of("day")
    >>> day.slice_of(86_400_000_001) == day.slice_of(2 * 86_400_000_000 - 1) == 86_400_000_000
    True
    """

    name: str | None
    slice_of: Callable[[int], int]
    """A moment → the start of the slice that it belongs to."""
    next_slice: Callable[[int], int]
    """The start of a slice → that of the next."""
    length: int = 0
    """Of a rolling window; 0 for all others."""

    def oldest(self, now: int) -> int:
        """The start of the oldest slice that still counts at that moment."""
        return self.slice_of(max(0, now - self.length))

    def turns(self, now: int) -> int:
        """When the oldest slice will be another one."""
        return self.next_slice(self.oldest(now)) + self.length

    def until(self, now: int) -> str:
        """When room comes back at the latest, as words for an error; empty where it never does."""
        if self.name is None:
            return ""
        if self.length:
            return f"wait until spending is older than {self.name.removeprefix('rolling:')}"
        return f"wait for the next {self.name}, from {moment_of(self.turns(now)):%Y-%m-%d %H:%M} UTC"


@lru_cache(maxsize=256)
def window_of(name: str | None) -> Window:
    """The window of that name; None for one that never ends.

    Raises:
        ConfigError: there is no such window.
    """
    if name is None:
        return Window(None, lambda _: 0, lambda _: _NEVER)
    if name == "month":
        return Window(name, _month, lambda start: _month(start + 31 * _LENGTHS["day"]))
    if name in _LENGTHS:
        return _even(name, _LENGTHS[name], 0)
    match = re.fullmatch(r"rolling:([1-9][0-9]{0,8})([smhd])", name)
    if match is None or not 1 <= int(match[1]) * _UNITS_S[match[2]] <= _LONGEST_S:
        raise ConfigError(
            f"unknown window {name!r}: use minute, hour, day or month, rolling: followed by a time from 1s to 31d "
            "(rolling:24h, rolling:90m), or omit it for a limit that never resets"
        )
    length = int(match[1]) * _UNITS_S[match[2]] * SECOND
    return _even(name, -(-length // SLICES), length)


def _even(name: str, slice_length: int, length: int) -> Window:
    return Window(name, lambda at: at - at % slice_length, lambda start: start + slice_length, length)


def _month(at: int) -> int:
    first = moment_of(at).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * SECOND


def moment_of(at: int) -> datetime:
    """Microseconds since the epoch as a moment in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=at)


def microseconds_of(moment: datetime) -> int:
    """A moment → microseconds since the epoch, exactly.

    Raises:
        InvalidRequest: it has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidRequest("a moment needs a time zone, such as datetime.now(UTC); local time is not assumed")
    return (moment - _EPOCH) // timedelta(microseconds=1)
