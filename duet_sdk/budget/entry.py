"""A ledger's entries: what was charged, to which scopes, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from duet_sdk.budget.amount import Amount
from duet_sdk.types import AttemptKind, Stage

EntryStatus: TypeAlias = Literal["settled", "overrun", "expired", "corrected"]
"""How a charge came about: by a settle within its hold, by one above it, by expiry, by a settle after expiry."""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What a charge was for; it changes no limit."""

    stage: Stage | None = None
    model: str = ""
    """Full name, ``backend/model``."""
    kind: AttemptKind | None = None
    """What the attempt was called for; the output of a probe is not used."""
    trace_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None
    """Of the input, what the server read from its cache; None if it does not say, as with the two below."""
    cache_write_tokens: int | None = None
    """Of the input, what it wrote into its cache."""
    reasoning_tokens: int | None = None
    """Of the output, hidden thinking."""


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
    """None if the price is unknown; it counts as nothing."""
    reasoner_tokens: int
    generator_tokens: int
    requests: int
    overrun: Amount
    """The part that its hold did not cover."""
