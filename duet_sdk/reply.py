"""The outcome of a request: its answer and signal, and the tokens, money and time that went into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from duet_sdk.types import (
    AttemptKind,
    CountedBy,
    HandoffName,
    Message,
    Mode,
    ProviderParts,
    ServedBy,
    Stage,
    TokenLogprob,
    ToolCall,
)

_ELSEWHERE = {
    **dict.fromkeys(("content", "output_text", "output", "answer", "response", "completion"), "text"),
    **dict.fromkeys(("choices", "generations", "candidates"), "text, or reply.answers for all n of them"),
    **dict.fromkeys(("json", "dict", "model_dump", "model_dump_json"), "to_dict()"),
    **dict.fromkeys(("response_metadata", "metadata", "usage_metadata"), "summary(), reply.usage or reply.receipt"),
    **dict.fromkeys(("reasoning", "reasoning_content", "thinking"), "signal.text"),
    "output_parsed": "parsed",
    "stop_reason": "finish_reason",
    "role": "message",
}
"""What other libraries call a part of a reply → where it stands here."""
_PLAIN = frozenset({str, int, float, bool, type(None)})
"""What JSON has as it is."""
_SHOWN = 80
"""Characters of an answer in a reply's line: more leaves no room for the rest."""


@dataclass(frozen=True, slots=True)
class StageUsage:
    """Tokens of one stage, summed over its attempts."""

    input_tokens: int = 0
    """Prompt tokens, cached ones included."""
    output_tokens: int = 0
    """Output tokens as billed, hidden reasoning included."""
    cached_tokens: int | None = None
    """The part of ``input_tokens`` that the server read from its cache; None if it does not say."""
    estimated: bool = False
    """Whether a number is our own count because the server reported none."""
    cache_write_tokens: int | None = None
    """The part of ``input_tokens`` that the server wrote into its cache; None if it does not say."""
    reasoning_tokens: int | None = None
    """The part of ``output_tokens`` that was hidden thinking; None if the server does not say."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: StageUsage) -> StageUsage:
        return StageUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            _sum(self.cached_tokens, other.cached_tokens),
            self.estimated or other.estimated,
            _sum(self.cache_write_tokens, other.cache_write_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
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
    """What a request cost in USD; None if a price is unknown."""

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
    """Whether none of its output is part of the reply."""
    truncated: bool = False
    """Whether its limit or its deadline ended it, and not the model."""
    finish_reasons: tuple[str, ...] = ()
    """Why each of its outputs ended, as far as that was said; ``length`` for one that was cut."""
    overlap_tokens: int = 0
    """Output tokens written after it was decided that no more were needed."""
    queued_s: float = 0.0
    """Seconds that it waited to be sent: for the ledger's store, and for room in it."""
    response_model: str | None = None
    """The model that answered, in its server's words: a dated version of an alias, say; None if it did not say."""
    response_id: str | None = None
    """The server's name for its answer, for its logs and its support; None if it gave none."""
    error: str | None = None
    """What ended it, in the error's own words (who, where, status), masked; None where it ended well, or was
    cancelled."""


@dataclass(frozen=True, slots=True)
class StageTotals:
    """A stage's attempts together."""

    attempts: int = 0
    usage: StageUsage = StageUsage()
    usd: Decimal | None = Decimal(0)
    """None if an attempt's price is unknown."""
    duration_s: float = 0.0
    """Seconds in which at least one attempt of the stage was running."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was paid for but is not part of the reply, by stage."""

    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    """None if the price of a discarded attempt is unknown."""


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What an agent's run (all requests since the last user message) has used so far, this request included."""

    reasoner_calls: int
    """Signals that the reasoner was asked for."""
    tool_turns: int
    """Requests of the run that began with tool results."""
    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    """None if a price is unknown."""


@dataclass(frozen=True, slots=True)
class ReasonerOnlyEstimate:
    """What the reasoner alone would have cost for the same answers."""

    output_tokens: int
    usd: Decimal | None
    """None if its price is unknown, or one by the hour."""
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
    reasoner_only: ReasonerOnlyEstimate | None = None
    """What the reasoner alone would have cost, None if there is no basis for an estimate."""

    def _repr_html_(self) -> str:
        """A table of the attempts, for notebooks."""
        from duet_sdk.notebook import table

        heads = ("stage", "for", "model", "input", "output", "limit", "USD", "seconds", "ended by")
        return table(heads, [_row(attempt) for attempt in self.attempts])


