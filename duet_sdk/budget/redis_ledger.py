"""A ledger that processes on several machines share."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from typing_extensions import override

from duet_sdk.budget.amount import Balance, Limit, Units, amount_of, usd_of
from duet_sdk.budget.entry import Entry, EntryFacts
from duet_sdk.budget.ledger import BaseLedger, Hold, released_if_cancelled
from duet_sdk.budget.redis_client import RedisScript
from duet_sdk.budget.rules import (
    EntryQuery,
    HoldRequest,
    Settlement,
    Standing,
    check_room,
    settled_otherwise,
    used_otherwise,
)
from duet_sdk.budget.window import SECOND, microseconds_of, moment_of
from duet_sdk.errors import ConfigError, LedgerError

_log = logging.getLogger(__name__)
_LUA: Final = Path(__file__).with_name("redis_ledger.lua")
_AT_ONCE: Final = 500
"""Holds expired, or entries deleted, in one call of a longer work: a few milliseconds, in which the server does nothing
else."""
_PAGE: Final = 1000
"""Entries read at once: a few hundred kilobytes."""
_UNTOLD: Final = {field.name: field.default for field in fields(EntryFacts)}
"""What is not stored of an entry's facts."""


class RedisLedger(BaseLedger):
    """Keeps limits over the processes of several machines, in a Redis (6.2 or later, or Valkey) that they share.

    Each hold and each settle is one call. What survives when the server stops is up to the server's settings
    (``appendonly yes``); it must not evict keys (``maxmemory-policy noeviction``).

    Args:
        url: ``redis://host:port/db``, ``rediss://…`` with TLS; no password in it, as it is shown in errors.
        name: of the ledger, for several on one server.
        password: of the server; never shown.
        clock: seconds since the epoch; None for the server's clock, which is the same for all. Where it goes back,
            the ledger's time stands still until the clock has caught up.

    Raises:
        ConfigError: a URL or name that cannot work.
        MissingExtra: the package ``redis`` is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "default",
        password: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is None:
            raise ConfigError("the name of a ledger must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
        self._connect = partial(RedisScript, url, prefix=f"{{duet:{name}}}", password=password)
        self._script = self._connect(_LUA)
        self._name = f"{name!r} at {self._script.address}"
        self._clock = clock
        self._is_known = False
        """Whether it was used here, so that one that is new was lost."""

    def beside(self, lua: Path) -> RedisScript:
        """Another script on the same server, whose keys begin as the ledger's do; the caller closes it."""
        return self._connect(lua)

    @override
    async def release(self, hold: Hold) -> None:
        answer = await self._call("release", hold.id, " ".join(hold.scopes), hold.made_us, *hold.amount.units)
        self._look(answer[1])

    @override
    async def limits(self) -> Mapping[str, Limit]:
        stored = await self._script.read(lambda redis, prefix: redis.hgetall(f"{prefix}:limits"))
        return {scope: _limit(text) for scope, text in sorted(stored.items())}

    @override
    async def aclose(self) -> None:
        """Close the connections."""
        await self._script.aclose()

    @override
    async def _make(self, asked: HoldRequest) -> Hold:
        return await released_if_cancelled(self, asked, self._hold(asked))

    async def _hold(self, asked: HoldRequest) -> Hold:
        word, *rest = await self._call(
            "hold",
            asked.id,
            " ".join(asked.scopes),
            int(asked.priced),
            *asked.units,
            asked.ttl_us,
            _dumps(asked.facts),
        )
        if word == "used":
            raise used_otherwise(asked.id)
        if word == "refused":
            self._refuse(asked, rest)
        self._look(rest[1])
        return Hold(asked.id, asked.scopes, asked.amount, asked.facts, int(rest[0]), self)

    @override
    async def _settle(self, hold: Hold, settlement: Settlement) -> None:
        real = settlement.units
        word, *before = await self._call(
            "settle",
            hold.id,
            " ".join(hold.scopes),
            hold.made_us,
            int(settlement.priced),
            *real,
            _dumps(settlement.facts),
            *hold.amount.units,
        )
        if word == "otherwise":
            raise settled_otherwise(hold.id, _units(before), real)
        self._look(before[0])

    def _look(self, word: str) -> None:
        """Warn where a ledger that was there is new."""
        if word == "new" and self._is_known:
            _log.warning(
                "the keys of the ledger %s are gone (a failover to an empty server, or a flush): it counts from "
                "nothing, and its limits have to be set again",
                self._name,
            )
        self._is_known = True

    @override
    async def _set_limit(self, scope: str, limit: Limit | None) -> None:
        await self._call("set_limit", scope, "" if limit is None else _stored(limit))

    @override
    async def _balance(self, scope: str) -> Balance:
        await self._expire()
        stored, *sums = await self._call("balance", scope)
        spent, overrun, held = (amount_of(_units(sums[first : first + 4])) for first in (0, 4, 8))
        return Balance(spent, held, overrun, _limit(stored) if stored else None)

    @override
    async def _entries(self, query: EntryQuery) -> Sequence[Entry]:
        first, last = _places(query)
        await self._expire()
        found: list[Entry] = []
        while len(found) < query.most:
            page = await self._script.read(
                lambda redis, prefix, at=first: redis.xrange(f"{prefix}:entries", at, last, count=_PAGE)  # type: ignore[misc]
            )
            entries = [_entry(place, fields) for place, fields in page]
            found += [entry for entry in entries if query.scope is None or query.scope in entry.scopes]
            if len(page) < _PAGE:
                break
            first = f"({page[-1][0]}"
        return found[: query.most]

    @override
    async def _prune(self, before_us: int) -> int:
        deleted = 0
        while True:
            batch = int((await self._call("prune", before_us, _AT_ONCE))[0])
            deleted += batch
            if batch < _AT_ONCE:
                return deleted

    async def _expire(self) -> None:
        """Charge all that has expired, a batch at a time."""
        while (await self._call("expire", _AT_ONCE))[0] == _AT_ONCE:
            pass

    async def _call(self, operation: str, *values: str | int) -> list[Any]:
        now = "" if self._clock is None else int(self._clock() * SECOND)
        answer = await self._script.call(operation, now, *values)
        if answer and answer[0] == "newer":
            raise ConfigError(
                f"the ledger {self._name} was written by a newer DUET (format {answer[1]}, "
                f"this one knows {answer[2]}); update duet-sdk, or use another ledger"
            )
        return answer

    def _refuse(self, asked: HoldRequest, answer: list[Any]) -> NoReturn:
        """Raise the refusal, from where the scopes stood when the server found no room."""
        now, *standings = answer
        check_room(
            asked,
            [
                Standing(scope, limit, limit.units, _units(values[:4]), _units(values[4:]))
                for scope, stored, *values in standings
                for limit in [_limit(stored)]
            ],
            int(now),
        )
        raise LedgerError(
            f"the ledger {self._name} refused a hold without giving a reason; is its script from another version?"
        )


