"""The commands ``duet ledger …``: read what was spent, and limit it."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Group
from rich.live import Live

from duet_sdk.budget import Balance, BaseLedger, Entry, Limit, SqliteLedger, connect_ledger
from duet_sdk.budget.report import Grouping, ReportRow, read, report
from duet_sdk.cli.ledger_tables import balance_table, entry_line, entry_table, limit_line, report_table, spent_line
from duet_sdk.cli.spans import span
from duet_sdk.cli.terminal import AsJson, Screen, in_a_line, print_json, reporting
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.errors import ConfigError, InvalidRequest

ledger_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Spending over many requests.")

_POLL_S = 1.0
"""How often `tail --follow` reads: soon enough for a person who watches, no load for a store."""
_LATEST = 10
"""Entries that `watch` shows: what fits below the limits on a screen of 24 lines."""
_WIDEST = 200
"""Columns that a wide table may take; the terminal breaks its lines."""

Url = Annotated[str | None, typer.Option("--ledger", help="URL of the ledger; else that of the settings.")]
Scope = Annotated[str, typer.Argument(help="Scope, as kind:name.")]
InScope = Annotated[str | None, typer.Option("--scope", help="Only entries in this scope.")]
Since = Annotated[str | None, typer.Option(help="Only entries since then: 2026-11-01, or 24h, 7d, 30m ago.")]
Until = Annotated[str | None, typer.Option(help="Only entries before then; likewise.")]


@ledger_app.command("report", epilog="Example: duet ledger report --by model --since 7d --csv")
def report_command(
    by: Annotated[Grouping, typer.Option(help="What makes a row.")] = "scope",
    scope: InScope = None,
    model: Annotated[str | None, typer.Option(help="Only entries of this model.")] = None,
    stage: Annotated[Literal["reasoner", "generator"] | None, typer.Option(help="Only this stage.")] = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values instead of a table.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Show every column, on lines as long as that takes.")] = False,
) -> None:
    """Show what was spent, by scope, model, stage, kind of attempt, or day."""

    async def work() -> list[ReportRow]:
        async with _existing(url, config) as ledger:
            return await report(
                ledger, by, scope=scope, model=model, stage=stage, since=_moment(since), until=_moment(until)
            )

    with reporting():
        if as_json and as_csv:
            raise ConfigError("pass --json or --csv, not both")
        rows = asyncio.run(work())
        if as_json:
            print_json([_plain(asdict(row)) for row in rows])
        elif as_csv:
            _print_csv(rows)
        else:
            screen = Screen()
            screen.width = _WIDEST if wide else screen.width
            screen.print(report_table(by, rows, wide=wide))


@ledger_app.command("balance", epilog="Example: duet ledger balance tenant:a --json")
def balance_command(
    scope: Annotated[str | None, typer.Argument(help="Scope; without one, all that have a limit.")] = None,
    url: Url = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what is spent, held and left in the present window."""

    async def work() -> dict[str, Balance]:
        async with _existing(url, config) as ledger:
            scopes = [scope] if scope is not None else list(await ledger.limits())
            return {each: await ledger.balance(each) for each in scopes}

    with reporting():
        balances = asyncio.run(work())
        if as_json:
            print_json({each: _plain(asdict(balance)) for each, balance in balances.items()})
            return
        Screen().print(balance_table(balances))


@ledger_app.command("set-limit", epilog="Example: duet ledger set-limit tenant:a --usd 5 --window day")
def set_limit_command(
    scope: Scope,
    usd: Annotated[str | None, typer.Option(help="USD, as an exact number.")] = None,
    reasoner_tokens: Annotated[int | None, typer.Option(help="Input and output tokens of the reasoner.")] = None,
    generator_tokens: Annotated[int | None, typer.Option(help="Input and output tokens of the generator.")] = None,
    requests: Annotated[int | None, typer.Option(help="Requests.")] = None,
    window: Annotated[
        str | None, typer.Option(help="minute, hour, day, month, rolling:24h; forever when omitted.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the limit: only count from now on.")] = False,
    url: Url = None,
    config: ConfigFile = None,
) -> None:
    """Limit a scope from now on; what it has spent in the window counts at once."""

    async def work(limit: Limit | None) -> str:
        async with _connected(url, config) as ledger:
            before = (await ledger.limits()).get(scope)
            await ledger.set_limit(scope, limit)
            if limit is not None:
                replaced = "" if before is None else f"; replaces {limit_line(before)}"
                return f"{limit_line(limit)}; spent so far: {spent_line(await ledger.balance(scope))}{replaced}"
        return "had no limit" if before is None else f"no limit any more, was {limit_line(before)}"

    with reporting():
        if remove and any(value is not None for value in (usd, reasoner_tokens, generator_tokens, requests, window)):
            raise ConfigError("--remove removes the whole limit: omit the other options")
        limit = None if remove else Limit(_usd(usd), reasoner_tokens, generator_tokens, requests, window)
        done = asyncio.run(work(limit))
        Screen(stderr=True).print(f"{in_a_line(scope)}: {done}", soft_wrap=True)