@dataclass(frozen=True, slots=True)
class Signal:
    """What the reasoner wrote for the generator; empty if the reasoner was not asked."""

    text: str = ""
    tokens: int = 0
    """Output tokens that the reasoner was billed for, tags and wrap-up included."""
    limit: int = 0
    truncated: bool = False
    """Whether the limit or the signal's deadline ended it."""
    honoured: bool = True
    """False where the reasoner is known or likely to have been billed for more than the limit."""
    counted_by: CountedBy = "none"


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the reasoner is asked, and why."""

    ask: bool
    policy: str
    score: float | None = None
    """How much the reasoner is needed, on the gate's own scale; None if it was not scored."""
    threshold: float | None = None
    """The reasoner is asked at this score and above."""
    reason: str = ""
    """For people; never a text of the request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request."""

    text: str
    signal: Signal = Signal()
    usage: Usage = Usage()
    cost: Cost = Cost()
    mode: Mode = "duet"
    served_by: ServedBy = "pair"
    handoff: HandoffName | None = None
    """How the signal reached the generator, None where it did not."""
    gate: GateDecision | None = None
    """None in every mode but ``duet``."""
    finish_reason: str | None = None
    """``stop``, ``length``, ``tool_calls``, ``content_filter``, ``empty`` where a model ended by itself without saying
    anything, or ``deadline``, ``cancelled``, ``error``."""
    tool_calls: tuple[ToolCall, ...] = ()
    answers: tuple[str, ...] = ()
    agreement: float | None = None
    """Share of the answers that agree with ``text``, in [0, 1]; None without a vote."""
    logprobs: tuple[TokenLogprob, ...] = ()
    models: Mapping[Stage, str] = field(default_factory=dict)
    receipt: Receipt = Receipt()
    parsed: Any = None
    """The answer as the type that ``response_format`` named; None where it does not match, and ``why`` says so."""
    why: str = ""
    """In a sentence, why it was served as it was: what failed on the way, with its cause, and how the answer ended."""
    provider_parts: ProviderParts | None = field(default=None, repr=False)
    """What the model that answered wants back with its turn; for `message`, and in no dictionary or summary."""

    @property
    def message(self) -> Message:
        """The assistant's message for the next request's history: text, tool calls, and the signal behind them."""
        signal = self.signal.text or None
        return Message("assistant", self.text, self.tool_calls, signal=signal, provider_parts=self.provider_parts)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing: it has neither text nor tool calls, or no signal where only that was asked for."""
        return not (self.signal.text if self.mode == "signal" else self.text.strip() or self.tool_calls)

    @property
    def new_signal(self) -> str:
        """The signal's text where this request brought it; empty where it is one that the run already had."""
        return self.signal.text if self.gate is None or self.gate.ask else ""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"; write reply.{_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise AttributeError(f"Reply has no attribute {name!r}{hint}")

    def __str__(self) -> str:
        """One line: the answer's beginning, who gave it, and what it took."""
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
        spent = f"{self.usage.reasoner.output_tokens} + {self.usage.generator.output_tokens} output tokens"
        ended = f"served_by={self.served_by!r}, finish_reason={self.finish_reason!r}"
        return f"Reply({text!r}, {ended}, {spent}, {_usd(self.cost.usd)})"

    def _repr_html_(self) -> str:
        """The answer and what it took, for notebooks."""
        from duet_sdk.notebook import paragraph

        signal = paragraph("signal", self.signal.text) if self.signal.text else ""
        spent = f"{_usd(self.cost.usd)}, {self.receipt.duration_s:.2f} s"
        table = self.receipt._repr_html_()
        return f"{signal}{paragraph('answer', self.text)}{table}{paragraph(self.served_by, f'{self.why}; {spent}')}"

    def to_dict(self) -> dict[str, Any]:
        """The reply as JSON-ready values, keys as the attributes; money as text, to the last digit."""
        plain: dict[str, Any] = _plain(self)
        del plain["provider_parts"]
        plain["usage"]["total_tokens"] = self.usage.total_tokens
        return plain

    def summary(self) -> dict[str, Any]:
        """What a framework's response metadata holds: who answered, at what price; no text that a model wrote.

        JSON-ready, keys as in `to_dict`: ``mode``, ``served_by``, ``handoff``, ``gate``, ``signal`` (tokens, limit,
        truncated, …), ``usage``, ``cost``, ``models``, ``finish_reason``, ``why``.
        """
        named = ("mode", "served_by", "handoff", "gate", "signal", "usage", "cost", "models", "finish_reason", "why")
        plain: dict[str, Any] = {name: _plain(getattr(self, name)) for name in named}
        del plain["signal"]["text"]
        plain["usage"]["total_tokens"] = self.usage.total_tokens
        return plain


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


def _sum(one: int | None, other: int | None) -> int | None:
    """What was told, together; None where nothing was."""
    return one if other is None else other if one is None else one + other


def _row(one: Attempt) -> tuple[object, ...]:
    ended = one.error or ", ".join(one.finish_reasons)
    usage, seconds = one.usage, f"{one.duration_s:.2f}"
    limit = one.limit_tokens
    return one.stage, one.kind, one.model, usage.input_tokens, usage.output_tokens, limit, _usd(one.usd), seconds, ended


def _usd(usd: Decimal | None) -> str:
    return "price unknown" if usd is None else f"{usd:f} USD"


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:  # most of them; a gateway shows a receipt with every answer
        return value
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _field_names(value.__class__)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if callable(dump := getattr(value, "model_dump", None)):  # what ``parsed`` holds
        return dump(mode="json")
    return value
