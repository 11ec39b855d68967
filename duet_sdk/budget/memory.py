"""A ledger in this process."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Self

from duet_sdk.budget.amount import NOTHING, Amount, Balance, Limit, Units, amount_of, usd_of
from duet_sdk.budget.booking import (
    EXPIRED_AT_ONCE,
    Asked,
    Booked,
    Standing,
    book,
    check_moment,
    check_room,
    hold_in_time,
    settled_otherwise,
    used_otherwise,
)
from duet_sdk.budget.ledger import HOLD_TTL_S, Entry, EntryFacts, Hold
from duet_sdk.budget.scope import check_scope
from duet_sdk.budget.window import SECOND, Window, moment_of, window_of


@dataclass(slots=True, eq=False)
class _Held:
    """A hold, and what became of it."""

    hold: Hold
    units: Units
    priced: bool
    expires: int
    charged: bool = False
    """Whether it expired."""
    real: Units | None = None
    """What it was settled with."""


@dataclass(slots=True)
class _Tally:
    spent: Units = NOTHING
    overrun: Units = NOTHING
    held: Units = NOTHING


@dataclass(slots=True)
class _Account:
    """A scope's limit and the slices of its present window."""

    limit: Limit | None = None
    units: tuple[int | None, ...] = ()
    window: Window = field(default_factory=lambda: window_of(None))
    slices: dict[int, _Tally] = field(default_factory=dict)
    used: int = 0
    """When something was last held or booked in it."""

    def tally(self, now: int) -> _Tally:
        """The sum over the present window; what has left it is forgotten."""
        oldest = self.window.oldest(now)
        for start in [start for start in self.slices if start < oldest]:
            del self.slices[start]
        total = _Tally()
        for tally in self.slices.values():
            total.spent = _plus(total.spent, tally.spent)
            total.overrun = _plus(total.overrun, tally.overrun)
            total.held = _plus(total.held, tally.held)
        return total

    def change(self, made: int, now: int, *, spent: Units, overrun: Units, held: Units) -> None:
        start = self.window.slice_of(made)
        if start < self.window.oldest(now):
            return
        tally = self.slices.setdefault(start, _Tally())
        tally.spent = _plus(tally.spent, spent)
        tally.overrun = _plus(tally.overrun, overrun)
        tally.held = _plus(tally.held, held)


@dataclass(slots=True)
class _Line:
    """An entry at rest."""

    number: int
    booked: int
    hold: Hold
    facts: EntryFacts
    outcome: Booked
    priced: bool


