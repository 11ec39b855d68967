"""What a request used: tokens, money and time, by stage and attempt."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["reasoner", "generator"]
AttemptKind: TypeAlias = Literal["signal", "wrap_up", "answer", "probe"]
"""What a model was called for; a ``probe`` is the beginning of an answer that was only judged."""


@dataclass(frozen=True, slots=True)
class StageUsage:
    """Tokens of one stage, summed over its attempts."""

    input_tokens: int = 0
    """Prompt tokens, cached ones included."""
    output_tokens: int = 0
    """Output tokens as billed, hidden reasoning included."""
    cached_tokens: int = 0
    """The part of ``input_tokens`` that the server had cached."""
    estimated: bool = False
    """Whether a number is our own count because the server reported none."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: StageUsage) -> StageUsage:
        return StageUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request by stage."""

    reasoner: StageUsage = StageUsage()
    generator: StageUsage = StageUsage()

    @property
    def total_tokens(self) -> int:
        """Input and output of both stages."""
        return self.reasoner.total_tokens + self.generator.total_tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request cost in USD; None where a price is unknown."""

    usd: Decimal | None = Decimal(0)
    reasoner_usd: Decimal | None = Decimal(0)
    generator_usd: Decimal | None = Decimal(0)
    estimated: bool = False
    """Whether it rests on our own count of tokens instead of the server's."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of one model: what was sent, what it cost, how it ended."""

    stage: Stage
    model: str
    attempt: int
    """1 for a stage's first call."""
    usage: StageUsage
    usd: Decimal | None
    start_s: float
    """Seconds after the start of the request at which it was sent."""
    duration_s: float
    """Seconds from then to its end."""
    first_token_s: float | None
    """Seconds from the attempt's start to its first token, None if none came."""
    error_type: str | None = None
    """Name of the error's class, ``"cancelled"``, or None when it ended well."""
    kind: AttemptKind = "answer"
    limit_tokens: int = 0
    """Output tokens that it was given, over all its outputs."""
    honoured: bool = True
    """False where the model is known or likely to have been billed for more than that."""
    discarded: bool = False
    """Whether nothing of what it wrote stands in the reply."""
    truncated: bool = False
    """Whether its limit or its deadline ended it, and not the model."""
    finish_reasons: tuple[str, ...] = ()
    """Why each of its outputs ended, as far as that was said; ``length`` for one that was cut."""
    overlap_tokens: int = 0
    """Output tokens written after it was decided that no more were needed."""
    queued_s: float = 0.0
    """Seconds that it waited to be sent: for the ledger's store, and for room in it."""


@dataclass(frozen=True, slots=True)
class StageTotals:
    """A stage's attempts together."""

    attempts: int = 0
    usage: StageUsage = StageUsage()
    usd: Decimal | None = Decimal(0)
    """None where an attempt's price is unknown."""
    duration_s: float = 0.0
    """Seconds in which at least one attempt of the stage was running."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was paid for and does not stand in the reply, by stage."""

    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    """None where the price of a discarded attempt is unknown."""


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What an agent's run (all requests since the last user message) has used so far, this request included."""

    reasoner_calls: int
    """Signals that the reasoner was asked for."""
    tool_turns: int
    """Requests of the run that began with tool results."""
    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    """None where a price is unknown."""


@dataclass(frozen=True, slots=True)
class AloneEstimate:
    """What the reasoner alone would have cost for the same answers."""

    output_tokens: int
    usd: Decimal | None
    """None where its price is unknown, or one by the hour."""
    basis: Literal["measured", "calibration"]
    """``measured``: the reasoner answered itself. ``calibration``: its mean output on the calibration's questions."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where the tokens, the money and the time of one request went."""

    attempts: tuple[Attempt, ...] = ()
    """Every call of a model, in the order in which they ended."""
    duration_s: float = 0.0
    first_answer_s: float | None = None
    """Seconds from the start of the request to the first token of the answer."""
    gate_s: float = 0.0
    """Seconds that a gate took to decide, apart from calls of a model."""
    queue_s: float = 0.0
    """Seconds in which neither the gate nor a model was at work: ledger, connections, waits between attempts, and a
    consumer that was slow to take the events of a stream."""
    reasoner: StageTotals = StageTotals()
    generator: StageTotals = StageTotals()
    honoured: bool = True
    """Whether every attempt is known to have stayed within its limit."""
    overlap_tokens: int = 0
    """Output tokens written after it was decided that no more were needed, over all attempts."""
    discarded: Discarded = Discarded()
    run: RunTotals | None = None
    """Totals of the agent's run; None outside of one."""
    alone: AloneEstimate | None = None
    """What the reasoner alone would have cost, None where there is no basis for an estimate."""
