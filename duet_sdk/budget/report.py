"""What a ledger's entries add up to, by scope, model, stage, kind of attempt, or day."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, Protocol, TypeAlias

from duet_sdk._checks import one_of
from duet_sdk.budget.entry import Entry
from duet_sdk.errors import InvalidRequest

Grouping: TypeAlias = Literal["scope", "model", "stage", "kind", "day"]

_KEYS: Final[Mapping[Grouping, Callable[[Entry], Iterable[str]]]] = {
    "scope": lambda entry: entry.scopes or ("none",),
    "model": lambda entry: (entry.facts.model or "unknown",),
    "stage": lambda entry: (entry.facts.stage or "unknown",),
    "kind": lambda entry: (entry.facts.kind or "unknown",),
    "day": lambda entry: (f"{entry.made:%Y-%m-%d}",),
}


class HasEntries(Protocol):
    """A ledger, as far as it is read here."""

    async def entries(
        self,
        *,
        scope: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Entry | None = None,
        most: int = 1000,
    ) -> Sequence[Entry]:
        """As `BaseLedger.entries`."""
        ...


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The sum of the entries of one group."""

    group: str
    attempts: int = 0
    requests: int = 0
    reasoner_tokens: int = 0
    """Input and output."""
    generator_tokens: int = 0
    """Input and output."""
    input_tokens: int = 0
    """Of both stages, as far as the entries say."""
    output_tokens: int = 0
    """Of both stages, as far as the entries say."""
    usd: Decimal = Decimal(0)
    overrun_usd: Decimal = Decimal(0)
    """The part of ``usd`` that no hold covered."""
    unpriced: int = 0
    """Attempts whose price is unknown; they are not in ``usd``."""
    expired: int = 0
    """Attempts that were not settled in time."""

    def plus(self, entry: Entry) -> ReportRow:
        """The sum with this entry added."""
        corrects = entry.status == "corrected"  # the attempt was counted when it expired
        return replace(
            self,
            attempts=self.attempts + (not corrects),
            requests=self.requests + entry.requests,
            reasoner_tokens=self.reasoner_tokens + entry.reasoner_tokens,
            generator_tokens=self.generator_tokens + entry.generator_tokens,
            input_tokens=self.input_tokens + entry.facts.input_tokens,
            output_tokens=self.output_tokens + entry.facts.output_tokens,
            usd=self.usd + (entry.usd or 0),
            overrun_usd=self.overrun_usd + (entry.overrun.usd or 0),
            unpriced=self.unpriced + (entry.usd is None and not corrects),
            expired=self.expired + (entry.status == "expired"),
        )


async def report(
    ledger: HasEntries,
    by: Grouping,
    *,
    scope: str | None = None,
    model: str | None = None,
    stage: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[ReportRow]:
    """As `BaseLedger.report`, of whatever has entries."""
    one_of("a report's grouping", by, _KEYS, error=InvalidRequest)
    rows: dict[str, ReportRow] = {}
    async for entry in read(ledger, scope=scope, since=since, until=until):
        if model in (None, entry.facts.model) and stage in (None, entry.facts.stage):
            for group in _KEYS[by](entry):
                rows[group] = rows.get(group, ReportRow(group)).plus(entry)
    return [rows[group] for group in sorted(rows)]


async def read(
    ledger: HasEntries,
    *,
    scope: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Entry | None = None,
) -> AsyncIterator[Entry]:
    """All entries that match, page by page."""
    while page := await ledger.entries(scope=scope, since=since, until=until, after=after):
        for entry in page:
            yield entry
        after = page[-1]
