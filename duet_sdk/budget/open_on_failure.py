"""What to do while a ledger's store cannot be reached: continue under a limit of this process, and catch up later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from duet_sdk.budget.amount import Amount, Balance, Limit
from duet_sdk.budget.entry import Entry, EntryFacts
from duet_sdk.budget.ledger import BaseLedger, Hold
from duet_sdk.budget.memory import MemoryLedger
from duet_sdk.budget.rules import EntryQuery, HoldRequest, Settlement
from duet_sdk.budget.window import moment_of
from duet_sdk.errors import HoldMisused, LedgerError

_log = logging.getLogger(__name__)
_LOCAL: Final = "local:open"
_REST_S: Final = 5.0
"""How long a store that failed is left alone: in a longer outage one request in five seconds waits for it, not every
one, and a store that restarts is soon asked again."""
_MOST_OWED: Final = 100_000
"""Settles that are kept for a store that fails: tens of megabytes. Beyond them requests are refused, as a failure that
lasts so long needs a person."""


@dataclass(frozen=True, slots=True)
class _Owed:
    """A settle that the store has not heard of yet; without an amount, a release."""

    hold: Hold
    amount: Amount | None
    facts: EntryFacts | None


class OpenOnFailure(BaseLedger):
    """A ledger that lets requests through while its store fails, up to a limit of this process alone.

    Without it a store that fails stops every request (`LedgerError`). With it, the first failure logs a warning; holds
    are then made here, under ``local``, and scopes' own limits are not known. What is settled meanwhile is booked in
    the store once it answers again, as overrun where no hold of its was made there. What this process still owes the
    store when it dies is lost.

    Args:
        ledger: what is asked as long as it can be reached; closed with this one.
        local: all that may be spent and held here while it cannot, in each window of this limit.
        clock: seconds, never going back.

    >>> from duet_sdk.budget import RedisLedger
    >>> ledger = OpenOnFailure(RedisLedger("redis://127.0.0.1:1/0"), local=Limit(requests=100, window="hour"))
    """

    def __init__(self, ledger: BaseLedger, *, local: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._limit = local
        self._local = MemoryLedger()
        self._clock = clock
        self._open_until: float | None = None
        self._here: dict[str, Hold] = {}
        """Holds that were made here, by the id under which the store will hear of them."""
        self._owed: deque[_Owed] = deque()

    @property
    def store(self) -> BaseLedger:
        """The ledger that is asked as long as it can be reached."""
        return self._ledger

    @override
    async def release(self, hold: Hold) -> None:
        """Return all of it; deferred while the store fails."""
        if (local := self._here.pop(hold.id, None)) is not None:
            await local.release()
        else:
            await self._tell(_Owed(hold, None, None))

    @override
    async def limits(self) -> Mapping[str, Limit]:
        return await self._ledger.limits()

    @override
    async def aclose(self) -> None:
        """Tell the store what is owed, as far as it answers, and close it."""
        self._open_until = None
        await self._answers()
        if self._owed:
            _log.warning("%d settles were never booked, because the ledger could not be reached", len(self._owed))
        await self._ledger.aclose()

    @override
    async def _make(self, asked: HoldRequest) -> Hold:
        """Under the local limit while the store fails.

        Raises:
            BudgetExceeded: a scope has no room, or the local limit has none.
            LedgerError: the store fails, and more is owed to it than is kept.
        """
        if asked.id not in self._here and await self._answers():
            try:
                made = await self._hold_in(self._ledger, asked.scopes, asked)
                return Hold(made.id, made.scopes, made.amount, made.facts, made.made_us, self)
            except HoldMisused:
                raise
            except LedgerError as error:
                self._opened(error)
        if len(self._owed) >= _MOST_OWED:
            raise LedgerError(
                f"{len(self._owed)} settles are waiting for a ledger that cannot be reached; no more holds are accepted"
            )
        await self._local.set_limit(_LOCAL, self._limit)
        local = await self._hold_in(self._local, [_LOCAL], asked)
        self._here[asked.id] = local
        return Hold(asked.id, asked.scopes, asked.amount, asked.facts, local.made_us, self)

    @staticmethod
    async def _hold_in(ledger: BaseLedger, scopes: Sequence[str], asked: HoldRequest) -> Hold:
        return await ledger.hold(scopes, asked.amount, key=asked.key, ttl_s=asked.ttl_s, facts=asked.facts)

    @override
    async def _settle(self, hold: Hold, settlement: Settlement) -> None:
        """Kept for later while the store fails."""
        if (local := self._here.get(hold.id)) is not None:
            await local.settle(settlement.amount, settlement.facts)
        await self._tell(_Owed(hold, settlement.amount, settlement.facts))

    @override
    async def _set_limit(self, scope: str, limit: Limit | None) -> None:
        await self._ledger.set_limit(scope, limit)

    @override
    async def _balance(self, scope: str) -> Balance:
        """What is owed to the store is not in it yet."""
        return await self._ledger.balance(scope)

    @override
    async def _entries(self, query: EntryQuery) -> Sequence[Entry]:
        """What is owed to the store is not among them yet."""
        return await self._ledger.entries(
            scope=query.scope, since=query.since, until=query.until, after=query.after, most=query.most
        )

    @override
    async def _prune(self, before_us: int) -> int:
        return await self._ledger.prune(moment_of(before_us))

    async def _tell(self, owed: _Owed) -> None:
        if await self._answers():
            try:
                await self._pay(owed)
            except HoldMisused:
                raise
            except LedgerError as error:
                self._opened(error)
            else:
                return
        self._owed.append(owed)

    async def _answers(self) -> bool:
        """Whether the store is to be asked; tells it first what it is owed."""
        if self._open_until is not None and self._clock() < self._open_until:
            return False
        count = len(self._owed)
        while self._owed:
            owed = self._owed.popleft()
            try:
                await self._pay(owed)
            except HoldMisused as error:
                _log.warning("a deferred settle was rejected: %s", error)
            except LedgerError as error:
                self._owed.appendleft(owed)
                self._opened(error)
                return False
            except asyncio.CancelledError:
                self._owed.appendleft(owed)  # somebody else's: whoever comes next pays it
                raise
        if count:
            _log.warning("the ledger responds again; %d settles it had missed were booked", count)
            self._open_until = None
        return True

    async def _pay(self, owed: _Owed) -> None:
        if owed.amount is None:
            await self._ledger.release(owed.hold)
        else:
            await self._ledger.settle(owed.hold, owed.amount, owed.facts)
        self._here.pop(owed.hold.id, None)

    def _opened(self, error: LedgerError) -> None:
        if self._open_until is None:
            _log.warning(
                "the ledger failed: %s; requests continue under this process's own limit, %s", error, self._limit
            )
        self._open_until = self._clock() + _REST_S
