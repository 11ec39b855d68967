"""The rules that every ledger books by: when a hold is refused, and what a settle comes to."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from duet_sdk.budget.amount import DIMENSIONS, NOTHING, Amount, Limit, Units, usd_of
from duet_sdk.budget.ledger import EntryStatus, Hold
from duet_sdk.budget.window import SECOND, window_of
from duet_sdk.errors import BudgetExceeded, ConfigError, InvalidRequest, LedgerError

REMEMBER_S: Final = 86_400
"""How long the end of a hold is remembered, so that settling it again does nothing."""
EXPIRED_AT_ONCE: Final = 20
"""Holds that expire beside another call; expiry frees nothing, so that none of them is urgent."""
_FIRST_WAIT_S: Final = 0.005
_LONGEST_WAIT_S: Final = 0.25
_LONGEST_TTL_S: Final = 31 * 86_400
_ROOM: Final = {
    "usd": "lower signal_tokens or answer_tokens",
    "reasoner_tokens": "lower signal_tokens",
    "generator_tokens": "lower answer_tokens",
    "requests": "send fewer requests",
}


@dataclass(frozen=True, slots=True)
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
    change = (real[0] - charged[0], real[1] - charged[1], real[2] - charged[2], real[3] - charged[3])
    over_usd = max(0, real[0] - held[0]) if priced else 0
    overrun = (over_usd, max(0, real[1] - held[1]), max(0, real[2] - held[2]), max(0, real[3] - held[3]))
    if expired:
        return Booked("corrected", change, overrun)
    return Booked("settled" if overrun == NOTHING else "overrun", change, overrun)


def full(units: tuple[int | None, ...], asked: Units, spent: Units, held: Units) -> int | None:
    """The first kind of spending that has no room for what is asked, None where all fit.

    What is not asked for is not refused: a free model goes through where a limit in money is used up.
    """
    for index, limit in enumerate(units):
        if limit is not None and asked[index] and spent[index] + held[index] + asked[index] > limit:
            return index
    return None


def refusal(
    scope: str, index: int, *, limit: Limit, spent: Units, held: Units, asked: Units, now: int
) -> BudgetExceeded:
    """The error of a scope that has no room: which limit, what is used of it, and what to do."""
    name = DIMENSIONS[index]
    most = limit.units[index] or 0
    left = max(0, most - spent[index] - held[index])
    window = "" if limit.window is None else f" by {limit.window}"
    if asked[index] > most:
        advice = f"{_ROOM[name]}, or raise the limit: it is more than the whole limit"
    elif spent[index] + asked[index] <= most:
        advice = "wait until what is held is settled (wait_s), or raise the limit"
    else:
        rest = window_of(limit.window).until(now)
        advice = f"{rest}, or raise the limit" if rest else "raise the limit"
    asked_, left_, most_, spent_, held_ = (
        _words(name, value) for value in (asked[index], left, most, spent[index], held[index])
    )
    return BudgetExceeded(
        f"{scope} asks for {asked_}, {left_} is left of {most_}{window} ({spent_} spent, {held_} held); {advice}",
        scope=scope,
        limit=_value(name, most),
        spent=_value(name, spent[index]),
        held=_value(name, held[index]),
        asked=_value(name, asked[index]),
    )


def unpriced(scope: str) -> ConfigError:
    """The error of a limit in money that meets an unknown price."""
    return ConfigError(
        f"{scope} has a limit in money, and the price of the model is unknown; name it in prices, or limit tokens"
    )


def settled_otherwise(hold: str, before: Units, now: Units) -> LedgerError:
    """The error of a hold that is settled twice, with two amounts."""
    return LedgerError(
        f"the hold {hold} was settled with {_all(before)} and cannot be settled again with {_all(now)}; "
        "settle each hold once, with the real amount"
    )


def used_otherwise(hold: str) -> LedgerError:
    """The error of a key that comes again for another hold."""
    return LedgerError(f"the hold {hold} was made for other scopes or another amount; give each hold a key of its own")


def check_ttl(ttl_s: float) -> int:
    """Seconds → microseconds.

    Raises:
        InvalidRequest: it is not positive, or longer than a month.
    """
    if not 0 < ttl_s <= _LONGEST_TTL_S:
        raise InvalidRequest(f"ttl_s of a hold must be above 0 and at most {_LONGEST_TTL_S}, got {ttl_s!r}")
    return math.ceil(ttl_s * SECOND)


def check_moment(at: datetime | None) -> int | None:
    """A moment → microseconds since the epoch.

    Raises:
        InvalidRequest: it has no time zone.
    """
    if at is None:
        return None
    if at.tzinfo is None:
        raise InvalidRequest("a moment needs a time zone, such as datetime.now(UTC); local time is not guessed")
    return round(at.timestamp() * SECOND)


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


def _only_held(error: BudgetExceeded) -> bool:
    return Decimal(error.spent or 0) + Decimal(error.asked or 0) <= Decimal(error.limit or 0)


def _value(name: str, units: int) -> Decimal | int:
    return usd_of(units) if name == "usd" else units


def _words(name: str, units: int) -> str:
    return f"{usd_of(units):f} USD" if name == "usd" else f"{units} {name.replace('_', ' ')}"


def _all(units: Units) -> str:
    amount = Amount.of(units)
    return ", ".join(_words(name, value) for name, value in zip(DIMENSIONS, amount.units, strict=True) if value) or "0"
