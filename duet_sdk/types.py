"""The values that travel through DUET: frozen, slotted dataclasses without behaviour of their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias, get_args

from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.reply import AloneEstimate as AloneEstimate
from duet_sdk.reply import Attempt as Attempt
from duet_sdk.reply import AttemptKind as AttemptKind
from duet_sdk.reply import Cost as Cost
from duet_sdk.reply import Discarded as Discarded
from duet_sdk.reply import Receipt as Receipt
from duet_sdk.reply import RunTotals as RunTotals
from duet_sdk.reply import Stage as Stage
from duet_sdk.reply import StageTotals as StageTotals
from duet_sdk.reply import StageUsage as StageUsage
from duet_sdk.reply import Usage as Usage
from duet_sdk.scope import RunScope

Mode: TypeAlias = Literal["duet", "reasoner", "generator", "signal"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
HandoffName: TypeAlias = Literal["instruct", "think"]
GateName: TypeAlias = Literal["always", "never", "heuristic", "confidence", "race"]
TraceDialect: TypeAlias = Literal["openinference", "langfuse", "mlflow"]
CountedBy: TypeAlias = Literal["token_ids", "usage", "tokenizer", "estimate", "none"]
ServedBy: TypeAlias = Literal[
    "pair",
    "pair_cut",
    "generator",
    "generator_fallback",
    "reasoner",
    "reasoner_fallback",
    "fallback_pair",
    "cache",
]
Vote: TypeAlias = "Literal['majority'] | Callable[[Sequence[str]], int]"
"""How one of several answers is chosen: by majority, or by a function from the answers to the winner's index."""
Json: TypeAlias = Mapping[str, Any]
"""A JSON object as the wire has it (a tool's schema, a response format)."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message's content, by ``https:`` or ``data:`` URL; passed on, never fetched by DUET."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the generator wants called; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    >>> Message("user", "How many primes are below 60?").text
    'How many primes are below 60?'
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    signal: str | None = None
    """On an assistant's message, the reasoner's signal that guided it; `Reply.message` sets it. Within a run of tool
    turns it is what the run's later turns go by."""
    failed: bool = False
    """On a tool's result, whether the call failed; a result that reads like an error counts without it."""

    @property
    def text(self) -> str:
        """All text of the content, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the content, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one stage samples; None leaves the choice to the model's own defaults."""

    temperature: float | None = None
    """0 is greedy; at least 0."""
    top_p: float | None = None
    """In (0, 1]."""
    top_k: int | None = None
    """At least 1."""
    min_p: float | None = None
    """In [0, 1]."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts that end the output; they are not part of it."""
    logprobs: int | None = None
    """How many alternatives to report for each token, 0 for the chosen token alone."""
    extra_body: Json | None = None
    """Passed on to a server as it is."""

    def __post_init__(self) -> None:
        """Refuse values that no model accepts.

        Raises:
            InvalidRequest: a value out of its range.
        """
        stop: object = self.stop  # callers write a single text, too
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        if not all(isinstance(text, str) for text in self.stop):
            raise InvalidRequest("stop must be a text or several texts")
        for name, low, high in (("temperature", 0, None), ("top_p", 0, 1), ("min_p", 0, 1)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int | float):
                raise InvalidRequest(f"{name} must be a number, got {value!r}")
            if value is not None and not (low <= value and (high is None or value <= high)):
                bound = f"between {low} and {high}" if high is not None else f"at least {low}"
                raise InvalidRequest(f"{name} must be {bound}, got {value}")
        if self.top_p == 0:
            raise InvalidRequest("top_p must be above 0; for greedy decoding set temperature=0")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidRequest(f"top_k must be at least 1, got {self.top_k}; leave it out to keep all tokens")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise InvalidRequest(f"logprobs must be between 0 and 20, got {self.logprobs}")
        if "" in self.stop:
            raise InvalidRequest("stop holds an empty text, which would end every output at once")

    def over(self, base: Sampling) -> Sampling:
        """These values, with ``base`` where this one leaves a choice open."""
        if self == _NO_CHOICE:
            return base
        set_here = {f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) not in (None, ())}
        return dataclasses.replace(base, **set_here)


_NO_CHOICE = Sampling()