class MemoryLedger:
    """Keeps limits over the requests of one process, for as long as it lives; its threads may share it.

    Args:
        most_entries: how many entries, ended holds, and scopes without a limit are kept; the oldest make room.
        clock: seconds since the epoch. Where it goes back, the ledger's time stands still until it has caught up.

    >>> import asyncio
    >>> from decimal import Decimal
    >>> async def main():
    ...     ledger = MemoryLedger()
    ...     await ledger.set_limit("tenant:a", Limit(usd=Decimal("1"), window="day"))
    ...     hold = await ledger.hold(["tenant:a", "session:7"], Amount(usd=Decimal("0.031"), reasoner_tokens=840))
    ...     await hold.settle(Amount(usd=Decimal("0.012"), reasoner_tokens=310))
    ...     return (await ledger.balance("tenant:a")).spent.usd
    >>> asyncio.run(main())
    Decimal('0.012')
    """

    def __init__(self, *, most_entries: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._most = most_entries
        self._time = 0
        self._number = 0
        self._limited: dict[str, _Account] = {}
        self._counted: OrderedDict[str, _Account] = OrderedDict()
        self._open: dict[str, _Held] = {}
        self._due: list[tuple[int, str]] = []
        """Heap of when each hold expires; those that ended before are passed over."""
        self._ended: OrderedDict[str, _Held] = OrderedDict()
        self._lines: deque[_Line] = deque(maxlen=most_entries)
        self._lock = Lock()  # several event loops, hence threads, may share the ledger; held for no I/O

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
            with self._lock:
                return self._make(asked, amount)

        return await hold_in_time(make, wait_s)

    async def settle(self, hold: Hold, amount: Amount, facts: EntryFacts | None = None) -> None:
        """See `Ledger.settle`."""
        units = amount.units
        with self._lock:
            self._settle(hold, units, amount.usd is not None, facts or hold.facts)

    async def release(self, hold: Hold) -> None:
        """See `Ledger.release`."""
        with self._lock:
            now = self._now()
            known = self._open.get(hold.id)
            if known is not None:
                del self._open[hold.id]
                self._change(hold, now, Booked("settled", NOTHING, NOTHING), given_back=known.units)
            elif (ended := self._ended.get(hold.id)) is not None and ended.charged and ended.real is None:
                self._settle(ended.hold, NOTHING, ended.priced, ended.hold.facts)

    async def set_limit(self, scope: str, limit: Limit | None) -> None:
        """See `Ledger.set_limit`."""
        check_scope(scope)
        with self._lock:
            now = self._now()
            account = self._account(scope)
            (self._counted if limit is None else self._limited)[scope] = account
            (self._limited if limit is None else self._counted).pop(scope, None)
            window = window_of(None if limit is None else limit.window)
            account.limit, account.units = limit, () if limit is None else limit.units
            if window is not account.window:
                account.window, account.slices = window, {}
                self._count_again(scope, account, now)

    async def limits(self) -> Mapping[str, Limit]:
        """See `Ledger.limits`."""
        with self._lock:
            return {scope: a.limit for scope, a in sorted(self._limited.items()) if a.limit is not None}

    async def balance(self, scope: str) -> Balance:
        """See `Ledger.balance`."""
        check_scope(scope)
        with self._lock:
            now = self._now()
            self._expire(now, len(self._open))
            account = self._limited.get(scope) or self._counted.get(scope) or _Account()
            tally = account.tally(now)
        return Balance(amount_of(tally.spent), amount_of(tally.held), amount_of(tally.overrun), account.limit)

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
        start, end, first = check_moment(since), check_moment(until), after.number if after else 0
        found: list[Entry] = []
        with self._lock:
            self._expire(self._now(), len(self._open))
            for line in self._lines:
                if len(found) >= most:
                    break
                if (
                    line.number > first
                    and (scope is None or scope in line.hold.scopes)
                    and (start is None or line.booked >= start)
                    and (end is None or line.booked < end)
                ):
                    found.append(_entry(line))
        return found

    async def prune(self, before: datetime) -> int:
        """See `Ledger.prune`."""
        end = check_moment(before) or 0
        with self._lock:
            kept = [line for line in self._lines if line.booked >= end]
            deleted = len(self._lines) - len(kept)
            self._lines = deque(kept, maxlen=self._most)
            for scope in [scope for scope, account in self._counted.items() if account.used < end]:
                del self._counted[scope]
        return deleted

    async def aclose(self) -> None:
        """Nothing is open: the ledger can go on being used."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _now(self) -> int:
        self._time = max(self._time, int(self._clock() * SECOND))
        return self._time

    def _make(self, asked: Asked, amount: Amount) -> Hold:
        now = self._now()
        self._expire(now, EXPIRED_AT_ONCE)
        known = self._open.get(asked.id) or self._ended.get(asked.id)
        if known is not None:
            if (known.hold.scopes, known.units, known.priced) != (asked.scopes, asked.units, asked.priced):
                raise used_otherwise(asked.id)
            return known.hold
        check_room(asked, self._standings(asked, now), now)
        hold = Hold(asked.id, asked.scopes, amount, asked.facts, now, self)
        for scope in asked.scopes:
            self._account(scope).change(now, now, spent=NOTHING, overrun=NOTHING, held=asked.units)
        self._open[asked.id] = _Held(hold, asked.units, asked.priced, now + asked.ttl_us)
        heapq.heappush(self._due, (now + asked.ttl_us, asked.id))
        return hold

    def _standings(self, asked: Asked, now: int) -> Iterator[Standing]:
        for scope in asked.scopes:
            account = self._limited.get(scope)
            if account is not None and account.limit is not None:
                tally = account.tally(now)
                yield Standing(scope, account.limit, account.units, tally.spent, tally.held)

    def _account(self, scope: str) -> _Account:
        """The scope's account, made where there is none; of those without a limit the one unused for longest goes."""
        account = self._limited.get(scope)
        if account is None:
            account = self._counted.pop(scope, None) or _Account()
            account.used = self._time
            self._counted[scope] = account
            if len(self._counted) > self._most:
                self._counted.popitem(last=False)
        return account

    def _settle(self, hold: Hold, real: Units, priced: bool, facts: EntryFacts) -> None:
        now = self._now()
        self._expire(now, EXPIRED_AT_ONCE)
        known = self._open.get(hold.id) or self._ended.get(hold.id)
        held, known_price = (NOTHING, True) if known is None else (known.units, known.priced)
        if not priced:
            real = (hold.amount.units[0], *real[1:])
        if known is not None and known.real is not None:
            if known.real != real:
                raise settled_otherwise(hold.id, known.real, real)
            return
        charged = known is not None and known.charged
        outcome = book(held=held, charged=held if charged else NOTHING, real=real, expired=charged, priced=known_price)
        still_held = known is not None and not charged
        self._change(hold, now, outcome, given_back=held if still_held else NOTHING)
        self._write(now, hold, facts, outcome, priced or hold.amount.usd is not None)
        ended = known or _Held(hold, real, priced, now)
        ended.real = real
        self._open.pop(hold.id, None)
        self._end(ended)

    def _expire(self, now: int, most: int) -> None:
        """Charge in full what nobody settled in its time, the oldest holds first."""
        while self._due and self._due[0][0] <= now and most > 0:
            held = self._open.pop(heapq.heappop(self._due)[1], None)
            if held is None:
                continue
            most -= 1
            outcome = Booked("expired", held.units, NOTHING)
            self._change(held.hold, now, outcome, given_back=held.units)
            self._write(now, held.hold, held.hold.facts, outcome, held.priced)
            held.charged = True
            self._end(held)

    def _end(self, held: _Held) -> None:
        self._ended[held.hold.id] = held
        if len(self._ended) > self._most:
            self._ended.popitem(last=False)

    def _change(self, hold: Hold, now: int, outcome: Booked, *, given_back: Units) -> None:
        less = (-given_back[0], -given_back[1], -given_back[2], -given_back[3])
        for scope in hold.scopes:
            self._account(scope).change(hold.made_us, now, spent=outcome.change, overrun=outcome.overrun, held=less)

    def _write(self, now: int, hold: Hold, facts: EntryFacts, outcome: Booked, priced: bool) -> None:
        self._number += 1
        self._lines.append(_Line(self._number, now, hold, facts, outcome, priced))

    def _count_again(self, scope: str, account: _Account, now: int) -> None:
        for line in self._lines:
            if scope in line.hold.scopes:
                outcome = line.outcome
                account.change(line.hold.made_us, now, spent=outcome.change, overrun=outcome.overrun, held=NOTHING)
        for held in self._open.values():
            if scope in held.hold.scopes:
                account.change(held.hold.made_us, now, spent=NOTHING, overrun=NOTHING, held=held.units)


def _plus(one: Units, two: Units) -> Units:
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]


def _entry(line: _Line) -> Entry:
    usd, reasoner_tokens, generator_tokens, requests = line.outcome.change
    return Entry(
        number=line.number,
        status=line.outcome.status,
        hold=line.hold.id,
        scopes=line.hold.scopes,
        made=moment_of(line.hold.made_us),
        booked=moment_of(line.booked),
        facts=line.facts,
        usd=usd_of(usd) if line.priced else None,
        reasoner_tokens=reasoner_tokens,
        generator_tokens=generator_tokens,
        requests=requests,
        overrun=amount_of(line.outcome.overrun),
    )
