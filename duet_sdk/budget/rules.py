"""The rules that every ledger books by: when a hold is refused, and what a settle comes to."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from duet_sdk.budget.amount import DIMENSIONS, NOTHING, Amount, Limit, Units, amount_of, usd_of
from duet_sdk.budget.ledger import EntryFacts, EntryStatus, Hold
from duet_sdk.budget.scope import check_key, check_scopes
from duet_sdk.budget.window import SECOND, moment_of, window_of
from duet_sdk.errors import BudgetExceeded, ConfigError, DuetError, HoldMisused, InvalidRequest

REMEMBER_S: Final = 86_400
"""How long the end of a hold is remembered, so that settling it again does nothing."""
EXPIRED_AT_ONCE: Final = 20
"""Holds that expire beside another call; expiry frees nothing, so that none of them is urgent."""
_FIRST_WAIT_S: Final = 0.005
_LONGEST_WAIT_S: Final = 0.25
_LONGEST_TTL_S: Final = 31 * 86_400
_LESS: Final = {
    "usd": "lower signal_tokens or answer_tokens",
    "reasoner_tokens": "lower signal_tokens",
    "generator_tokens": "lower answer_tokens",
    "requests": "send fewer requests",
}


@dataclass(slots=True)
class Asked:
    """A hold that is asked for, checked and in units."""

    id: str
    scopes: tuple[str, ...]
    units: Units
    priced: bool
    """Whether the price is known."""
    ttl_us: int
    facts: EntryFacts

    @classmethod
    def of(cls, scopes: Sequence[str], amount: Amount, *, key: str | None, ttl_s: float, facts: EntryFacts) -> Asked:
        """What a caller asks for; without a key it gets an id of its own.

        Raises:
            InvalidRequest: a malformed scope, key, amount or time.
        """
        if not 0 < ttl_s <= _LONGEST_TTL_S:
            raise InvalidRequest(f"ttl_s of a hold must be above 0 and at most {_LONGEST_TTL_S}, got {ttl_s!r}")
        name = secrets.token_hex(16) if key is None else f"key:{check_key(key)}"
        priced = amount.usd is not None
        return cls(name, check_scopes(scopes), amount.units, priced, math.ceil(ttl_s * SECOND), facts)

    @property
    def amount(self) -> Amount:
        """As the caller gave it, money to the nano-USD."""
        return amount_of(self.units, priced=self.priced)


@dataclass(slots=True)
class Standing:
    """Where a scope with a limit stands in its present window."""

    scope: str
    limit: Limit
    units: tuple[int | None, ...]
    """The limit's."""
    spent: Units
    held: Units


@dataclass(slots=True)
class Booked:
    """What a settle changes: an entry, and the counters by as much."""

    status: EntryStatus
    change: Units
    overrun: Units


def book(*, held: Units, charged: Units, real: Units, expired: bool, priced: bool) -> Booked:
    """What settling comes to.

    Args:
        held: what was kept back; nothing for a hold that the store does not know.
        charged: what its expiry charged already.
        real: what was really spent.
        expired: whether it was charged by expiry.
        priced: whether its price was known; without, no limit in money was held, and none can be overrun.
    """
    if not expired and real[0] <= held[0] and real[1] <= held[1] and real[2] <= held[2] and real[3] <= held[3]:
        return Booked("settled", real, NOTHING)
    change = (real[0] - charged[0], real[1] - charged[1], real[2] - charged[2], real[3] - charged[3])
    over_usd = max(0, real[0] - held[0]) if priced else 0
    overrun = (over_usd, max(0, real[1] - held[1]), max(0, real[2] - held[2]), max(0, real[3] - held[3]))
    if expired:
        return Booked("corrected", change, overrun)
    return Booked("settled" if overrun == NOTHING else "overrun", change, overrun)


def check_room(asked: Asked, standings: Iterable[Standing], now: int) -> None:
    """Refuse a hold that has no room in one of its scopes; a refusal that waiting cannot help goes first.

    Raises:
        BudgetExceeded: a scope has no room.
        ConfigError: a scope has a limit in money, and the price is unknown.
    """
    waits: BudgetExceeded | None = None
    for standing in standings:
        if not asked.priced and standing.units[0] is not None:
            raise ConfigError(
                f"{standing.scope} has a limit in money, and the price of the model is unknown; "
                "name it in prices, or limit tokens"
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
        advice = f"that is more than the whole limit: {_LESS[name]}, or raise it"
    elif spent + asked <= most:
        advice = "wait until what is held is settled (wait_s), or raise the limit"
    else:
        advice = " or ".join(filter(None, (window_of(limit.window).until(now), "raise the limit")))
    words = [_words(name, value) for value in (asked, max(0, most - spent - held), most, spent, held)]
    return BudgetExceeded(
        f"{standing.scope} asks for {words[0]}, {words[1]} is left of {words[2]}{window} "
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
    """The error of a key that comes again for another hold."""
    return HoldMisused(f"the hold {hold} was made for other scopes or another amount; give each hold a key of its own")


def check_moment(at: datetime | None) -> int | None:
    """A moment → microseconds since the epoch.

    Raises:
        InvalidRequest: it has no time zone.
    """
    if at is None:
        return None
    if at.tzinfo is None:
        raise InvalidRequest("a moment needs a time zone, such as datetime.now(UTC); local time is not guessed")
    return (at - moment_of(0)) // timedelta(microseconds=1)


async def hold_in_time(make: Callable[[], Awaitable[Hold]], wait_s: float) -> Hold:
    """Make a hold, trying again for so many seconds while only held amounts are in its way.

    Raises:
        BudgetExceeded: as the last try did.
        InvalidRequest: a time that is negative or without end.
    """
    if not 0 <= wait_s < math.inf:
        raise InvalidRequest(f"wait_s of a hold must be at least 0 and finite, got {wait_s!r}")
    if not wait_s:
        return await make()
    clock = asyncio.get_running_loop().time
    end, pause_s = clock() + wait_s, _FIRST_WAIT_S
    while True:
        try:
            return await make()
        except BudgetExceeded as error:
            if not _only_held(error) or clock() >= end:
                raise
        # At random, so that those who wait do not all ask at once.
        await asyncio.sleep(min(random.uniform(pause_s / 2, pause_s), max(0.0, end - clock())))  # noqa: S311
        pause_s = min(2 * pause_s, _LONGEST_WAIT_S)


async def unless_cancelled(making: Coroutine[None, None, Hold]) -> Hold:
    """The hold, where it is made in another thread or place; a caller cancelled meanwhile leaves none behind."""
    task = asyncio.create_task(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.shield(_undo(task))
        raise


async def _undo(making: asyncio.Task[Hold]) -> None:
    with suppress(DuetError):  # refused, or the store failed: then it expires
        await (await making).release()


def _only_held(error: BudgetExceeded) -> bool:
    return Decimal(error.spent or 0) + Decimal(error.asked or 0) <= Decimal(error.limit or 0)


def _value(name: str, units: int) -> Decimal | int:
    return usd_of(units) if name == "usd" else units


def _words(name: str, units: int) -> str:
    return f"{usd_of(units):f} USD" if name == "usd" else f"{units} {name.replace('_', ' ')}"


def _all(units: Units) -> str:
    return ", ".join(_words(name, value) for name, value in zip(DIMENSIONS, units, strict=True) if value) or "nothing"
