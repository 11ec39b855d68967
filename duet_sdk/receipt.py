"""What a request has spent so far, attempt by attempt, and what the reasoner alone would have cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from duet_sdk.pricing import Price, PriceBook
from duet_sdk.reply import (
    Attempt,
    Cost,
    Discarded,
    ReasonerOnlyEstimate,
    Receipt,
    RunTotals,
    StageTotals,
    StageUsage,
    Usage,
)
from duet_sdk.types import AttemptKind, Stage


class Account:
    """Collects the attempts of one request.

    Attributes:
        attempts: those that have ended, in that order.
        first_answer_s: seconds from the start of the request to the first token of the answer.
        gate_s: seconds that the gate took.
        run: totals of the agent's run, where there is one.
    """

    __slots__ = ("_begun", "attempts", "first_answer_s", "gate_s", "run")

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.first_answer_s: float | None = None
        self.gate_s = 0.0
        self.run: RunTotals | None = None
        self._begun: dict[Stage, int] = {}

    def next_number(self, stage: Stage) -> int:
        """The number of an attempt of that stage that begins now; the first is 1."""
        self._begun[stage] = number = self._begun.get(stage, 0) + 1
        return number

    def begun(self, stage: Stage) -> int:
        """How many attempts of that stage have begun."""
        return self._begun.get(stage, 0)

    def usage(self) -> Usage:
        """Tokens by stage, over all attempts."""
        return _usage(self.attempts)

    @property
    def spent(self) -> bool:
        """Whether any attempt has been billed for a token."""
        return any(attempt.usage.total_tokens for attempt in self.attempts)

    def stage_usage(self, stage: Stage) -> StageUsage:
        """Tokens of one stage, over its attempts."""
        return _stage_usage([attempt for attempt in self.attempts if attempt.stage == stage])

    def cost(self) -> Cost:
        """Money by stage; None as soon as one attempt's price is unknown."""
        reasoner, generator = _by_stage(self.attempts)
        return _cost(_usd(reasoner), _usd(generator), self.attempts)

    def discard(self, *kinds: AttemptKind) -> None:
        """Mark what was written in attempts of these kinds as thrown away."""
        self.attempts = [
            replace(attempt, discarded=True) if attempt.kind in kinds else attempt for attempt in self.attempts
        ]

    def books(self, duration_s: float, reasoner_only: ReasonerOnlyEstimate | None) -> tuple[Usage, Cost, Receipt]:
        """Usage, cost and receipt of a request that has taken ``duration_s`` so far, summed up once."""
        attempts = tuple(self.attempts)
        own, others = _by_stage(attempts)
        reasoner, generator = _totals(own), _totals(others)
        discarded = [attempt for attempt in attempts if attempt.discarded]
        honoured, overlap_tokens = True, 0
        for attempt in attempts:
            honoured &= attempt.honoured
            overlap_tokens += attempt.overlap_tokens
        receipt = Receipt(
            attempts=attempts,
            duration_s=duration_s,
            first_answer_s=self.first_answer_s,
            gate_s=self.gate_s,
            queue_s=max(0.0, duration_s - self.gate_s - _busy_s(attempts)),
            reasoner=reasoner,
            generator=generator,
            honoured=honoured,
            overlap_tokens=overlap_tokens,
            discarded=Discarded(_usage(discarded), _usd(discarded)) if discarded else _NOTHING_DISCARDED,
            run=self.run,
            reasoner_only=reasoner_only,
        )
        usage = Usage(reasoner.usage, generator.usage)
        return usage, _cost(reasoner.usd, generator.usd, attempts), receipt


@dataclass(frozen=True, slots=True)
class ReasonerOnly:
    """What the reasoner alone would have cost, as far as that is known."""

    model: str
    """Full name of the reasoner."""
    backend_price: Price | None
    prices: PriceBook
    output_tokens: float | None = None
    """Mean output of the reasoner alone on the calibration's questions, None without a calibration."""

    def estimate(self, attempts: Iterable[Attempt], *, answers: int) -> ReasonerOnlyEstimate | None:
        """The estimate for a request with these attempts and so many answers, None if nothing supports one."""
        tried = list(attempts)
        own = [a for a in tried if a.stage == "reasoner" and a.kind == "answer" and not a.discarded]
        if own:
            return ReasonerOnlyEstimate(sum(a.usage.output_tokens for a in own), _usd(own), "measured")
        # The signal's prompt is the question as the reasoner reads it; the generator's is the next best.
        prompts = [a for a in tried if a.usage.input_tokens]
        asked = next((a for a in prompts if a.stage == "reasoner"), prompts[0] if prompts else None)
        if self.output_tokens is None or asked is None:
            return None
        tokens = round(self.output_tokens * answers)
        usage = StageUsage(asked.usage.input_tokens, tokens, asked.usage.cached_tokens, estimated=True)
        usd = self.prices.cost_by_token(self.model, usage, backend_price=self.backend_price)
        return ReasonerOnlyEstimate(tokens, usd, "calibration")


_NOTHING_DISCARDED = Discarded()
_NO_USD = Decimal(0)


def _by_stage(attempts: Iterable[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """The reasoner's and the generator's."""
    reasoner: list[Attempt] = []
    generator: list[Attempt] = []
    for attempt in attempts:
        (reasoner if attempt.stage == "reasoner" else generator).append(attempt)
    return reasoner, generator


def _usage(attempts: Sequence[Attempt]) -> Usage:
    reasoner, generator = _by_stage(attempts)
    return Usage(_stage_usage(reasoner), _stage_usage(generator))


def _stage_usage(own: Sequence[Attempt]) -> StageUsage:
    if len(own) == 1:
        return own[0].usage
    return sum((attempt.usage for attempt in own), StageUsage())


def _usd(attempts: Iterable[Attempt]) -> Decimal | None:
    total = _NO_USD
    for attempt in attempts:
        if attempt.usd is None:
            return None
        total += attempt.usd
    return total


def _cost(reasoner: Decimal | None, generator: Decimal | None, attempts: Iterable[Attempt]) -> Cost:
    total = None if reasoner is None or generator is None else reasoner + generator
    # Nothing is uncertain about a sum of zeros.
    estimated = total != 0 and any(attempt.usage.estimated for attempt in attempts)
    return Cost(total, reasoner, generator, estimated)


def _totals(own: Sequence[Attempt]) -> StageTotals:
    return StageTotals(len(own), _stage_usage(own), _usd(own), _busy_s(own))


def _busy_s(attempts: Sequence[Attempt]) -> float:
    """Seconds in which at least one of them was running."""
    if len(attempts) == 1:
        return attempts[0].duration_s
    busy_s = until = 0.0
    for start, end in sorted([(attempt.start_s, attempt.start_s + attempt.duration_s) for attempt in attempts]):
        busy_s += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy_s
