"""The rules of booking on the tables of a `SqliteLedger`; each function works inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Final

from duet_sdk.budget.amount import MOST, NOTHING, Amount, Limit, Units, amount_of, usd_of
from duet_sdk.budget.entry import Entry, EntryFacts
from duet_sdk.budget.ledger import Hold
from duet_sdk.budget.rules import (
    EXPIRED_AT_ONCE,
    REMEMBER_S,
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

_USED_TO_S: Final = 3600
"""How exactly it is known when a scope was last used: to the hour, as a write at each use would cost more than the
knowledge is worth, and scopes are forgotten by the day."""
_FORGOTTEN_AT_ONCE: Final = 500
"""Ended holds deleted along with another call: more than end in the meantime, so that they never pile up, in few
milliseconds."""
_NEVER_US: Final = 2**62
"""Later than any entry, and still an integer of SQLite's."""
_FACTS: Final = ", ".join(field.name for field in fields(EntryFacts))
_values: Final[Callable[[EntryFacts], tuple[object, ...]]] = attrgetter(*_FACTS.split(", "))
_MOST_COUNTED: Final = 2**56
"""Where a sum stays: far above every limit, and so low that all slices of a window add up in 64 bits."""
_SUMS: Final = ", ".join(
    f"ifnull(sum({kind}_{name}), 0)"
    for kind in ("spent", "over", "held")
    for name in ("usd", "reasoner", "generator", "requests")
)
_ADD: Final = (
    "INSERT INTO slice VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, start) DO UPDATE SET "
    + ", ".join(
        f"{kind}_{name} = min({kind}_{name} + excluded.{kind}_{name}, {_MOST_COUNTED})"
        for kind in ("spent", "over", "held")
        for name in ("usd", "reasoner", "generator", "requests")
    )
)


def tick(db: sqlite3.Connection, clock: float) -> int:
    """The ledger's time: the clock's, unless that went back. Some of what is due by then is done."""
    now: int = db.execute("UPDATE clock SET now = max(now, ?) RETURNING now", (int(clock * SECOND),)).fetchone()[0]
    expire(db, now, EXPIRED_AT_ONCE)
    db.execute(
        "DELETE FROM hold WHERE id IN (SELECT id FROM hold WHERE ended IS NOT NULL AND ended < ? LIMIT ?)",
        (now - REMEMBER_S * SECOND, _FORGOTTEN_AT_ONCE),
    )
    return now


def make(db: sqlite3.Connection, asked: HoldRequest, now: int) -> int:
    """Make the hold, or find it made; returns when it was made.

    Raises:
        BudgetExceeded: a scope has no room.
        ConfigError: a scope has a limit in money, and the price is unknown.
        HoldMisused: the id was used for another hold.
    """
    known = db.execute(
        "SELECT made, scopes, usd, reasoner_tokens, generator_tokens, requests, priced FROM hold WHERE id = ?",
        (asked.id,),
    ).fetchone()
    if known is not None:
        if known[1:] != (" ".join(asked.scopes), *asked.units, asked.priced):
            raise used_otherwise(asked.id)
        made: int = known[0]
        return made
    accounts = {scope: _account(db, scope, now) for scope in asked.scopes}
    check_room(asked, [_standing(db, scope, a, now) for scope, a in accounts.items() if a.limited], now)
    for account in accounts.values():
        _add(db, account, now, now, NOTHING, NOTHING, asked.units)
    facts = asked.facts
    db.execute(
        "INSERT INTO hold (id, scopes, made, expires, usd, reasoner_tokens, generator_tokens, requests, priced, "
        f"{_FACTS}) VALUES (?{', ?' * 17})",
        (asked.id, " ".join(asked.scopes), now, now + asked.ttl_us, *asked.units, asked.priced, *_columns(facts)),
    )
    return now


