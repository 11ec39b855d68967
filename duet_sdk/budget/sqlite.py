"""A ledger in a file that the processes of one machine share."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from typing_extensions import override

from duet_sdk._sqlite import Database
from duet_sdk.budget import sqlite_book
from duet_sdk.budget.amount import Balance, Limit, amount_of
from duet_sdk.budget.entry import Entry
from duet_sdk.budget.ledger import BaseLedger, Hold, released_if_cancelled
from duet_sdk.budget.rules import EntryQuery, HoldRequest, Settlement
from duet_sdk.budget.sqlite_tables import FORMAT
from duet_sdk.errors import DuetError

_T = TypeVar("_T")
_AT_ONCE = 500
"""Works, expired holds, or deleted entries in one transaction: some tens of milliseconds, after which other processes
can write."""


class _Work(Generic[_T]):
    """Something to be done in a transaction, and what came of it."""

    def __init__(self, work: Callable[[sqlite3.Connection, int], _T]) -> None:
        self._work = work
        self._result: list[_T] = []
        self._error: Exception | None = None

    def do(self, db: sqlite3.Connection, now: int) -> None:
        """Do it; a refusal is this work's outcome and does not affect the others in the transaction."""
        try:
            self._result = [self._work(db, now)]
        except DuetError as error:
            self._error = error

    def fail(self, error: Exception) -> None:
        """The transaction was rolled back, and this with it."""
        self._error = error

    def outcome(self) -> _T:
        """What it returned, or raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    @property
    def failed(self) -> bool:
        """Whether it was the file that failed."""
        return self._error is not None and not isinstance(self._error, DuetError)


class SqliteLedger(BaseLedger):
    """Keeps limits over the processes of one machine, in a file that survives them, killed or not.

    What was acknowledged is lost only where the machine itself stops (power, kernel): the last moments before that.
    The file is opened on first use, in a thread of the ledger's own, which does all its work. It is readable by its
    owner only, and must not lie on a network drive.

    Args:
        path: of the file, made where it is missing.
        clock: seconds since the epoch. Where it goes back, the ledger's time stands still until it has caught up.

    >>> import asyncio, tempfile
    >>> from decimal import Decimal
    >>> from duet_sdk.budget import Amount, Limit
    >>> async def main(path):
    ...     async with SqliteLedger(path) as ledger:
    ...         await ledger.set_limit("tenant:a", Limit(usd=Decimal("1"), window="day"))
    ...         hold = await ledger.hold(["tenant:a"], Amount(usd=Decimal("0.031")))
    ...         await hold.settle(Amount(usd=Decimal("0.012")))
    ...     async with SqliteLedger(path) as again:
    ...         return (await again.balance("tenant:a")).spent.usd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(main(f"{folder}/ledger.db"))
    Decimal('0.012')
    """

    def __init__(self, path: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path).expanduser()
        self._file = Database(self.path, FORMAT)
        self._clock = clock
        self._waiting: deque[_Work[Any]] = deque()

    @override
    async def release(self, hold: Hold) -> None:
        await self._write(lambda db, now: sqlite_book.release(db, hold, now))

    @override
    async def limits(self) -> Mapping[str, Limit]:
        return await self._file.run(sqlite_book.limits)

    @override
    async def aclose(self) -> None:
        """Close the file; work in progress is finished first."""
        await self._file.aclose()

    @override
    async def _make(self, asked: HoldRequest) -> Hold:
        async def make() -> Hold:
            made_us = await self._write(lambda db, now: sqlite_book.make(db, asked, now))
            return Hold(asked.id, asked.scopes, asked.amount, asked.facts, made_us, self)

        return await released_if_cancelled(self, asked, make())

    @override
    async def _settle(self, hold: Hold, settlement: Settlement) -> None:
        await self._write(lambda db, now: sqlite_book.settle(db, hold, settlement, now))

    @override
    async def _set_limit(self, scope: str, limit: Limit | None) -> None:
        await self._write(lambda db, now: sqlite_book.set_limit(db, scope, limit, now))

    @override
    async def _balance(self, scope: str) -> Balance:
        await self._expire()
        limit, spent, overrun, held = await self._write(lambda db, now: sqlite_book.standing(db, scope, now))
        return Balance(amount_of(spent), amount_of(held), amount_of(overrun), limit)

    @override
    async def _entries(self, query: EntryQuery) -> Sequence[Entry]:
        await self._expire()
        return await self._file.run(lambda db: sqlite_book.entries(db, query))

    @override
    async def _prune(self, before_us: int) -> int:
        deleted = 0
        while batch := await self._write(lambda db, _: sqlite_book.prune(db, before_us, _AT_ONCE)):
            deleted += batch
        return deleted

    async def _expire(self) -> None:
        """Charge all that has expired, a batch at a time."""
        while await self._write(lambda db, now: sqlite_book.expire(db, now, _AT_ONCE)) == _AT_ONCE:
            pass

    async def _write(self, work: Callable[[sqlite3.Connection, int], _T]) -> _T:
        """Do the work in a transaction, together with all other work that is waiting by then.

        Every caller makes the thread empty the queue; its first turn takes everything.
        """
        mine: _Work[_T] = _Work(work)
        self._waiting.append(mine)
        try:
            await self._file.run(self._work_off)
            return await self._file.run(lambda _: mine.outcome()) if mine.failed else mine.outcome()
        finally:
            with suppress(ValueError):  # the file could not be opened: nobody is left to take it up
                self._waiting.remove(mine)

    def _work_off(self, db: sqlite3.Connection) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
        if not batch:
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            with db:
                now = sqlite_book.tick(db, self._clock())
                for each in batch:
                    each.do(db, now)
        except (sqlite3.Error, OSError, UnicodeError, OverflowError) as error:
            for each in batch:
                each.fail(error)
