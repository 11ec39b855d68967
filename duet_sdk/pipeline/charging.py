"""One request's charges in a ledger: each attempt is held before it is sent, and settled however it ends."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import uuid4

from duet_sdk.budget import Amount, BaseLedger, EntryFacts, Hold, scope_of
from duet_sdk.errors import DuetError
from duet_sdk.reply import StageUsage
from duet_sdk.request import Labels
from duet_sdk.types import AttemptKind, Stage

_log = logging.getLogger(__name__)
_SPARE_S = 60.0
"""A hold outlives its attempt's deadline by this, so that a settle that is a little late still finds it."""


def scopes_of(labels: Labels) -> tuple[str, ...]:
    """The scopes that a request is charged to: its labels, and those that were named.

    Raises:
        InvalidRequest: a label that makes no scope.
    """
    named = (("tenant", labels.tenant), ("user", labels.user), ("session", labels.session))
    return (*(scope_of(kind, label) for kind, label in named if label is not None), *labels.scopes)


class Charging:
    """Charges the attempts of one request to its scopes.

    Args:
        ledger: of the client.
        scopes: as `scopes_of` gives them.
        wait_s: longest wait for room that only other requests' holds take.
    """

    def __init__(self, ledger: BaseLedger, scopes: Sequence[str], *, wait_s: float = 0.0) -> None:
        self._ledger = ledger
        self._scopes = tuple(scopes)
        self._wait_s = wait_s
        self._key = uuid4().hex
        self._holds = 0
        self._is_counted = False

    async def hold(
        self,
        facts: EntryFacts,
        *,
        tokens: int,
        usd: Decimal | None,
        left_s: float | None,
    ) -> Charge:
        """Hold the most that an attempt can spend; the first one counts the request, too.

        Args:
            facts: what is called for.
            tokens: the prompt and all output that it is allowed.
            usd: what they cost at most, None if the price is unknown.
            left_s: seconds until the attempt's deadline, None for none.

        Raises:
            BudgetExceeded: a scope has no room; nothing is held.
            ConfigError: a scope is limited in money, and the price is unknown.
            LedgerError: the store failed.
        """
        self._holds += 1
        counts, self._is_counted = not self._is_counted, True
        amount = replace(_tokens(facts.stage, tokens), usd=usd, requests=int(counts))
        until_s = {} if left_s is None else {"ttl_s": left_s + _SPARE_S}
        wait_s = self._wait_s if left_s is None else min(self._wait_s, left_s)
        try:
            hold = await self._ledger.hold(
                self._scopes, amount, key=f"{self._key}.{self._holds}", wait_s=wait_s, facts=facts, **until_s
            )
        except BaseException:
            self._is_counted = not counts
            raise
        return Charge(self, hold, counts)

    def not_sent(self, charge: Charge) -> None:
        """The attempt that counted the request was never sent: the next one counts it."""
        if charge.counts:
            self._is_counted = False


@dataclass(frozen=True, slots=True)
class Charge:
    """An attempt's hold in the ledger."""

    charging: Charging
    hold: Hold
    counts: bool
    """Whether it counts the request."""

    async def settle(self, kind: AttemptKind, usage: StageUsage, usd: Decimal | None) -> None:
        """Book what was spent, and for what; where the store fails, the hold will expire and be charged in full."""
        facts = replace(
            self.hold.facts,
            kind=kind,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )
        amount = replace(_tokens(facts.stage, usage.total_tokens), usd=usd, requests=int(self.counts)).capped()
        await _reported(self.hold.settle(amount, facts), "settled")

    async def release(self) -> None:
        """Return all of it: nothing was sent."""
        self.charging.not_sent(self)
        await _reported(self.hold.release(), "released")


def _tokens(stage: Stage | None, tokens: int) -> Amount:
    return Amount(reasoner_tokens=tokens) if stage == "reasoner" else Amount(generator_tokens=tokens)


async def _reported(work: Coroutine[object, object, None], what: str) -> None:
    try:
        await work
    except DuetError as error:
        # The answer is there and paid for: it must not be lost to the book-keeping.
        _log.warning("an attempt could not be %s, its hold will be charged in full when it expires: %s", what, error)