@ledger_app.command("tail", epilog="Example: duet ledger tail --scope tenant:a --follow")
def tail_command(
    scope: InScope = None,
    since: Since = "1h",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new entries until interrupted.")] = False,
    url: Url = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object in each line.")] = False,
) -> None:
    """Print the latest entries, one a line, the oldest first."""

    async def work() -> None:
        async with _existing(url, config) as ledger:
            last: Entry | None = None
            start = _moment(since)
            while True:
                async for entry in read(ledger, scope=scope, since=start, after=last):
                    last = entry
                    if as_json:
                        plain = _plain(asdict(entry))
                        print_json({**plain, **plain.pop("facts")}, indent=None)
                    else:
                        sys.stdout.write(entry_line(entry) + "\n")
                sys.stdout.flush()
                if not follow:
                    return
                await asyncio.sleep(_POLL_S)

    with reporting():
        asyncio.run(work())


@ledger_app.command("watch", epilog="Example: duet ledger watch --scope tenant:a")
def watch_command(
    scope: InScope = None,
    url: Url = None,
    config: ConfigFile = None,
) -> None:
    """Show limits and the latest entries, as they change, until Ctrl-C."""

    async def work(live: Live) -> None:
        async with _existing(url, config) as ledger:
            while True:
                live.update(await _now(ledger, scope), refresh=True)
                await asyncio.sleep(_POLL_S)

    with reporting():
        if not sys.stdout.isatty():
            raise ConfigError("watch needs a terminal; for a file or a pipe use duet ledger tail --follow")
        with Live(console=Screen(), auto_refresh=False) as live, suppress(KeyboardInterrupt):
            asyncio.run(work(live))


@ledger_app.command("prune", epilog="Example: duet ledger prune 90d")
def prune_command(
    before: Annotated[str, typer.Argument(help="Delete entries before then: 2026-11-01, or 90d ago.")],
    url: Url = None,
    config: ConfigFile = None,
) -> None:
    """Delete old entries; what limited scopes have spent stays spent."""

    async def work() -> int:
        async with _existing(url, config) as ledger:
            return await ledger.prune(_moment(before) or datetime.now(UTC))

    with reporting():
        count = asyncio.run(work())
        Screen(stderr=True).print(f"deleted {count} entries")


async def _now(ledger: BaseLedger, scope: str | None) -> Group:
    """What `watch` shows: the balance of the scope, or of all that have a limit, and the latest entries."""
    scopes = list(await ledger.limits()) if scope is None else [scope]
    balances = {each: await ledger.balance(each) for each in scopes}
    latest: deque[Entry] = deque(maxlen=_LATEST)
    async for entry in read(ledger, scope=scope, since=datetime.now(UTC) - timedelta(hours=1)):
        latest.append(entry)
    above = balance_table(balances) if balances else "no scope has a limit; duet ledger set-limit sets one"
    return Group(above, "", entry_table(latest), "the last hour's latest entries; Ctrl-C ends")


@asynccontextmanager
async def _connected(url: str | None, config: Path | None) -> AsyncIterator[BaseLedger]:
    named = url or settings(config).ledger
    if named is None:
        raise ConfigError("no ledger given: pass --ledger sqlite:///ledger.db, or set ledger in duet.toml")
    async with connect_ledger(named) as ledger:
        yield ledger


@asynccontextmanager
async def _existing(url: str | None, config: Path | None) -> AsyncIterator[BaseLedger]:
    """The ledger, unless reading it would create it."""
    async with _connected(url, config) as ledger:
        if isinstance(ledger, SqliteLedger) and not ledger.path.exists():
            raise ConfigError(f"there is no ledger at {ledger.path}")
        yield ledger


def _moment(given: str | None) -> datetime | None:
    """A date, a moment, or a time ago.

    Raises:
        InvalidRequest: it is none of these.
    """
    if given is None:
        return None
    try:
        if (ago := span(given)) is not None:
            return datetime.now(UTC) - ago
        moment = datetime.fromisoformat(given)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"invalid time {given!r}: use 2026-11-01, 2026-11-01T12:00Z, or a time ago such as 24h, 7d or 30m"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _usd(given: str | None) -> Decimal | None:
    try:
        return None if given is None else Decimal(given)
    except InvalidOperation:
        raise ConfigError(f"--usd must be a number of USD, got {given!r}") from None


def _print_csv(rows: Sequence[ReportRow]) -> None:
    names = [field.name for field in fields(ReportRow)]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(asdict(row)) for row in rows)


def _plain(value: Any) -> Any:
    """Ready for JSON; money as text, to the last digit."""
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case _:
            return value
