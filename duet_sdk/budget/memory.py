"""A ledger in this process."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from typing_extensions import override

from duet_sdk.budget.amount import NOTHING, Balance, Limit, Units, amount_of, usd_of
from duet_sdk.budget.entry import Entry, EntryFacts
from duet_sdk.budget.ledger import BaseLedger, Hold
from duet_sdk.budget.rules import (
    EXPIRED_AT_ONCE,
    EntryQuery,
    HoldRequest,
    Posting,
    Settlement,
    Standing,
    book,
    check_room,
    settled_otherwise,
    used_otherwise,
)
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


_SPENT, _OVERRUN, _HELD = 0, 4, 8
"""Where the kinds of sums begin in a slice's list of twelve."""


_SLACK = 1000
"""Ended holds that the heap of expiries may keep, beyond one for each open hold, before it is rebuilt: too few to
matter in memory, enough to make rebuilding rare."""


class _Account:
    """A scope's limit, and the slices of its present window: for each, what was spent, overrun and is held."""

    __slots__ = ("_oldest", "_slices", "_turns", "limit", "limited", "used", "window")

    def __init__(self, limit: Limit | None = None) -> None:
        self.limit = limit
        self.limited = [] if limit is None else [(i, most) for i, most in enumerate(limit.units) if most is not None]
        self.window: Window = window_of(None if limit is None else limit.window)
        self.used = 0
        self._slices: dict[int, list[int]] = {}
        self._oldest = 0
        self._turns = 0

    def keep_counts_of(self, other: _Account) -> None:
        """Go on with the sums of an account with the same window."""
        self._slices, self._oldest, self._turns = other._slices, other._oldest, other._turns

    def sums(self, now: int) -> Sequence[int]:
        """Over the present window; what has left it is forgotten."""
        if now >= self._turns:
            self._oldest, self._turns = self.window.oldest(now), self.window.turns(now)
            for start in [start for start in self._slices if start < self._oldest]:
                del self._slices[start]
        if len(self._slices) == 1:
            return next(iter(self._slices.values()))
        return [sum(column) for column in zip(*self._slices.values(), strict=True)] or [0] * 12

    def fits(self, asked: Units, now: int) -> bool:
        """Whether there is room for what is asked."""
        sums = self.sums(now)
        for index, most in self.limited:
            if asked[index] and sums[index] + sums[_HELD + index] + asked[index] > most:
                return False
        return True

    def add(self, kind: int, units: Units, made: int, now: int) -> None:
        """Add to one kind of sum, in the slice of the hold; nothing where that has left the window."""
        if now >= self._turns:
            self.sums(now)
        if made < self._oldest:
            return
        # All but a rolling window have one slice that counts.
        start = self.window.slice_of(made) if self.window.length else self._oldest
        sums = self._slices.get(start)
        if sums is None:
            sums = self._slices[start] = [0] * 12
        sums[kind] += units[0]
        sums[kind + 1] += units[1]
        sums[kind + 2] += units[2]
        sums[kind + 3] += units[3]

    def standing(self, scope: str, limit: Limit, now: int) -> Standing:
        """For a refusal."""
        sums = self.sums(now)
        return Standing(scope, limit, limit.units, _units(sums, _SPENT), _units(sums, _HELD))


@dataclass(slots=True)
class _Line:
    """An entry as it is stored."""

    number: int
    booked: int
    hold: Hold
    facts: EntryFacts
    posting: Posting
    priced: bool