@dataclass(frozen=True, slots=True)
class Prompts:
    """System prompts by stage, in place of DUET's own; ``{signal_tokens}`` stands for the limit."""

    reasoner: str | None = None
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one request; None leaves the choice to the client's budget, and there to the default.

    >>> Budget(signal_tokens=128).over(Budget(deadline_s=30)).deadline_s
    30
    """

    signal_tokens: int | None = None
    """All output tokens that the reasoner is billed for in an attempt; 512 by default."""
    answer_tokens: int | None = None
    """Output tokens of one answer; 1024 by default."""
    total_tokens: int | None = None
    """Input and output tokens of both stages together; unlimited by default."""
    cost_usd: Decimal | None = None
    """Money for the whole request in USD; unlimited by default."""
    deadline_s: float | None = None
    """Seconds from the start of the request to its end; unlimited by default."""
    signal_deadline_s: float | None = None
    """Seconds for the signal; by default 60 % of ``deadline_s``, so that the generator keeps its time."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing could satisfy.

        Raises:
            InvalidRequest: a limit that is not positive, or not finite.
        """
        for name in ("signal_tokens", "answer_tokens", "total_tokens"):
            value = getattr(self, name)
            if value is None:
                continue
            if type(value) is not int:
                raise InvalidRequest(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                hint = "; to skip the reasoner use mode='generator'" if name == "signal_tokens" else ""
                raise InvalidRequest(f"{name} must be at least 1, got {value}{hint}")
        if self.cost_usd is not None:
            try:
                object.__setattr__(self, "cost_usd", Decimal(str(self.cost_usd)))
            except InvalidOperation:
                raise InvalidRequest(f"cost_usd must be a number of USD, got {self.cost_usd!r}") from None
        for name in ("cost_usd", "deadline_s", "signal_deadline_s"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Decimal | float | int):
                raise InvalidRequest(f"{name} must be a number, got {value!r}")
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidRequest(f"{name} must be above 0 and finite, got {value}")

    def over(self, base: Budget) -> Budget:
        """These limits, with ``base`` where this one leaves a choice open."""
        if self == _NO_LIMIT:
            return base
        set_here = {f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) is not None}
        return dataclasses.replace(base, **set_here)


_NO_LIMIT = Budget()


@dataclass(frozen=True, slots=True)
class Retry:
    """When a model that failed is called again."""

    attempts: int = 3
    """Calls of one model in all; 1 never tries again."""
    first_wait_s: float = 0.5
    """Longest wait before the second call; it doubles with each further one."""
    longest_wait_s: float = 20.0
    """Longest wait of our own choosing; a server may ask for more."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: no call at all, or a negative wait.
        """
        if self.attempts < 1:
            raise ConfigError(f"a model must be called at least once, got attempts={self.attempts}")
        if self.first_wait_s < 0 or self.longest_wait_s < 0:
            raise ConfigError("the waits between attempts cannot be negative")


@dataclass(frozen=True, slots=True)
class GateConfig:
    """A shipped gate by name, with numbers of your own; None takes the calibration's, else the gate's default.

    >>> GateConfig("race", threshold=0.3).policy
    'race'
    """

    policy: GateName
    threshold: float | None = None
    """The reasoner is asked at this score and above, in [0, 1]; not for ``always`` and ``never``."""
    first_tokens: int | None = None
    """``confidence``, ``race``: how many tokens of the generator's answer are judged, at least 1."""

    def __post_init__(self) -> None:
        """Refuse numbers that the gate does not take.

        Raises:
            ConfigError: an unknown policy, a number that it has no use for, or one out of its range.
        """
        if self.policy not in get_args(GateName):
            raise ConfigError(f"gate {self.policy!r} is unknown; known are {', '.join(get_args(GateName))}")
        if self.threshold is not None and self.policy in ("always", "never"):
            raise ConfigError(f"gate {self.policy!r} takes no threshold")
        if self.threshold is not None and not 0 <= self.threshold <= math.nextafter(1, 2):
            raise ConfigError(f"the threshold of gate {self.policy!r} must be between 0 and 1, got {self.threshold}")
        if self.first_tokens is not None and self.policy not in ("confidence", "race"):
            raise ConfigError(f"gate {self.policy!r} judges no tokens and takes no first_tokens")
        if self.first_tokens is not None and self.first_tokens < 1:
            raise ConfigError(f"first_tokens must be at least 1, got {self.first_tokens}")


