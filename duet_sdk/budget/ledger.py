"""What the pipeline expects of every ledger: spending is held before it happens, and settled or released after it."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from duet_sdk._checks import seconds
from duet_sdk._tasks import to_the_end
from duet_sdk.budget.amount import Amount, Balance, Limit, limit_of
from duet_sdk.budget.entry import Entry, EntryFacts
from duet_sdk.budget.report import Grouping, ReportRow, report
from duet_sdk.budget.rules import EntryQuery, HoldRequest, Settlement, waiting_helps
from duet_sdk.budget.scope import check_scope, check_scopes
from duet_sdk.budget.window import microseconds_of
from duet_sdk.errors import BudgetExceeded, DuetError, InvalidRequest
from duet_sdk.types import Json

HOLD_TTL_S: Final = 600.0
"""After so many seconds a hold counts as left behind by a dead process, and is charged in full. Ten minutes outlast
all but the longest attempts; a request with a deadline asks for its own time."""
_NO_FACTS: Final = EntryFacts()
_FIRST_WAIT_S: Final = 0.005
"""First pause before a hold is tried again: a few round trips to a store, far below the time to a first token."""
_LONGEST_WAIT_S: Final = 0.25
"""Pauses double up to this: a caller notices room that late at most, and many waiting callers ask four times a second
each."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount reserved in all its scopes until it is settled, released, or expired."""

    id: str
    scopes: tuple[str, ...]
    amount: Amount
    facts: EntryFacts
    made_us: int
    """Microseconds since the epoch by the ledger's clock; the windows of this moment are charged."""
    _ledger: BaseLedger = field(repr=False, compare=False)

    async def settle(self, amount: Amount, facts: EntryFacts | None = None) -> None:
        """Book what was really spent and return the rest, as `BaseLedger.settle` does."""
        await self._ledger.settle(self, amount, facts)

    async def release(self) -> None:
        """Return all of it, as `BaseLedger.release` does."""
        await self._ledger.release(self)