def settle(db: sqlite3.Connection, hold: Hold, settlement: Settlement, now: int) -> None:
    """Book what the hold really spent.

    Raises:
        HoldMisused: it was settled before, with another amount.
    """
    known = db.execute(
        "SELECT usd, reasoner_tokens, generator_tokens, requests, priced, charged, "
        "real_usd, real_reasoner, real_generator, real_requests FROM hold WHERE id = ?",
        (hold.id,),
    ).fetchone()
    real, priced = settlement.units, settlement.priced
    held, charged = NOTHING, False
    if known is not None:
        held, charged = known[:4], bool(known[5])
        if known[6] is not None:
            if known[6:] != real:
                raise settled_otherwise(hold.id, known[6:], real)
            return
    posting = book(
        held=held,
        charged=held if charged else NOTHING,
        real=real,
        expired=charged,
        priced=known is None or bool(known[4]),
    )
    _change(db, hold.scopes, hold.made_us, now, posting, given_back=NOTHING if charged else held)
    _write(db, now, hold.id, " ".join(hold.scopes), hold.made_us, priced, _columns(settlement.facts), posting)
    db.execute(
        "INSERT INTO hold (id, scopes, made, expires, usd, reasoner_tokens, generator_tokens, requests, priced, model, "
        "trace_id, ended, real_usd, real_reasoner, real_generator, real_requests) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "ended = excluded.ended, real_usd = excluded.real_usd, real_reasoner = excluded.real_reasoner, "
        "real_generator = excluded.real_generator, real_requests = excluded.real_requests",
        (hold.id, " ".join(hold.scopes), hold.made_us, now, *real, priced, now, *real),
    )


def release(db: sqlite3.Connection, hold: Hold, now: int) -> None:
    """Give the hold back; after its expiry take the charge back."""
    known = db.execute(
        "SELECT usd, reasoner_tokens, generator_tokens, requests, priced, charged, made, real_usd "
        "FROM hold WHERE id = ?",
        (hold.id,),
    ).fetchone()
    if known is None or known[7] is not None:
        return
    hold = replace(hold, made_us=known[6])
    if known[5]:
        settle(db, hold, Settlement(Amount(), NOTHING, bool(known[4]), hold.facts), now)
        return
    _change(db, hold.scopes, hold.made_us, now, Posting("settled", NOTHING, NOTHING), given_back=known[:4])
    db.execute("DELETE FROM hold WHERE id = ?", (hold.id,))


def expire(db: sqlite3.Connection, now: int, most: int) -> int:
    """Charge in full what was not settled in time, the oldest first; returns how many."""
    late = db.execute(
        f"SELECT id, scopes, made, usd, reasoner_tokens, generator_tokens, requests, priced, {_FACTS} "
        "FROM hold WHERE ended IS NULL AND expires <= ? ORDER BY expires LIMIT ?",
        (now, most),
    ).fetchall()
    for name, scopes, made, *rest in late:
        units: Units = (rest[0], rest[1], rest[2], rest[3])
        posting = Posting("expired", units, NOTHING)
        _change(db, scopes.split(), made, now, posting, given_back=units)
        _write(db, now, name, scopes, made, rest[4], rest[5:], posting)
        db.execute("UPDATE hold SET charged = 1, ended = ? WHERE id = ?", (now, name))
    return len(late)


def set_limit(db: sqlite3.Connection, scope: str, limit: Limit | None, now: int) -> None:
    """Store the limit; with another window than before, count the scope again."""
    account = _account(db, scope, now)
    span = None if limit is None else limit.window
    units = (None,) * 4 if limit is None else limit.units
    db.execute(
        "UPDATE scope SET usd = ?, reasoner_tokens = ?, generator_tokens = ?, requests = ?, span = ? WHERE id = ?",
        (*units, span, account.row),
    )
    if span == account.window.name:
        return
    account.window = window_of(span)
    db.execute("DELETE FROM slice WHERE scope = ?", (account.row,))
    booked = db.execute(
        "SELECT made, usd, reasoner_tokens, generator_tokens, requests, over_usd, over_reasoner, over_generator, "
        "over_requests FROM entry JOIN entry_scope ON entry = number WHERE scope = ? AND booked >= ?",
        (scope, account.window.oldest(now)),
    ).fetchall()
    for made, *values in booked:
        _add(db, account, made, now, _units(values[:4]), _units(values[4:]), NOTHING)
    held = db.execute(
        "SELECT made, usd, reasoner_tokens, generator_tokens, requests FROM hold "
        "WHERE ended IS NULL AND instr(' ' || scopes || ' ', ' ' || ? || ' ')",
        (scope,),
    ).fetchall()
    for made, *values in held:
        _add(db, account, made, now, NOTHING, NOTHING, _units(values))