@dataclass(frozen=True, slots=True)
class Progressive:
    """The generator probes the growing signal, and the reasoner is stopped as soon as the generator is sure."""

    slice_tokens: int = 64
    """Tokens that the reasoner writes from one probe to the next; less stops it sooner and probes more."""
    threshold: float = 0.2
    """The generator is sure below this doubt (see `duet_sdk.gate.doubt`), in [0, 1]; not calibrated, set your own."""
    probe_tokens: int = 16
    """Tokens of the guided answer that a probe judges; enough to come past the opening words."""
    share: float = 0.5
    """Most output tokens that probes may cost together, as a share of what the reasoner has written, in (0, 1]."""
    most_probes: int = 8
    """Probes of one signal; each also reads the prompt, most of it from the server's prefix cache."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of its range.
        """
        for name in ("slice_tokens", "probe_tokens", "most_probes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} of progressive must be a whole number of at least 1, got {value!r}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold of progressive must be between 0 and 1, got {self.threshold}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share of progressive must be above 0 and at most 1, got {self.share}")


DEFAULT_BUDGET = Budget(signal_tokens=512, answer_tokens=1024)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token with its log-probability (natural logarithm) and the best alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Signal:
    """What the reasoner told the generator; empty when the reasoner was not asked."""

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
    """How much the reasoner is needed, on the gate's own scale; None where it was not scored."""
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
    """``stop``, ``length``, ``tool_calls``, ``content_filter``, or ``deadline``, ``cancelled``, ``error``."""
    tool_calls: tuple[ToolCall, ...] = ()
    answers: tuple[str, ...] = ()
    agreement: float | None = None
    """Share of the answers that agree with ``text``, in [0, 1]; None without a vote."""
    logprobs: tuple[TokenLogprob, ...] = ()
    models: Mapping[Stage, str] = field(default_factory=dict)
    receipt: Receipt = Receipt()

    @property
    def message(self) -> Message:
        """The assistant's message for the next request's history: text, tool calls, and the signal behind them."""
        return Message("assistant", self.text, self.tool_calls, signal=self.signal.text or None)

    @property
    def new_signal(self) -> str:
        """The signal's text where this request brought it; empty where it is one that the run already had."""
        return self.signal.text if self.gate is None or self.gate.ask else ""

    def to_dict(self) -> dict[str, Any]:
        """The reply as JSON-ready values, keys as the attributes; money as text, to the last digit."""
        plain: dict[str, Any] = _plain(self)
        plain["usage"]["total_tokens"] = self.usage.total_tokens
        return plain

    def summary(self) -> dict[str, Any]:
        """What a framework's response metadata holds: who answered, at what price; no text that a model wrote.

        JSON-ready, keys as in `to_dict`: ``mode``, ``served_by``, ``handoff``, ``gate``, ``signal`` (tokens, limit,
        truncated, …), ``usage``, ``cost``, ``models``, ``finish_reason``.
        """
        plain = self.to_dict()
        del plain["signal"]["text"]
        named = ("mode", "served_by", "handoff", "gate", "signal", "usage", "cost", "models", "finish_reason")
        return {name: plain[name] for name in named}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    return value


@dataclass(frozen=True, slots=True)
class Labels:
    """Names that a request carries into traces and ledgers; they change nothing in the answer."""

    session: str | None = None
    user: str | None = None
    tenant: str | None = None
    scopes: tuple[str, ...] = ()
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One question, as the pipeline takes it: every choice made, nothing left to defaults."""

    messages: tuple[Message, ...]
    mode: Mode = "duet"
    budget: Budget = DEFAULT_BUDGET
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    n: int = 1
    vote: Vote | None = None
    signal_scope: RunScope | None = RunScope()
    """When the reasoner is asked again within a run of tool turns; None gives every turn a signal of its own."""
    reasoner_sampling: Sampling = Sampling()
    generator_sampling: Sampling = Sampling()
    labels: Labels = Labels()
    allowed: frozenset[str] | None = None
    """Boundaries that it may cross; None for those of the pair's first models."""
    whole: bool = True
    """Whether the caller sees the reply only at the end, so that an answer may still be started over."""
