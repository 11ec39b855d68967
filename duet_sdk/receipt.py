"""What a request has spent so far, attempt by attempt."""

from __future__ import annotations

from decimal import Decimal

from duet_sdk.types import Attempt, Cost, Receipt, Stage, StageUsage, Usage


class Account:
    """Collects the attempts of one request."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.first_answer_s: float | None = None

    def usage(self) -> Usage:
        """Tokens by stage, over all attempts."""
        return Usage(self.stage_usage("reasoner"), self.stage_usage("generator"))

    @property
    def spent(self) -> bool:
        """Whether any attempt has been billed for a token."""
        return any(attempt.usage.total_tokens for attempt in self.attempts)

    def stage_usage(self, stage: Stage) -> StageUsage:
        """Tokens of one stage, over its attempts."""
        return sum((attempt.usage for attempt in self.attempts if attempt.stage == stage), StageUsage())

    def cost(self) -> Cost:
        """Money by stage; None as soon as one attempt's price is unknown."""
        reasoner, generator = self._stage_usd("reasoner"), self._stage_usd("generator")
        total = None if reasoner is None or generator is None else reasoner + generator
        # Nothing is uncertain about a sum of zeros.
        estimated = total != 0 and any(attempt.usage.estimated for attempt in self.attempts)
        return Cost(total, reasoner, generator, estimated)

    def _stage_usd(self, stage: Stage) -> Decimal | None:
        total = Decimal(0)
        for attempt in self.attempts:
            if attempt.stage == stage:
                if attempt.usd is None:
                    return None
                total += attempt.usd
        return total

    def receipt(self, duration_s: float) -> Receipt:
        """The receipt, for a request that has taken ``duration_s`` so far."""
        return Receipt(tuple(self.attempts), duration_s, self.first_answer_s)