def limits(db: sqlite3.Connection) -> dict[str, Limit]:
    """Every limit by its scope."""
    rows = db.execute(
        "SELECT name, usd, reasoner_tokens, generator_tokens, requests, span FROM scope "
        "WHERE coalesce(usd, reasoner_tokens, generator_tokens, requests) IS NOT NULL ORDER BY name"
    )
    return {name: _limit(values) for name, *values in rows}


def standing(db: sqlite3.Connection, scope: str, now: int) -> tuple[Limit | None, Units, Units, Units]:
    """A scope's limit; what is spent, overrun, and held in its present window."""
    row = db.execute(
        "SELECT id, usd, reasoner_tokens, generator_tokens, requests, span FROM scope WHERE name = ?", (scope,)
    ).fetchone()
    if row is None:
        return None, NOTHING, NOTHING, NOTHING
    limited = any(value is not None for value in row[1:5])
    return (_limit(row[1:]) if limited else None, *_sums(db, row[0], window_of(row[5]), now))


def entries(db: sqlite3.Connection, query: EntryQuery) -> list[Entry]:
    """The first entries that match, by number."""
    join, place = "", []
    if query.scope is not None:
        join, place = "JOIN entry_scope ON entry = number AND entry_scope.scope = ?", [query.scope]
    first = query.after.number if query.after else 0
    until_us = _NEVER_US if query.until_us is None else query.until_us
    rows = db.execute(
        "SELECT number, status, hold, scopes, made, booked, priced, usd, reasoner_tokens, generator_tokens, requests, "
        f"over_usd, over_reasoner, over_generator, over_requests, {_FACTS} FROM entry {join} "
        "WHERE number > ? AND booked >= ? AND booked < ? ORDER BY number LIMIT ?",
        (*place, first, query.since_us or 0, until_us, query.most),
    )
    return [_entry(row) for row in rows]


def prune(db: sqlite3.Connection, before: int, most: int) -> int:
    """Delete so many of the entries booked before, at most; with the last of them, the scopes unused since."""
    old = [number for (number,) in db.execute("SELECT number FROM entry WHERE booked < ? LIMIT ?", (before, most))]
    for number in old:
        (scopes,) = db.execute("DELETE FROM entry WHERE number = ? RETURNING scopes", (number,)).fetchone()
        for scope in scopes.split():
            db.execute("DELETE FROM entry_scope WHERE scope = ? AND entry = ?", (scope, number))
    if len(old) < most:
        unused = (
            "SELECT id FROM scope WHERE used < ? AND coalesce(usd, reasoner_tokens, generator_tokens, requests) IS NULL"
        )
        db.execute(f"DELETE FROM slice WHERE scope IN ({unused})", (before - _USED_TO_S * SECOND,))
        db.execute(f"DELETE FROM scope WHERE id IN ({unused})", (before - _USED_TO_S * SECOND,))
    return len(old)


@dataclass(slots=True)
class _Account:
    """A scope's row: where its slices are, its limit, its window."""

    row: int
    limit: Sequence[Any]
    """In units, and the window's name."""
    window: Window

    @property
    def limited(self) -> bool:
        return self.limit[:4] != (None, None, None, None)


