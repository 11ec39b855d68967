"""Signals kept in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Self

from typing_extensions import override

from duet_sdk.cache.key import CacheKey
from duet_sdk.cache.protocol import SignalCache, check_limits, check_tenant, storable
from duet_sdk.reply import Signal


@dataclass(frozen=True, slots=True)
class _Entry:
    signal: Signal
    expires: float
    scopes: frozenset[str]


class MemorySignalCache(SignalCache):
    """Keeps the signals used last, for a time.

    Args:
        max_entries: how many; the least recently used one is evicted.
        ttl_s: seconds until a signal expires; an hour, as facts that a reasoner relied on may change.
        tenant: the only tenant that may use this object; None for all, kept apart by their keys.
        clock: seconds since the epoch.

    >>> import asyncio
    >>> async def main():
    ...     async with MemorySignalCache(ttl_s=60) as cache:
    ...         await cache.put(CacheKey("0" * 64), Signal("17 primes", tokens=3, limit=64))
    ...         return await cache.get(CacheKey("0" * 64))
    >>> asyncio.run(main()).text
    '17 primes'
    """

    def __init__(
        self,
        max_entries: int = 10_000,
        *,
        ttl_s: float = 3600.0,
        tenant: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_limits(ttl_s=ttl_s, max_entries=max_entries)
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._tenant = tenant
        self._clock = clock
        self._entries: OrderedDict[tuple[str | None, str], _Entry] = OrderedDict()
        self._lock = Lock()  # clients of several event loops, hence threads, may share the cache; held for no I/O

    @override
    async def get(self, key: CacheKey) -> Signal | None:
        check_tenant(self._tenant, key)
        place = (key.tenant, key.digest)
        with self._lock:
            entry = self._entries.get(place)
            if entry is None:
                return None
            if entry.expires <= self._clock():
                del self._entries[place]
                return None
            self._entries.move_to_end(place)
            return entry.signal

    @override
    async def put(self, key: CacheKey, signal: Signal, *, ttl_s: float | None = None) -> None:
        check_tenant(self._tenant, key)
        lasts_s = self._ttl_s if ttl_s is None else ttl_s
        check_limits(ttl_s=lasts_s)
        if not storable(signal):
            return
        place, scopes, now = (key.tenant, key.digest), frozenset(key.scopes), self._clock()
        with self._lock:
            old = self._entries.pop(place, None)
            if old is not None and old.expires > now:
                scopes |= old.scopes
            self._entries[place] = _Entry(signal, now + lasts_s, scopes)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    @override
    async def purge(self, scope: str | None = None) -> int:
        with self._lock:
            now = self._clock()
            for place in [place for place, entry in self._entries.items() if entry.expires <= now]:
                del self._entries[place]
            found = [
                (tenant, digest)
                for (tenant, digest), entry in self._entries.items()
                if (self._tenant is None or tenant == self._tenant) and (scope is None or scope in entry.scopes)
            ]
            for place in found:
                del self._entries[place]
        return len(found)

    @override
    async def aclose(self) -> None:
        """Forget every signal."""
        with self._lock:
            self._entries.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