class MemoryLedger(BaseLedger):
    """Keeps limits over the requests of one process, for as long as it lives; its threads may share it.

    Args:
        most_entries: how many entries, ended holds, and scopes without a limit are kept; the oldest make room.
        clock: seconds since the epoch. Where it goes back, the ledger's time stands still until it has caught up.

    >>> import asyncio
    >>> from decimal import Decimal
    >>> from duet_sdk.budget import Amount, Limit
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

    @override
    async def _make(self, asked: HoldRequest) -> Hold:
        with self._lock:
            now = self._now()
            self._expire(now, EXPIRED_AT_ONCE)
            known = self._open.get(asked.id) or self._ended.get(asked.id)
            if known is not None:
                if (known.hold.scopes, known.units, known.priced) != (asked.scopes, asked.units, asked.priced):
                    raise used_otherwise(asked.id)
                return known.hold
            accounts = [self._account(scope) for scope in asked.scopes]
            for account in accounts:
                if account.limited and not (asked.priced and account.fits(asked.units, now)):
                    self._check(asked, now)
            hold = Hold(asked.id, asked.scopes, asked.amount, asked.facts, now, self)
            for account in accounts:
                account.add(_HELD, asked.units, now, now)
            expires = now + asked.ttl_us
            self._open[asked.id] = _Held(hold, asked.units, asked.priced, expires)
            heapq.heappush(self._due, (expires, asked.id))
            if len(self._due) > 2 * len(self._open) + _SLACK:
                self._due = sorted((held.expires, name) for name, held in self._open.items())
            return hold

    @override
    async def _settle(self, hold: Hold, settlement: Settlement) -> None:
        with self._lock:
            self._book(hold, settlement.units, settlement.priced, settlement.facts)

    @override
    async def release(self, hold: Hold) -> None:
        with self._lock:
            now = self._now()
            known = self._open.get(hold.id)
            if known is not None:
                del self._open[hold.id]
                self._change(hold, now, given_back=known.units, posting=Posting("settled", NOTHING, NOTHING))
            elif (ended := self._ended.get(hold.id)) is not None and ended.charged and ended.real is None:
                self._book(ended.hold, NOTHING, ended.priced, ended.hold.facts)

    @override
    async def _set_limit(self, scope: str, limit: Limit | None) -> None:
        with self._lock:
            now = self._now()
            before, account = self._account(scope), _Account(limit)
            account.used = before.used
            (self._counted if limit is None else self._limited)[scope] = account
            (self._limited if limit is None else self._counted).pop(scope, None)
            if account.window.name == before.window.name:
                account.keep_counts_of(before)
            else:
                self._count_again(scope, account, now)

    @override
    async def limits(self) -> Mapping[str, Limit]:
        with self._lock:
            return {scope: a.limit for scope, a in sorted(self._limited.items()) if a.limit is not None}

    @override
    async def _balance(self, scope: str) -> Balance:
        with self._lock:
            now = self._now()
            self._expire(now, len(self._open))
            account = self._limited.get(scope) or self._counted.get(scope) or _Account()
            sums = account.sums(now)
            spent, overrun, held = (amount_of(_units(sums, kind)) for kind in (_SPENT, _OVERRUN, _HELD))
        return Balance(spent, held, overrun, account.limit)

    @override
    async def _entries(self, query: EntryQuery) -> Sequence[Entry]:
        first = query.after.number if query.after else 0
        found: list[Entry] = []
        with self._lock:
            self._expire(self._now(), len(self._open))
            for line in self._lines:
                if len(found) >= query.most:
                    break
                if (
                    line.number > first
                    and (query.scope is None or query.scope in line.hold.scopes)
                    and (query.since_us is None or line.booked >= query.since_us)
                    and (query.until_us is None or line.booked < query.until_us)
                ):
                    found.append(_entry(line))
        return found

    @override
    async def _prune(self, before_us: int) -> int:
        with self._lock:
            kept = [line for line in self._lines if line.booked >= before_us]
            deleted = len(self._lines) - len(kept)
            self._lines = deque(kept, maxlen=self._most)
            for scope in [scope for scope, account in self._counted.items() if account.used < before_us]:
                del self._counted[scope]
        return deleted

    def _now(self) -> int:
        self._time = max(self._time, int(self._clock() * SECOND))
        return self._time

    def _check(self, asked: HoldRequest, now: int) -> None:
        """Raise the refusal of the scope that has no room, or an unknown price; else nothing."""
        limited = ((scope, self._limited[scope]) for scope in asked.scopes if scope in self._limited)
        check_room(asked, [a.standing(scope, a.limit, now) for scope, a in limited if a.limit is not None], now)

    def _account(self, scope: str) -> _Account:
        """The scope's account, made where there is none; the least recently used one without a limit makes room."""
        account = self._limited.get(scope)
        if account is None:
            account = self._counted.get(scope)
            if account is None:
                account = self._counted[scope] = _Account()
                if len(self._counted) > self._most:
                    self._counted.popitem(last=False)
            else:
                self._counted.move_to_end(scope)
            account.used = self._time
        return account

    def _book(self, hold: Hold, real: Units, priced: bool, facts: EntryFacts) -> None:
        now = self._now()
        self._expire(now, EXPIRED_AT_ONCE)
        known = self._open.get(hold.id) or self._ended.get(hold.id)
        held, known_price = (NOTHING, True) if known is None else (known.units, known.priced)
        if known is not None and known.real is not None:
            if known.real != real:
                raise settled_otherwise(hold.id, known.real, real)
            return
        charged = known is not None and known.charged
        posting = book(held=held, charged=held if charged else NOTHING, real=real, expired=charged, priced=known_price)
        still_held = known is not None and not charged
        self._change(hold, now, given_back=held if still_held else NOTHING, posting=posting)
        self._write(now, hold, facts, posting, priced)
        ended = known or _Held(hold, real, priced, now)
        ended.real = real
        self._open.pop(hold.id, None)
        self._end(ended)

    def _expire(self, now: int, most: int) -> None:
        """Charge in full the holds that were not settled in time, the oldest first."""
        while self._due and self._due[0][0] <= now and most > 0:
            held = self._open.pop(heapq.heappop(self._due)[1], None)
            if held is None:
                continue
            most -= 1
            posting = Posting("expired", held.units, NOTHING)
            self._change(held.hold, now, given_back=held.units, posting=posting)
            self._write(now, held.hold, held.hold.facts, posting, held.priced)
            held.charged = True
            self._end(held)

    def _end(self, held: _Held) -> None:
        self._ended[held.hold.id] = held
        if len(self._ended) > self._most:
            self._ended.popitem(last=False)

    def _change(self, hold: Hold, now: int, *, given_back: Units, posting: Posting) -> None:
        usd, reasoner, generator, requests = given_back
        less = (-usd, -reasoner, -generator, -requests)
        for scope in hold.scopes:
            account = self._account(scope)
            if given_back is not NOTHING:
                account.add(_HELD, less, hold.made_us, now)
            account.add(_SPENT, posting.change, hold.made_us, now)
            if posting.overrun != NOTHING:
                account.add(_OVERRUN, posting.overrun, hold.made_us, now)

    def _write(self, now: int, hold: Hold, facts: EntryFacts, posting: Posting, priced: bool) -> None:
        self._number += 1
        self._lines.append(_Line(self._number, now, hold, facts, posting, priced))

    def _count_again(self, scope: str, account: _Account, now: int) -> None:
        for line in self._lines:
            if scope in line.hold.scopes:
                account.add(_SPENT, line.posting.change, line.hold.made_us, now)
                account.add(_OVERRUN, line.posting.overrun, line.hold.made_us, now)
        for held in self._open.values():
            if scope in held.hold.scopes:
                account.add(_HELD, held.units, held.hold.made_us, now)


def _units(sums: Sequence[int], first: int) -> Units:
    return sums[first], sums[first + 1], sums[first + 2], sums[first + 3]


def _entry(line: _Line) -> Entry:
    usd, reasoner_tokens, generator_tokens, requests = line.posting.change
    return Entry(
        number=line.number,
        status=line.posting.status,
        hold=line.hold.id,
        scopes=line.hold.scopes,
        made=moment_of(line.hold.made_us),
        booked=moment_of(line.booked),
        facts=line.facts,
        usd=usd_of(usd) if line.priced else None,
        reasoner_tokens=reasoner_tokens,
        generator_tokens=generator_tokens,
        requests=requests,
        overrun=amount_of(line.posting.overrun),
    )
