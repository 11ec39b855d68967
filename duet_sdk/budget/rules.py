"""The rules that every ledger books by: what is asked of it, when a hold is refused, and what a settle amounts to."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from duet_sdk._checks import seconds, whole
from duet_sdk.budget.amount import DIMENSIONS, NOTHING, Amount, Limit, Units, usd_of
from duet_sdk.budget.entry import Entry, EntryFacts, EntryStatus
from duet_sdk.budget.scope import check_key, check_scope
from duet_sdk.budget.window import SECOND, microseconds_of, window_of
from duet_sdk.errors import BudgetExceeded, ConfigError, HoldMisused, InvalidRequest

REMEMBER_S: Final = 86_400
"""How long the end of a hold is remembered, so that settling it again does nothing: a day is far beyond any retry."""
EXPIRED_AT_ONCE: Final = 20
"""Holds expired along with another call; expiry frees nothing, so that none of them is urgent, and so few do not slow
the call down."""
_LONGEST_TTL_S: Final = 31 * 86_400
"""Longest life of a hold: the longest window's, a month."""
_ADVICE: Final = {
    "usd": "lower signal_tokens or answer_tokens",
    "reasoner_tokens": "lower signal_tokens",
    "generator_tokens": "lower answer_tokens",
    "requests": "send fewer requests",
}


@dataclass(slots=True)
class HoldRequest:
    """A hold that is asked for, checked and in units.

    Raises:
        InvalidRequest: a malformed key, amount or time.
    """

    scopes: tuple[str, ...]
    amount: Amount
    key: str | None
    """None for an id of its own."""
    ttl_s: float
    facts: EntryFacts
    id: str = field(init=False)
    units: Units = field(init=False)
    priced: bool = field(init=False)
    """Whether the price is known."""

    def __post_init__(self) -> None:
        seconds("ttl_s of a hold", self.ttl_s, error=InvalidRequest)
        if self.ttl_s > _LONGEST_TTL_S:
            raise InvalidRequest(f"ttl_s of a hold must be at most {_LONGEST_TTL_S} (31 days), got {self.ttl_s!r}")
        self.id = secrets.token_hex(16) if self.key is None else f"key:{check_key(self.key)}"
        self.units = self.amount.units
        self.priced = self.amount.usd is not None

    @property
    def ttl_us(self) -> int:
        """Microseconds until it expires, rounded up."""
        return math.ceil(self.ttl_s * SECOND)


@dataclass(slots=True)
class Settlement:
    """What a hold is settled with, checked and in units."""

    amount: Amount
    """As the caller gave it."""
    units: Units
    """What is charged: with an unknown price, the money that was held."""
    priced: bool
    """Whether the entry has a price: its own, or that of the hold."""
    facts: EntryFacts

    @classmethod
    def of(cls, held: Amount, amount: Amount, facts: EntryFacts) -> Settlement:
        """The settlement of a hold of ``held``.

        Raises:
            InvalidRequest: an amount that no ledger counts.
        """
        units = amount.units
        if amount.usd is not None:
            return cls(amount, units, True, facts)
        return cls(amount, (held.units[0], *units[1:]), held.usd is not None, facts)


@dataclass(slots=True)
class EntryQuery:
    """Which entries are asked for, checked.

    Raises:
        InvalidRequest: a malformed scope, a moment without a time zone, or a ``most`` below 0.
    """

    scope: str | None
    since: datetime | None
    until: datetime | None
    after: Entry | None
    most: int
    since_us: int | None = field(init=False)
    """``since`` in microseconds since the epoch."""
    until_us: int | None = field(init=False)
    """``until`` likewise."""

    def __post_init__(self) -> None:
        if self.scope is not None:
            check_scope(self.scope)
        whole("most", self.most, at_least=0, error=InvalidRequest)
        self.since_us = None if self.since is None else microseconds_of(self.since)
        self.until_us = None if self.until is None else microseconds_of(self.until)


@dataclass(slots=True)
class Standing:
    """The state of a scope with a limit in its current window."""

    scope: str
    limit: Limit
    units: tuple[int | None, ...]
    """The limit's."""
    spent: Units
    held: Units


@dataclass(slots=True)
class Posting:
    """What a settle changes: an entry, and the counters by as much."""

    status: EntryStatus
    change: Units
    overrun: Units


