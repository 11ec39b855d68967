"""What every ledger owes the pipeline: spending is held before it happens, and settled or released after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeAlias, runtime_checkable

from duet_sdk.budget.amount import Amount, Balance, Limit
from duet_sdk.types import Stage

HOLD_TTL_S: Final = 600.0
"""After so many seconds a hold counts as left behind by a dead process, and is charged in full."""

AttemptKind: TypeAlias = Literal["signal", "wrap_up", "answer", "probe"]
EntryStatus: TypeAlias = Literal["settled", "overrun", "expired", "corrected"]
"""How a charge came about: by a settle within its hold, by one above it, by expiry, by a settle after expiry."""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What a charge was for; it changes no limit."""

    stage: Stage | None = None
    model: str = ""
    """Full name, ``backend/model``."""
    kind: AttemptKind | None = None
    """What the attempt was to write; a probe wrote what nobody used."""
    trace_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """An amount kept back in all its scopes until it is settled, released, or expired."""

    id: str
    scopes: tuple[str, ...]
    amount: Amount
    facts: EntryFacts
    made_us: int
    """Microseconds since the epoch by the ledger's clock; the windows of this moment are charged."""
    _ledger: Ledger = field(repr=False, compare=False)

    async def settle(self, amount: Amount, facts: EntryFacts | None = None) -> None:
        """See `Ledger.settle`."""
        await self._ledger.settle(self, amount, facts)

    async def release(self) -> None:
        """See `Ledger.release`."""
        await self._ledger.release(self)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger's book, never changed afterwards. The sum of a scope's entries is what it spent.

    The amounts of a ``corrected`` entry are differences to the ``expired`` one before it, mostly below 0.
    """

    number: int
    """Counts up from 1, with gaps."""
    status: EntryStatus
    hold: str
    """Id of the hold that it came from."""
    scopes: tuple[str, ...]
    made: datetime
    """When the hold was made, UTC; its windows were charged."""
    booked: datetime
    facts: EntryFacts
    usd: Decimal | None
    """None where the price is unknown; it counts as nothing."""
    reasoner_tokens: int
    generator_tokens: int
    requests: int
    overrun: Amount
    """The part that its hold did not cover."""


@runtime_checkable
class Ledger(Protocol):
    """Keeps the limits of scopes over many requests. One object serves many concurrent requests.

    ``spent - overrun + held ≤ limit`` holds at every moment in every scope, whatever runs beside it or dies.
    """

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
        """Keep an amount back in all scopes, or in none. Cancelled, it holds nothing.

        Args:
            scopes: ``kind:name`` each; one without a limit is only counted; none at all is allowed.
            amount: the most that the attempt can spend. With an unknown price, no scope may have a limit in money.
            key: makes it idempotent: a key that is known gives the hold that was made with it, whatever became of it
                since, unless it was released. Keys are remembered for a day after the hold's end.
            ttl_s: seconds after which it is charged in full, unless it was settled or released.
            wait_s: longest wait for room that only held amounts take; what is spent is not waited for.
            facts: what it is for.

        Raises:
            BudgetExceeded: a scope has no room; nothing is held.
            InvalidRequest: a malformed scope, key, amount or time.
            ConfigError: the price is unknown and a scope has a limit in money.
            HoldMisused: the key was used for another hold.
            LedgerError: the store failed.
        """

    async def settle(self, hold: Hold, amount: Amount, facts: EntryFacts | None = None) -> None:
        """Book what was really spent, and give the rest back.

        Above its hold it is booked in full, the excess as overrun. After expiry it replaces the charge. An unknown
        price (usd None) charges the money that was held. Repeated with the same amount it does nothing. A hold that
        the store no longer knows (released before, or lost with the store's memory) is booked in full as overrun.

        Args:
            hold: from this ledger, or from another object on the same store.
            amount: as billed.
            facts: in place of those of the hold.

        Raises:
            InvalidRequest: an amount that no ledger counts.
            HoldMisused: it was settled before, with another amount; nothing changed.
            LedgerError: the store failed.
        """

    async def release(self, hold: Hold) -> None:
        """Give all back, as nothing was spent; after expiry it takes the charge back, after a settle it does nothing.

        Raises:
            LedgerError: the store failed.
        """

    async def set_limit(self, scope: str, limit: Limit | None) -> None:
        """Limit a scope from now on, None to count it only. What was spent and held in the window counts at once.

        A limit below what is spent refuses every further hold, and loses nothing. Another window than before is
        counted anew from the entries, as far back as they are kept.

        Raises:
            InvalidRequest: a malformed scope.
            LedgerError: the store failed.
        """

    async def limits(self) -> Mapping[str, Limit]:
        """Every limit by its scope.

        Raises:
            LedgerError: the store failed.
        """

    async def balance(self, scope: str) -> Balance:
        """Where a scope stands in its present window; all zeros where nothing was ever spent in it.

        Raises:
            InvalidRequest: a malformed scope.
            LedgerError: the store failed.
        """

    async def entries(
        self,
        *,
        scope: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: Entry | None = None,
        most: int = 1000,
    ) -> Sequence[Entry]:
        """The first entries in the order in which they were booked; page on with ``after=page[-1]``.

        Args:
            scope: only those in this scope.
            since: only those booked at this moment or later.
            until: only those booked before it.
            after: only those that were booked after this one.
            most: how many at most.

        Raises:
            InvalidRequest: a malformed scope, or a moment without a time zone.
            LedgerError: the store failed.
        """

    async def prune(self, before: datetime) -> int:
        """Delete the entries booked before that moment; gives how many.

        What a scope with a limit has spent stays spent; one without, unused since then (to the hour), is forgotten.

        Raises:
            InvalidRequest: a moment without a time zone.
            LedgerError: the store failed.
        """

    async def aclose(self) -> None:
        """Free what the ledger holds open; its holds stay. Calling it twice is harmless."""

    async def __aenter__(self) -> Self:
        """The ledger itself."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
