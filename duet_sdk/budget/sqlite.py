"""A ledger in a file that the processes of one machine share."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from duet_sdk._sqlite import Database
from duet_sdk.budget import sqlite_book as rows
from duet_sdk.budget.amount import Amount, Balance, Limit, amount_of
from duet_sdk.budget.ledger import HOLD_TTL_S, Entry, EntryFacts, Hold
from duet_sdk.budget.rules import Asked, check_moment, hold_in_time, unless_cancelled
from duet_sdk.budget.scope import check_scope
from duet_sdk.budget.sqlite_tables import FORMAT
from duet_sdk.errors import DuetError

_T = TypeVar("_T")
_AT_ONCE = 500
"""Works, expired holds, or deleted entries in one transaction, so that other processes can write in between."""


class _Work(Generic[_T]):
    """Something to be done in a transaction, and what came of it."""

    def __init__(self, work: Callable[[sqlite3.Connection, int], _T]) -> None:
        self._work = work
        self._result: list[_T] = []
        self._error: Exception | None = None

    def do(self, db: sqlite3.Connection, now: int) -> None:
        """Do it; a refusal is its own outcome, and nothing to the others in the transaction."""
        try:
            self._result = [self._work(db, now)]
        except DuetError as error:
            self._error = error

    def fail(self, error: Exception) -> None:
        """The transaction was rolled back, and this with it."""
        self._error = error

    def outcome(self) -> _T:
        """What it gave, or raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    @property
    def failed(self) -> bool:
        """Whether it was the file that failed."""
        return self._error is not None and not isinstance(self._error, DuetError)


class SqliteLedger:
    """Keeps limits over the processes of one machine, in a file that survives them, killed or not.

    What was acknowledged is lost only where the machine itself stops (power, kernel): the last moments before that.
    The file is opened on first use, in a thread of the ledger's own, which does all its work. It is readable by its
    owner only, and may lie on no network drive.

    Args:
        path: of the file, made where it is missing.
        clock: seconds since the epoch. Where it goes back, the ledger's time stands still until it has caught up.

    >>> import asyncio, tempfile
    >>> from decimal import Decimal
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

    async def hold(
        self,
        scopes: Sequence[str],
        amount: Amount,
        *,
        key: str | None = None,
        ttl_s: float = HOLD_TTL_S,
        wait_s: float = 0.0,
        facts: EntryFacts = EntryFacts(),
    ) -> Hold:
        """See `Ledger.hold`."""
        asked = Asked.of(scopes, amount, key=key, ttl_s=ttl_s, facts=facts)

        async def make() -> Hold:
            made = await self._write(lambda db, now: rows.make(db, asked, now))
            return Hold(asked.id, asked.scopes, amount, facts, made, self)

        return await hold_in_time(lambda: unless_cancelled(make()), wait_s)

    async def settle(self, hold: Hold, amount: Amount, facts: EntryFacts | None = None) -> None:
        """See `Ledger.settle`."""
        real, priced = amount.units, amount.usd is not None
        if not priced:
            real, priced = (hold.amount.units[0], *real[1:]), hold.amount.usd is not None
        told = facts or hold.facts
        await self._write(lambda db, now: rows.settle(db, hold, real, priced=priced, facts=told, now=now))

    async def release(self, hold: Hold) -> None:
        """See `Ledger.release`."""
        await self._write(lambda db, now: rows.release(db, hold, now))

    async def set_limit(self, scope: str, limit: Limit | None) -> None:
        """See `Ledger.set_limit`."""
        check_scope(scope)
        await self._write(lambda db, now: rows.set_limit(db, scope, limit, now))

    async def limits(self) -> Mapping[str, Limit]:
        """See `Ledger.limits`."""
        return await self._file.run(rows.limits)

    async def balance(self, scope: str) -> Balance:
        """See `Ledger.balance`."""
        check_scope(scope)
        await self._expire()
        limit, spent, overrun, held = await self._write(lambda db, now: rows.standing(db, scope, now))
        return Balance(amount_of(spent), amount_of(held), amount_of(overrun), limit)

    async def entries(
        self,
        *,
        scope: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Entry | None = None,
        most: int = 1000,
    ) -> Sequence[Entry]:
        """See `Ledger.entries`."""
        if scope is not None:
            check_scope(scope)
        start, end = check_moment(since), check_moment(until)
        await self._expire()
        return await self._file.run(
            lambda db: rows.entries(
                db, scope=scope, since=start, until=end, after=after.number if after else 0, most=most
            )
        )

    async def prune(self, before: datetime) -> int:
        """See `Ledger.prune`."""
        end, deleted = check_moment(before) or 0, 0
        while batch := await self._write(lambda db, _: rows.prune(db, end, _AT_ONCE)):
            deleted += batch
        return deleted

    async def aclose(self) -> None:
        """Close the file; what is under way is finished first."""
        await self._file.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _expire(self) -> None:
        """Charge all that has expired, a batch at a time."""
        while await self._write(lambda db, now: rows.expire(db, now, _AT_ONCE)) == _AT_ONCE:
            pass

    async def _write(self, work: Callable[[sqlite3.Connection, int], _T]) -> _T:
        """Do the work in a transaction, with all else that waits for one by then.

        Every caller sends the thread to work off what waits; the first time it comes, it takes all.
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
                now = rows.tick(db, self._clock())
                for each in batch:
                    each.do(db, now)
        except (sqlite3.Error, OSError) as error:
            for each in batch:
                each.fail(error)
