"""What a ledger holds, for people: tables that fit 80 columns, in which no name is cut, and lines of entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from rich.table import Column, Table

from duet_sdk.budget.report import Grouping, ReportRow
from duet_sdk.cli.terminal import in_a_line

if TYPE_CHECKING:
    from duet_sdk.budget import Balance, Entry, Limit

_OF: Final = {
    "usd": "USD",
    "reasoner_tokens": "reasoner tokens",
    "generator_tokens": "generator tokens",
    "requests": "requests",
}
"""What is limited → as it is shown."""
_BY_REQUEST: Final = ("requests", "reasoner_tokens", "generator_tokens", "usd")
_BY_ATTEMPT: Final = ("attempts", "input_tokens", "output_tokens", "usd")
_SHOWN: Final[dict[Grouping, Sequence[str]]] = {
    "scope": _BY_REQUEST,
    "day": _BY_REQUEST,
    "model": _BY_ATTEMPT,
    "stage": _BY_ATTEMPT,
    "kind": _BY_ATTEMPT,
}
"""The columns that say most of such a group; a model has no requests of its own, and is of one stage as a rule."""
_ALL: Final = tuple(field.name for field in fields(ReportRow))[1:]
_REST: Final = {"unpriced": "attempts without a price", "expired": "not settled in time"}


def report_table(by: Grouping, rows: Sequence[ReportRow], *, wide: bool) -> Table:
    """A row for each group; ``wide`` shows every column."""
    names = _ALL if wide else _SHOWN[by]
    heads = (_of(name).replace(" ", "\n") for name in names)
    table = Table(_name(by), *(_number(head) for head in heads))
    for row in rows:
        table.add_row(in_a_line(row.group), *(text(getattr(row, name)) for name in names))
    if not wide and (told := _told(rows)):
        table.caption = f"{told}; --wide shows more"
    return table


def balance_table(balances: Mapping[str, Balance]) -> Table:
    """What each scope has spent in its window of what it may, and what is held for requests that run."""
    words = (Column(head, no_wrap=True) for head in ("window", "of"))
    table = Table(_name("scope"), *words, *(_number(head) for head in ("spent", "held", "limit", "used")))
    for scope, balance in balances.items():
        first = (in_a_line(scope), window_of(balance.limit))
        for name in _limited(balance.limit) or _OF:
            table.add_row(*first, *_figures(balance, name))
            first = ("", "")
        table.add_section()
    return table


def entry_table(entries: Iterable[Entry]) -> Table:
    """Entries, one in a row, for a screen; `entry_line` has all of them."""
    table = Table("time", "stage", _name("model"), _number("tokens"), _number("USD"), box=None, pad_edge=False)
    for entry in entries:
        tokens = entry.reasoner_tokens + entry.generator_tokens
        facts = entry.facts
        table.add_row(f"{entry.booked:%H:%M:%S}", facts.stage, in_a_line(facts.model), str(tokens), text(entry.usd))
    return table


def entry_line(entry: Entry) -> str:
    """An entry in one line."""
    facts = entry.facts
    tokens = f"{entry.reasoner_tokens}+{entry.generator_tokens} tokens"
    words = (
        f"{entry.booked:%Y-%m-%d %H:%M:%S}",
        entry.status,
        facts.stage,
        facts.kind,
        facts.model,
        tokens,
        f"{text(entry.usd)} USD",
    )
    return "  ".join(in_a_line(word) for word in (*words, *entry.scopes) if word)


def limit_line(limit: Limit) -> str:
    """A limit in words.

    >>> from duet_sdk.budget import Limit
    >>> limit_line(Limit(usd=Decimal(5), requests=100, window="day"))
    'at most 5 USD, 100 requests (window: day)'
    """
    most = (_amount(getattr(limit, name), name) for name in _limited(limit))
    return f"at most {', '.join(most)} (window: {window_of(limit)})"


def spent_line(balance: Balance) -> str:
    """What is spent of what is limited, in words."""
    return ", ".join(_amount(getattr(balance.spent, name), name) for name in _limited(balance.limit))


def window_of(limit: Limit | None) -> str:
    """The window of a limit; ``forever`` where there is none."""
    return (limit.window if limit else None) or "forever"


def text(value: Decimal | int | None) -> str:
    """A number without digits that say nothing; ``unknown`` for a price that is not known."""
    return "unknown" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def _limited(limit: Limit | None) -> list[str]:
    return [name for name in _OF if limit is not None and getattr(limit, name) is not None]


def _figures(balance: Balance, name: str) -> tuple[str, ...]:
    spent, held = getattr(balance.spent, name), getattr(balance.held, name)
    most = None if balance.limit is None else getattr(balance.limit, name)
    used = f"{float((spent or 0) / most):.0%}" if most else ""
    return _OF[name], text(spent), text(held), "none" if most is None else text(most), used


def _told(rows: Sequence[ReportRow]) -> str:
    """What the few columns leave out although it matters."""
    counts = {name: sum(getattr(row, name) for row in rows) for name in _REST}
    return ", ".join(f"{count} {_REST[name]}" for name, count in counts.items() if count)


def _amount(value: Decimal | int | None, name: str) -> str:
    return f"{text(value)} {_OF[name].removesuffix('s') if value == 1 else _OF[name]}"


def _of(name: str) -> str:
    return _OF.get(name, name.replace("_", " "))


def _name(head: str) -> Column:
    """A column of names: one that is too long goes on in the next line."""
    return Column(head, overflow="fold")


def _number(head: str) -> Column:
    return Column(head, justify="right", no_wrap=True)
