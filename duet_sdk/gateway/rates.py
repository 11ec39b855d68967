"""Requests and tokens a minute: what is counted, and the counts of one process."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

MINUTE_S: Final = 60.0
"""What limits a minute are counted over."""
_Kept = TypeVar("_Kept")
_MOST_NAMES: Final = 65_536
"""Names that are counted at once, those used last: many more than keys and sessions in a minute, in some megabytes."""


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``most`` requests of a name begin within any 60 s."""

    name: str
    most: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens of a name: ``most`` of them at once, and as many again in a minute.

    What requests take above what they had held is owed, and refilled before the next one begins.
    """

    name: str
    most: int
    held: int
    """What a request holds until it is known what it took; at most ``most``, so that one always begins."""

    @property
    def wanted(self) -> int:
        """What must be there for it to begin."""
        return min(self.held, self.most)


@dataclass(frozen=True, slots=True)
class Wait:
    """A request may not begin yet."""

    name: str
    """Of the window or the bucket that is used up."""
    wait_s: float
    """Seconds until it may, if nothing else begins."""


class Rates(Protocol):
    """Counts requests and tokens of names."""

    async def take(self, windows: Sequence[Window], bucket: Bucket | None) -> Wait | None:
        """Count a request in all of them, or, where one of them is used up, in none.

        Raises:
            LedgerError: the store failed.
        """

    async def settle(self, bucket: Bucket, tokens: int) -> None:
        """Book what a request really took, in place of what it held.

        Raises:
            LedgerError: the store failed.
        """

    async def aclose(self) -> None:
        """Free what is held open."""


class LocalRates:
    """Counts of this process alone.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()
        """Name → when its latest requests began."""
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Name → tokens that were there, and when."""

    async def take(self, windows: Sequence[Window], bucket: Bucket | None) -> Wait | None:
        """As `Rates.take`."""
        now = self._clock()
        for window in windows:
            before = self._begun.get(window.name, ())
            if len(before) >= window.most and (wait_s := before[-window.most] + MINUTE_S - now) > 0:
                return Wait(window.name, wait_s)
        if bucket is not None:
            level = self._level(bucket, now)
            if level < bucket.wanted:
                return Wait(bucket.name, (bucket.wanted - level) * MINUTE_S / bucket.most)
            self._set_level(bucket, level - bucket.wanted, now)
        for window in windows:
            begun = self._begun.get(window.name)
            if begun is None or begun.maxlen != window.most:  # new, or its limit was changed
                begun = self._begun[window.name] = deque(begun or (), maxlen=window.most)
            begun.append(now)
            _keep(self._begun, window.name)
        return None

    async def settle(self, bucket: Bucket, tokens: int) -> None:
        """As `Rates.settle`."""
        now = self._clock()
        self._set_level(bucket, min(bucket.most, self._level(bucket, now) + bucket.wanted - tokens), now)

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _level(self, bucket: Bucket, now: float) -> float:
        level, at = self._levels.get(bucket.name, (bucket.most, now))
        return min(bucket.most, level + (now - at) * bucket.most / MINUTE_S)

    def _set_level(self, bucket: Bucket, level: float, now: float) -> None:
        self._levels[bucket.name] = level, now
        _keep(self._levels, bucket.name)


def _keep(names: OrderedDict[str, _Kept], name: str) -> None:
    names.move_to_end(name)
    if len(names) > _MOST_NAMES:
        names.popitem(last=False)