def _account(db: sqlite3.Connection, scope: str, now: int) -> _Account:
    """The scope's account, made where there is none."""
    found = db.execute(
        "SELECT id, used, usd, reasoner_tokens, generator_tokens, requests, span FROM scope WHERE name = ?", (scope,)
    ).fetchone()
    if found is None:
        row = db.execute("INSERT INTO scope (name, used) VALUES (?, ?)", (scope, now)).lastrowid or 0
        return _Account(row, (None,) * 5, window_of(None))
    row, used, *limit = found
    if used < now - _USED_TO_S * SECOND:
        db.execute("UPDATE scope SET used = ? WHERE id = ?", (now, row))
    return _Account(row, tuple(limit), window_of(limit[4]))


def _standing(db: sqlite3.Connection, scope: str, account: _Account, now: int) -> Standing:
    spent, _, held = _sums(db, account.row, account.window, now)
    limit = account.limit
    return Standing(scope, _limit(limit), (limit[0], limit[1], limit[2], limit[3]), spent, held)


def _sums(db: sqlite3.Connection, row: int, window: Window, now: int) -> tuple[Units, Units, Units]:
    values = db.execute(
        f"SELECT {_SUMS} FROM slice WHERE scope = ? AND start >= ?",
        (row, window.oldest(now)),
    ).fetchone()
    return _units(values[:4]), _units(values[4:8]), _units(values[8:])


def _add(
    db: sqlite3.Connection, account: _Account, made: int, now: int, spent: Units, overrun: Units, held: Units
) -> None:
    window = account.window
    start, oldest = window.slice_of(made), window.oldest(now)
    if start >= oldest:
        db.execute(_ADD, (account.row, start, *spent, *overrun, *held))
    if window.name is not None and made == now:  # once for each hold is often enough
        db.execute("DELETE FROM slice WHERE scope = ? AND start < ?", (account.row, oldest))


def _change(
    db: sqlite3.Connection, scopes: Iterable[str], made: int, now: int, posting: Posting, *, given_back: Units
) -> None:
    less = (-given_back[0], -given_back[1], -given_back[2], -given_back[3])
    for scope in scopes:
        _add(db, _account(db, scope, now), made, now, posting.change, posting.overrun, less)


def _write(
    db: sqlite3.Connection,
    now: int,
    hold: str,
    scopes: str,
    made: int,
    priced: bool,
    facts: Iterable[object],
    posting: Posting,
) -> None:
    number = db.execute(
        f"INSERT INTO entry (status, hold, scopes, made, booked, priced, {_FACTS}, usd, reasoner_tokens, "
        "generator_tokens, requests, over_usd, over_reasoner, over_generator, over_requests) "
        f"VALUES (?{', ?' * 22})",
        (posting.status, hold, scopes, made, now, priced, *facts, *posting.change, *posting.overrun),
    ).lastrowid
    db.executemany("INSERT INTO entry_scope VALUES (?, ?)", [(scope, number) for scope in scopes.split()])


def _columns(facts: EntryFacts) -> tuple[object, ...]:
    """As it is stored; a server may have reported any number, and a column has 64 bits."""
    return tuple(min(value, MOST) if isinstance(value, int) else value for value in _values(facts))


def _units(values: Any) -> Units:
    usd, reasoner, generator, requests = values
    return usd, reasoner, generator, requests


def _limit(values: Any) -> Limit:
    usd, reasoner, generator, requests, span = values
    return Limit(None if usd is None else usd_of(usd), reasoner, generator, requests, span)


def _entry(row: Any) -> Entry:
    number, status, hold, scopes, made, booked, priced, usd, reasoner, generator, requests, *rest = row
    return Entry(
        number=number,
        status=status,
        hold=hold,
        scopes=tuple(scopes.split()),
        made=moment_of(made),
        booked=moment_of(booked),
        facts=EntryFacts(*rest[4:]),
        usd=usd_of(usd) if priced else None,
        reasoner_tokens=reasoner,
        generator_tokens=generator,
        requests=requests,
        overrun=amount_of(_units(rest[:4])),
    )
