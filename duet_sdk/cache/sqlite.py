"""Signals kept in a file that several processes may share."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import override

from duet_sdk._sqlite import Database
from duet_sdk.cache.file import FORMAT
from duet_sdk.cache.key import CacheKey
from duet_sdk.cache.protocol import SignalCache, check_limits, check_tenant, storable
from duet_sdk.reply import Signal


class SqliteSignalCache(SignalCache):
    """Keeps the signals used last in a file, for a time; what was stored outlives the process, killed or not.

    The file holds signals as they are: it is readable by its owner only, and deleted content is overwritten. It is
    opened on first use, in a thread of the cache's own, which does all its work.

    Args:
        path: of the file, made where it is missing; it must not lie on a network drive.
        ttl_s: seconds until a signal expires.
        max_entries: how many the file holds for all tenants; the least recently used one is evicted.
        tenant: the only tenant that may use this object; None for all, kept apart by their keys.
        clock: seconds since the epoch.

    >>> import asyncio, tempfile
    >>> async def main(path):
    ...     async with SqliteSignalCache(path) as cache:
    ...         await cache.put(CacheKey("0" * 64), Signal("17 primes", tokens=3, limit=64))
    ...     async with SqliteSignalCache(path) as again:
    ...         return await again.get(CacheKey("0" * 64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(main(f"{folder}/signals.db")).text
    '17 primes'
    """

    def __init__(
        self,
        path: str | Path,
        *,
        ttl_s: float = 3600.0,
        max_entries: int = 10_000,
        tenant: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_limits(ttl_s=ttl_s, max_entries=max_entries)
        self._file = Database(Path(path).expanduser(), FORMAT)
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._tenant = tenant
        self._clock = clock

    @override
    async def get(self, key: CacheKey) -> Signal | None:
        check_tenant(self._tenant, key)
        return await self._file.run(lambda db: _read(db, key, now=self._clock()))

    @override
    async def put(self, key: CacheKey, signal: Signal, *, ttl_s: float | None = None) -> None:
        check_tenant(self._tenant, key)
        lasts_s = self._ttl_s if ttl_s is None else ttl_s
        check_limits(ttl_s=lasts_s)
        if storable(signal):
            await self._file.run(
                lambda db: _write(db, key, signal, now=self._clock(), ttl_s=lasts_s, max_entries=self._max_entries)
            )

    @override
    async def purge(self, scope: str | None = None) -> int:
        """Delete what was stored under a scope; it leaves the file once no other process reads it."""
        tenant = None if self._tenant is None else _place(self._tenant)
        return await self._file.run(lambda db: _delete(db, tenant=tenant, scope=scope, now=self._clock()))

    @override
    async def aclose(self) -> None:
        """Close the file; work in progress is finished first."""
        await self._file.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _place(tenant: str | None) -> str:
    """The tenant as a column that is never NULL, as NULL equals nothing."""
    return "" if tenant is None else f"tenant:{tenant}"


def _read(db: sqlite3.Connection, key: CacheKey, *, now: float) -> Signal | None:
    row = db.execute(
        "SELECT id, expires, text, tokens, token_limit, truncated, honoured, counted_by FROM signal "
        "WHERE tenant = ? AND digest = ?",
        (_place(key.tenant), key.digest),
    ).fetchone()
    if row is None:
        return None
    row_id, expires, text, tokens, limit, truncated, honoured, counted_by = row
    if expires <= now:
        with suppress(sqlite3.OperationalError):  # another process writes: it, or the next put, will sweep
            db.execute("DELETE FROM signal WHERE id = ? AND expires <= ?", (row_id, now))
        return None
    with suppress(sqlite3.OperationalError):  # a hit is worth more than its place in the order
        db.execute("UPDATE signal SET used = (SELECT max(used) + 1 FROM signal) WHERE id = ?", (row_id,))
    return Signal(
        text=text.decode("utf-8", "surrogatepass"),
        tokens=tokens,
        limit=limit,
        truncated=bool(truncated),
        honoured=bool(honoured),
        counted_by=counted_by,
    )


def _write(
    db: sqlite3.Connection, key: CacheKey, signal: Signal, *, now: float, ttl_s: float, max_entries: int
) -> None:
    place = (_place(key.tenant), key.digest)
    values = (
        signal.text.encode("utf-8", "surrogatepass"),
        signal.tokens,
        signal.limit,
        signal.truncated,
        signal.honoured,
        signal.counted_by,
    )
    db.execute("BEGIN IMMEDIATE")
    with db:
        db.execute("DELETE FROM signal WHERE expires <= ?", (now,))
        db.execute(
            "INSERT INTO signal (tenant, digest, text, tokens, token_limit, truncated, honoured, counted_by, created, "
            "expires, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT ifnull(max(used), 0) + 1 FROM signal)) "
            "ON CONFLICT (tenant, digest) DO UPDATE SET text = excluded.text, tokens = excluded.tokens, "
            "token_limit = excluded.token_limit, truncated = excluded.truncated, honoured = excluded.honoured, "
            "counted_by = excluded.counted_by, created = excluded.created, expires = excluded.expires, "
            "used = excluded.used",
            (*place, *values, now, now + ttl_s),
        )
        (row_id,) = db.execute("SELECT id FROM signal WHERE tenant = ? AND digest = ?", place).fetchone()
        db.executemany("INSERT OR IGNORE INTO label VALUES (?, ?)", [(scope, row_id) for scope in key.scopes])
        db.execute(
            "DELETE FROM signal WHERE id IN (SELECT id FROM signal ORDER BY used DESC LIMIT -1 OFFSET ?)",
            (max_entries,),
        )


def _delete(db: sqlite3.Connection, *, tenant: str | None, scope: str | None, now: float) -> int:
    db.execute("BEGIN IMMEDIATE")
    with db:
        db.execute("DELETE FROM signal WHERE expires <= ?", (now,))
        deleted = db.execute(
            "DELETE FROM signal WHERE (:tenant IS NULL OR tenant = :tenant) "
            "AND (:scope IS NULL OR id IN (SELECT signal FROM label WHERE scope = :scope))",
            {"tenant": tenant, "scope": scope},
        ).rowcount
    with suppress(sqlite3.OperationalError):
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # else the log keeps the old content for a while
    return deleted