class BaseLedger(ABC):
    """Keeps the limits of scopes over many requests. One object serves many concurrent requests.

    ``spent - overrun + held ≤ limit`` holds at every moment in every scope, whatever runs concurrently or dies.

    The public methods check their arguments and wait; a ledger of its own kind implements the underscored ones, which
    get checked values only, and ``release`` and ``limits``.
    """

    async def hold(
        self,
        scopes: Sequence[str],
        amount: Amount,
        *,
        key: str | None = None,
        ttl_s: float = HOLD_TTL_S,
        wait_s: float = 0.0,
        facts: EntryFacts = _NO_FACTS,
    ) -> Hold:
        """Reserve an amount in all scopes, or in none. If cancelled, nothing is held.

        Args:
            scopes: ``kind:name`` each; one without a limit is only counted; none at all is allowed.
            amount: the most that the attempt can spend. With an unknown price, no scope may have a limit in money.
            key: makes it idempotent: a key that is known gives the hold that was made with it, whatever became of it
                since, unless it was released. Keys are remembered for a day after the hold's end.
            ttl_s: seconds after which it is charged in full, unless it was settled or released.
            wait_s: longest wait for room that only held amounts take; what is spent is not waited for.
            facts: what it is for.

        Raises:
            BudgetExceeded: a scope has no room; nothing is held.
            InvalidRequest: a malformed scope, key, amount or time.
            ConfigError: the price is unknown and a scope has a limit in money.
            HoldMisused: the key was used for another hold.
            LedgerError: the store failed.
        """
        asked = HoldRequest(check_scopes(scopes), amount, key, ttl_s, facts)
        seconds("wait_s of a hold", wait_s, or_zero=True, error=InvalidRequest)
        if not wait_s:
            return await self._make(asked)
        clock = asyncio.get_running_loop().time
        end, pause_s = clock() + wait_s, _FIRST_WAIT_S
        while True:
            try:
                return await self._make(asked)
            except BudgetExceeded as error:
                if not waiting_helps(error) or clock() >= end:
                    raise
            # At random, so that those who wait do not all ask at once.
            await asyncio.sleep(min(random.uniform(pause_s / 2, pause_s), max(0.0, end - clock())))  # noqa: S311
            pause_s = min(2 * pause_s, _LONGEST_WAIT_S)

    async def settle(self, hold: Hold, amount: Amount, facts: EntryFacts | None = None) -> None:
        """Book what was really spent, and return the rest.

        Above its hold it is booked in full, the excess as overrun. After expiry it replaces the charge. An unknown
        price (usd None) charges the money that was held. Repeated with the same amount it does nothing. A hold that
        the store no longer knows (released before, or lost with the store's memory) is booked in full as overrun.

        Args:
            hold: from this ledger, or from another object on the same store.
            amount: as billed.
            facts: in place of those of the hold.

        Raises:
            InvalidRequest: an amount that no ledger counts.
            HoldMisused: it was settled before, with another amount; nothing changed.
            LedgerError: the store failed.
        """
        await self._settle(hold, Settlement.of(hold.amount, amount, facts or hold.facts))

    @abstractmethod
    async def release(self, hold: Hold) -> None:
        """Return all of it: nothing was spent. After expiry it takes the charge back, after a settle it does nothing.

        Raises:
            LedgerError: the store failed.
        """

    async def set_limit(self, scope: str, limit: Limit | Json | None) -> None:
        """Limit a scope from now on, None to count it only. What was spent and held in the window counts at once.

        A limit below what is spent refuses every further hold, and loses nothing. Another window than before is
        counted anew from the entries, as far back as they are kept.

        Args:
            scope: ``kind:name``.
            limit: a dict with a limit's fields does as well.

        Raises:
            InvalidRequest: a malformed scope.
            ConfigError: something that is not a limit.
            LedgerError: the store failed.
        """
        await self._set_limit(check_scope(scope), limit_of(limit))

    @abstractmethod
    async def limits(self) -> Mapping[str, Limit]:
        """Every limit by its scope.

        Raises:
            LedgerError: the store failed.
        """

    async def balance(self, scope: str) -> Balance:
        """The state of a scope in its current window; all zeros if nothing was ever spent in it.

        Raises:
            InvalidRequest: a malformed scope.
            LedgerError: the store failed.
        """
        return await self._balance(check_scope(scope))

    async def entries(
        self,
        *,
        scope: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Entry | None = None,
        most: int = 1000,
    ) -> Sequence[Entry]:
        """The first entries in the order in which they were booked; page on with ``after=page[-1]``.

        Args:
            scope: only those in this scope.
            since: only those booked at this moment or later.
            until: only those booked before it.
            after: only those that were booked after this one.
            most: how many at most.

        Raises:
            InvalidRequest: a malformed scope, a moment without a time zone, or a ``most`` below 0.
            LedgerError: the store failed.
        """
        return await self._entries(EntryQuery(scope, since, until, after, most))

    async def report(
        self,
        by: Grouping,
        *,
        scope: str | None = None,
        model: str | None = None,
        stage: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[ReportRow]:
        """What the entries add up to: a row for each group, in the order of their names.

        Args:
            by: what makes a group: ``scope``, ``model``, ``stage``, ``kind`` or ``day`` (of the hold, in UTC). By
                scope, an entry is in the row of each of its scopes.
            scope: only entries in this scope.
            model: only those of this model, by its full name.
            stage: only those of this stage.
            since: only those booked at this moment or later.
            until: only those booked before it.

        Raises:
            InvalidRequest: an unknown group, a malformed scope, or a moment without a time zone.
            LedgerError: the store failed.
        """
        return await report(self, by, scope=scope, model=model, stage=stage, since=since, until=until)

    async def prune(self, before: datetime) -> int:
        """Delete the entries booked before that moment; returns how many.

        What a scope with a limit has spent stays spent; one without, unused since then (to the hour), is forgotten.

        Raises:
            InvalidRequest: a moment without a time zone.
            LedgerError: the store failed.
        """
        return await self._prune(microseconds_of(before))

    async def aclose(self) -> None:  # noqa: B027 - a default: what is kept in memory needs no closing
        """Free what the ledger holds open; its holds stay. Calling it twice is harmless."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def _make(self, asked: HoldRequest) -> Hold:
        """Make the hold, or find it made under its id; cancelled, leave none behind. Errors as of `hold`."""

    @abstractmethod
    async def _settle(self, hold: Hold, settlement: Settlement) -> None:
        """Book the settlement. Errors as of `settle`."""

    @abstractmethod
    async def _set_limit(self, scope: str, limit: Limit | None) -> None:
        """Store the limit; with another window than before, count the scope anew."""

    @abstractmethod
    async def _balance(self, scope: str) -> Balance:
        """Where the scope stands, what expired by now charged."""

    @abstractmethod
    async def _entries(self, query: EntryQuery) -> Sequence[Entry]:
        """The entries that match, what expired by now among them."""

    @abstractmethod
    async def _prune(self, before_us: int) -> int:
        """Delete the entries booked before; returns how many."""


async def released_if_cancelled(ledger: BaseLedger, asked: HoldRequest, making: Coroutine[None, None, Hold]) -> Hold:
    """The hold, where it is made in another thread or place; a caller cancelled meanwhile leaves none behind."""
    try:
        return await to_the_end(making)
    except asyncio.CancelledError:
        # Made or not: where an event loop ends, the making is cancelled as well, and nobody learns which.
        hold = Hold(asked.id, asked.scopes, asked.amount, asked.facts, 0, ledger)
        with suppress(DuetError):  # the store failed: then it expires
            await to_the_end(hold.release())
        raise