def book(*, held: Units, charged: Units, real: Units, expired: bool, priced: bool) -> Posting:
    """What settling amounts to.

    Args:
        held: what was kept back; nothing for a hold that the store does not know.
        charged: what its expiry charged already.
        real: what was really spent.
        expired: whether it was charged by expiry.
        priced: whether its price was known; without, no limit in money was held, and none can be overrun.
    """
    if not expired and real[0] <= held[0] and real[1] <= held[1] and real[2] <= held[2] and real[3] <= held[3]:
        return Posting("settled", real, NOTHING)
    change = (real[0] - charged[0], real[1] - charged[1], real[2] - charged[2], real[3] - charged[3])
    over_usd = max(0, real[0] - held[0]) if priced else 0
    overrun = (over_usd, max(0, real[1] - held[1]), max(0, real[2] - held[2]), max(0, real[3] - held[3]))
    if expired:
        return Posting("corrected", change, overrun)
    return Posting("settled" if overrun == NOTHING else "overrun", change, overrun)


def check_room(asked: HoldRequest, standings: Iterable[Standing], now: int) -> None:
    """Refuse a hold that has no room in one of its scopes; one that waiting cannot help comes first.

    Raises:
        BudgetExceeded: a scope has no room.
        ConfigError: a scope has a limit in money, and the price is unknown.
    """
    waits: BudgetExceeded | None = None
    for standing in standings:
        if not asked.priced and standing.units[0] is not None:
            raise ConfigError(
                f"{standing.scope} has a limit in money, and the price of the model is unknown; "
                "add the model to prices, or limit tokens instead"
            )
        spent, held = standing.spent, standing.held
        for index, most in enumerate(standing.units):
            # What is not asked for is not refused: a free model goes through where money is used up.
            if most is None or not asked.units[index]:
                continue
            if spent[index] + asked.units[index] > most:
                raise refusal(standing, index, asked.units[index], now)
            if waits is None and spent[index] + held[index] + asked.units[index] > most:
                waits = refusal(standing, index, asked.units[index], now)
    if waits is not None:
        raise waits


def refusal(standing: Standing, index: int, asked: int, now: int) -> BudgetExceeded:
    """The error of a scope that has no room: which limit, what is used of it, and what to do."""
    name, limit = DIMENSIONS[index], standing.limit
    spent, held, most = standing.spent[index], standing.held[index], standing.units[index] or 0
    window = "" if limit.window is None else f" by {limit.window}"
    if asked > most:
        advice = f"that is more than the whole limit: {_ADVICE[name]}, or raise it"
    elif spent + asked <= most:
        advice = "wait until what is held is settled (wait_s), or raise the limit"
    else:
        advice = ", or ".join(filter(None, (window_of(limit.window).until(now), "raise the limit")))
    left = max(0, most - spent - held)
    words = [_words(name, value) for value in (asked, left, most, spent, held)]
    verb = "is" if name == "usd" or left == 1 else "are"
    return BudgetExceeded(
        f"{standing.scope} asks for {words[0]}, {words[1]} {verb} left of {words[2]}{window} "
        f"({words[3]} spent, {words[4]} held); {advice}",
        scope=standing.scope,
        limit=_value(name, most),
        spent=_value(name, spent),
        held=_value(name, held),
        asked=_value(name, asked),
    )


def settled_otherwise(hold: str, before: Units, now: Units) -> HoldMisused:
    """The error of a hold that is settled twice, with two amounts."""
    return HoldMisused(
        f"the hold {hold} was settled with {_all(before)} and cannot be settled again with {_all(now)}; "
        "settle each hold once, with the real amount"
    )


def used_otherwise(hold: str) -> HoldMisused:
    """The error of a key that is reused for another hold."""
    return HoldMisused(f"the hold {hold} was made for other scopes or another amount; use a new key for each hold")


def waiting_helps(error: BudgetExceeded) -> bool:
    """Whether only held amounts are in the way of a hold that was refused."""
    return Decimal(error.spent or 0) + Decimal(error.asked or 0) <= Decimal(error.limit or 0)


def _value(name: str, units: int) -> Decimal | int:
    return usd_of(units) if name == "usd" else units


def _words(name: str, units: int) -> str:
    kind = name.replace("_", " ")
    return f"{usd_of(units):f} USD" if name == "usd" else f"{units} {kind.removesuffix('s') if units == 1 else kind}"


def _all(units: Units) -> str:
    return ", ".join(_words(name, value) for name, value in zip(DIMENSIONS, units, strict=True) if value) or "nothing"