def _places(query: EntryQuery) -> tuple[str, str]:
    """The first and the last place in the stream of entries that the query asks for, as XRANGE takes them."""
    since_us, last = query.since_us, "+" if query.until_us is None else f"({query.until_us}-0"
    if query.after is not None:
        after_us = microseconds_of(query.after.booked)
        if since_us is None or after_us >= since_us:
            return f"({after_us}-{query.after.number}", last
    return str(since_us or 0), last


def _dumps(facts: EntryFacts) -> str:
    told = {name: getattr(facts, name) for name in _UNTOLD}
    return json.dumps({name: value for name, value in told.items() if value != _UNTOLD[name]})


def _stored(limit: Limit) -> str:
    return "|".join("" if value is None else str(value) for value in (*limit.units, limit.window))


def _limit(stored: str) -> Limit:
    usd, *counts, window = stored.split("|")
    reasoner, generator, requests = (int(count) if count else None for count in counts)
    return Limit(usd_of(int(usd)) if usd else None, reasoner, generator, requests, window or None)


def _units(values: Sequence[str]) -> Units:
    usd, reasoner, generator, requests = map(int, values)
    return usd, reasoner, generator, requests


def _entry(place: str, fields: Mapping[str, str]) -> Entry:
    booked, number = map(int, place.split("-"))
    usd, reasoner, generator, requests = _units([fields[f"u{index}"] for index in range(1, 5)])
    return Entry(
        number=number,
        status=fields["status"],  # type: ignore[arg-type]
        hold=fields["hold"],
        scopes=tuple(fields["scopes"].split()),
        made=moment_of(int(fields["made"])),
        booked=moment_of(booked),
        facts=EntryFacts(**json.loads(fields["facts"])),
        usd=usd_of(usd) if fields["priced"] == "1" else None,
        reasoner_tokens=reasoner,
        generator_tokens=generator,
        requests=requests,
        overrun=amount_of(_units([fields[f"o{index}"] for index in range(1, 5)])),
    )
