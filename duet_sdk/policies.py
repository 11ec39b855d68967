"""Every dial of a pair, as a frozen dataclass that checks itself.

Settings reads these classes themselves, so a table of ``duet.toml`` has their fields, defaults and errors.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Final, Literal, Protocol, TypeAlias, TypeVar, get_args

from duet_sdk._checks import one_of, seconds, share, tells_fields, whole
from duet_sdk.errors import BackendError, ConfigError, DegradedWarning, InvalidRequest
from duet_sdk.types import GateName, Json

STRICT: Final = {"extra": "forbid", "hide_input_in_errors": True}
"""For pydantic, where it reads a dial: an unknown key is refused, and a value, which may be secret, is not quoted."""


@tells_fields
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

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Refuse values that no model accepts.

        Raises:
            InvalidRequest: a value out of its range.
        """
        stop: object = self.stop  # callers write a single text, too
        texts = [stop] if isinstance(stop, str) else stop or ()
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("stop must be a string or a list of strings")
        object.__setattr__(self, "stop", tuple(texts))
        if "" in self.stop:
            raise InvalidRequest("stop contains an empty string, which would end every output at once")
        if self.temperature is not None:
            _check_temperature(self.temperature)
        if self.seed is not None and type(self.seed) is not int:
            raise InvalidRequest(f"seed must be a whole number, got {self.seed!r}")
        if self.top_p is not None:
            if self.top_p == 0:
                raise InvalidRequest("top_p must be above 0; for greedy decoding set temperature=0")
            share("top_p", self.top_p, error=InvalidRequest)
        if self.min_p is not None:
            share("min_p", self.min_p, error=InvalidRequest)
        if self.top_k is not None:
            whole("top_k", self.top_k, error=InvalidRequest, hint="; omit it to keep all tokens")
        if self.logprobs is not None and (type(self.logprobs) is not int or not 0 <= self.logprobs <= 20):
            raise InvalidRequest(f"logprobs must be a whole number between 0 and 20, got {self.logprobs!r}")
        if self.extra_body is not None and not isinstance(self.extra_body, Mapping):
            raise InvalidRequest(f"extra_body must be a dict, got {type(self.extra_body).__name__}")

    def over(self, base: Sampling) -> Sampling:
        """These values, with ``base`` where this one leaves a choice open."""
        if self == _NO_CHOICE:
            return base
        set_here = {f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) not in (None, ())}
        return dataclasses.replace(base, **set_here)


_NO_CHOICE = Sampling()
_HOTTEST: Final = 5.0
"""Highest temperature: hosted models take at most 2, local ones with ``min_p`` some more; beyond it all is noise."""


def _check_temperature(given: object) -> None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
        raise InvalidRequest(f"temperature must be a number of at least 0, got {given!r}")
    if given > _HOTTEST:
        raise InvalidRequest(f"temperature must be at most {_HOTTEST:g}, got {given!r}; most models take 0 to 2")


_PLACEHOLDER = re.compile(r"(?<![\w\\{}$])\{([A-Za-z_]\w*)\}(?!\})")
"""A word in braces as a template has it; not LaTeX, a shell's variable, or braces that are doubled."""
_LIMIT = "signal_tokens"


@tells_fields
@dataclass(frozen=True, slots=True)
class Prompts:
    """System prompts by stage, in place of DUET's own; ``{signal_tokens}`` in the reasoner's stands for the limit."""

    reasoner: str | None = None
    generator: str | None = None

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the kinds and the placeholders.

        Raises:
            ConfigError: a prompt that is not a text, or a placeholder that is misspelt.
        """
        for name, prompt in (("reasoner", self.reasoner), ("generator", self.generator)):
            if prompt is not None and not isinstance(prompt, str):
                raise ConfigError(f"the prompt of the {name} must be a string, got {type(prompt).__name__}")
            for written in _PLACEHOLDER.findall(prompt or ""):
                _check_placeholder(name, written)


def _check_placeholder(stage: str, written: str) -> None:
    """Refuse a placeholder that is misspelt, and warn of one that stands for nothing.

    Raises:
        ConfigError: it is misspelt.
    """
    if written == _LIMIT and stage == "reasoner":
        return
    if stage == "reasoner" and (get_close_matches(written, [_LIMIT], cutoff=0.8) or written.endswith("_tokens")):
        raise ConfigError(f"the prompt of the {stage} has {{{written}}}; did you mean {{{_LIMIT}}}?")
    filled = f"only {{{_LIMIT}}} is filled in" if stage == "reasoner" else "nothing is filled in"
    warnings.warn(
        f"the prompt of the {stage} has {{{written}}}, which the model reads as it stands: {filled}, and question and "
        "signal are added to it",
        DegradedWarning,
        stacklevel=5,  # whoever makes the Prompts
    )


@tells_fields
@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one request; None leaves the choice to the client's budget, and there to the default.

    >>> Budget(signal_tokens=128).over(Budget(deadline_s=30)).deadline_s
    30
    """

    signal_tokens: int | None = None
    """All output tokens that the reasoner is billed for in an attempt; 512 by default, enough for a sketch of a hard
    question."""
    answer_tokens: int | None = None
    """Output tokens of one answer; 1024 by default."""
    total_tokens: int | None = None
    """Input and output tokens of both stages together; unlimited by default, as the two above bound the output."""
    cost_usd: Decimal | None = None
    """Money for the whole request in USD; unlimited by default, as many prices are unknown."""
    deadline_s: float | None = None
    """Seconds from the start of the request to its end; unlimited by default, as models differ too much."""
    signal_deadline_s: float | None = None
    """Seconds for the signal; by default 60 % of ``deadline_s``, so that the generator keeps its time."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Refuse limits that nothing could satisfy.

        Raises:
            InvalidRequest: a limit that is not positive, or not finite.
        """
        for name in ("signal_tokens", "answer_tokens", "total_tokens"):
            if (tokens := getattr(self, name)) is not None:
                hint = "; to skip the reasoner use mode='generator'" if name == "signal_tokens" and tokens == 0 else ""
                whole(name, tokens, error=InvalidRequest, hint=hint)
        for name in ("deadline_s", "signal_deadline_s"):
            if (limit := getattr(self, name)) is not None:
                seconds(name, limit, error=InvalidRequest)
        if self.cost_usd is not None:
            object.__setattr__(self, "cost_usd", _usd(self.cost_usd))

    def over(self, base: _SomeBudget) -> _SomeBudget:
        """These limits, with ``base`` where this one leaves a choice open."""
        if self == _NO_LIMIT:
            return base
        set_here = {f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) is not None}
        return dataclasses.replace(base, **set_here)


def _usd(given: object) -> Decimal:
    try:
        usd = Decimal(str(given))
    except InvalidOperation:
        raise InvalidRequest(f"cost_usd must be a number of USD, got {given!r}") from None
    if not (usd.is_finite() and usd > 0):
        raise InvalidRequest(f"cost_usd must be above 0 and finite, got {given}")
    return usd


@dataclass(frozen=True, slots=True)
class ResolvedBudget(Budget):
    """The limits of one request with every default filled in; None is left only where it means unlimited."""

    signal_tokens: int = 512
    answer_tokens: int = 1024


_SomeBudget = TypeVar("_SomeBudget", bound=Budget)
_NO_LIMIT = Budget()
DEFAULT_BUDGET = ResolvedBudget()
"""The limits of a request for which nobody set any."""


@tells_fields
@dataclass(frozen=True, slots=True)
class Retry:
    """When a model that failed is called again."""

    attempts: int = 3
    """Calls of one model in total; three ride out a restart, 1 never retries."""
    first_wait_s: float = 0.5
    """Longest wait before the second call; it doubles with each further one."""
    longest_wait_s: float = 20.0
    """Longest wait that DUET chooses itself; a server may ask for more."""
    longest_retry_after_s: float = 60.0
    """Longest wait that a server may ask for (``Retry-After``), and longest rest of an endpoint that is waited for;
    beyond it the next model or the ladder follows at once. A minute, as most rate limits count by the minute."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: no call at all, or a negative wait.
        """
        whole("attempts of Retry", self.attempts)
        seconds("first_wait_s", self.first_wait_s, or_zero=True)
        seconds("longest_wait_s", self.longest_wait_s, or_zero=True)
        seconds("longest_retry_after_s", self.longest_retry_after_s, or_zero=True)


@tells_fields
@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a model that keeps failing is left alone for a while."""

    failures: int = 5
    """Retryable failures in a row, over all requests, after which it is left alone; five, as a server that restarts
    fails a few calls."""
    rest_s: float = 10.0
    """Seconds that it is left alone; then one call is let through, which ends the rest or begins another."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: no failure at all, or no time.
        """
        whole("failures of the breaker", self.failures)
        seconds("rest_s", self.rest_s)


@tells_fields
@dataclass(frozen=True, slots=True)
class Ladder:
    """What follows when a rung breaks; ``raise`` raises the error to the caller."""

    empty_signal: Literal["generator", "raise"] = "generator"
    """The reasoner wrote nothing useful."""
    reasoner: Literal["generator", "raise"] = "generator"
    """The reasoner failed."""
    generator: Literal["reasoner", "raise"] = "reasoner"
    """The generator failed before anything of its answer was handed on."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            ConfigError: an unknown one.
        """
        one_of("empty_signal", self.empty_signal, ("generator", "raise"))
        one_of("reasoner of the ladder", self.reasoner, ("generator", "raise"))
        one_of("generator of the ladder", self.generator, ("reasoner", "raise"))


class NamesModel(Protocol):
    """What names a model other than its name: a backend, or a `duet_sdk.endpoints.Endpoint`."""

    @property
    def model(self) -> str:
        """The model's name."""


FallbackModel: TypeAlias = str | NamesModel | Sequence[str | NamesModel]
"""A model of the fallback pair, as the client takes one: a name, an object, or several in the order of trying."""


@tells_fields
@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What follows when a model fails, in the order in which it is tried.

    >>> FailurePolicy(retry=Retry(attempts=1), signal_broken="keep").answer_broken
    'error'
    """

    retry: Retry = Retry()
    """When the same model is called again."""
    chain: Literal["any", "outage"] = "any"
    """Which errors let the next model of a chain take over: ``any``, or only an ``outage``, an error that may pass, an
    empty account or a content filter; a wrong key or name then fails at once and is not hidden by the next model."""
    breaker: BreakerPolicy | None = BreakerPolicy()
    """When a model is left alone for a while; None never does so."""
    fallback_pair: tuple[FallbackModel, FallbackModel] | None = None
    """Reasoner and generator that take over when the pair cannot answer, by the ``instruct`` handoff; none by default,
    as they may cost more."""
    ladder: Ladder = Ladder()
    """Whether the other stage answers when nothing above is left."""
    signal_broken: Literal["restart", "keep", "continue", "error"] = "restart"
    """What follows when the reasoner breaks off after it has begun to write: ask again from the start; treat what came
    as a cut signal; let the next attempt go on where this one stopped (where its prompt can be rendered, else from the
    start); or leave this model at once."""
    answer_broken: Literal["error", "restart"] = "error"
    """What follows when an answer breaks off: `StreamBroken` with what came; or start over, announced by
    ``Retried(discard=True)``. ``chat()`` always starts over, as nothing has been handed on yet."""

    answer_empty: Literal["next", "keep"] = "next"
    """What follows where a model ends its answer without saying anything (no text but thinking, no tool call): go on as
    after a failure, and give the empty reply, labelled, where nothing else can answer; or give it at once."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the words and the kinds.

        Raises:
            ConfigError: an unknown word, or a value of another kind.
        """
        one_of("chain", self.chain, ("any", "outage"))
        one_of("signal_broken", self.signal_broken, ("restart", "keep", "continue", "error"))
        one_of("answer_broken", self.answer_broken, ("error", "restart"))
        one_of("answer_empty", self.answer_empty, ("next", "keep"))
        for name, value, kind in (("retry", self.retry, Retry), ("ladder", self.ladder, Ladder)):
            if not isinstance(value, kind):
                raise ConfigError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
        if self.breaker is not None and not isinstance(self.breaker, BreakerPolicy):
            raise ConfigError(f"breaker must be a BreakerPolicy or None, got {type(self.breaker).__name__}")
        given: object = self.fallback_pair
        if given is not None and (not isinstance(given, list | tuple) or len(given) != 2):
            raise ConfigError("fallback_pair must be two models, the reasoner and the generator")

    def hands_over(self, error: BackendError) -> bool:
        """Whether the next model of a chain takes over from one that failed with this error."""
        return self.chain == "any" or error.replaceable


OnFailure: TypeAlias = Literal["answer", "raise"] | Ladder | FailurePolicy
"""``answer`` continues with the stage that works, ``raise`` fails; or the policy of each rung, or of everything."""
_NAMED_POLICIES = {"answer": FailurePolicy(), "raise": FailurePolicy(ladder=Ladder("raise", "raise", "raise"))}


def failure_policy(given: OnFailure, retry: Retry | None = None) -> FailurePolicy:
    """The failure policy that is meant; ``retry`` is short for a policy's own.

    Raises:
        ConfigError: an unknown name, or two ways to retry.
    """
    if isinstance(given, Ladder):
        policy = FailurePolicy(ladder=given)
    elif isinstance(given, FailurePolicy):
        policy = given
    elif (named := _NAMED_POLICIES.get(str(given))) is not None:
        policy = named
    else:
        known = ", ".join(_NAMED_POLICIES)
        value: object = given
        got = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise ConfigError(f"on_failure {got} is unknown; known: {known}, a Ladder, or a FailurePolicy")
    if retry is None:
        return policy
    if policy.retry != Retry():
        raise ConfigError("retry is given twice: leave out retry=, or the retry of on_failure's FailurePolicy")
    return dataclasses.replace(policy, retry=retry)


@tells_fields
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

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Refuse numbers that the gate does not take.

        Raises:
            ConfigError: an unknown policy, a number that it has no use for, or one out of its range.
        """
        one_of("gate", self.policy, get_args(GateName))
        if self.threshold is not None and self.policy in ("always", "never"):
            raise ConfigError(f"gate {self.policy!r} takes no threshold")
        if self.threshold is not None:
            check_threshold(f"the threshold of gate {self.policy!r}", self.threshold)
        if self.first_tokens is not None and self.policy not in ("confidence", "race"):
            raise ConfigError(f"gate {self.policy!r} judges no tokens and takes no first_tokens")
        if self.first_tokens is not None:
            whole("first_tokens", self.first_tokens)


def check_threshold(name: str, given: float) -> None:
    """Refuse a gate's threshold outside [0, 1].

    The next number above 1 passes: with it a calibration says never to ask.

    Raises:
        ConfigError: it is outside.
    """
    if given != math.nextafter(1, 2):
        share(name, given)


@tells_fields
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

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of its range.
        """
        for name in ("slice_tokens", "probe_tokens", "most_probes"):
            whole(f"{name} of progressive", getattr(self, name))
        share("threshold of progressive", self.threshold)
        share("share of progressive", self.share, above_zero=True)


Trigger: TypeAlias = Literal["tool_error", "repeated_call", "invalid_call", "low_confidence"]
"""What makes the reasoner be asked again within a run."""
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)


@tells_fields
@dataclass(frozen=True, slots=True)
class RunScope:
    """The reasoner plans once for an agent's run, and is asked again only where one of these rules says so.

    A run lasts from a user message to the next one. The gate has the last word on every asking.

    >>> RunScope(after_tool_turns=4, ask_again_on=["tool_error"]).ask_again_on
    ('tool_error',)
    """

    ask_again_on: Sequence[Trigger] = TRIGGERS
    """``tool_error``, ``repeated_call``, ``invalid_call``, ``low_confidence`` (where the gate judges that); all by
    default, as each shows that the plan did not hold."""
    after_tool_turns: int | None = 8
    """Tool turns after which a signal counts as old; 8 by default, None for never."""
    most_calls: int = 4
    """How often the reasoner is asked for a signal in one run, whatever happens; retries of one asking count once."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            ConfigError: an unknown rule, or a number below 1.
        """
        given: object = self.ask_again_on
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ConfigError(f"ask_again_on must be a list out of {', '.join(TRIGGERS)}, got {given!r}")
        object.__setattr__(self, "ask_again_on", tuple(given))
        for rule in self.ask_again_on:
            one_of("ask_again_on", rule, TRIGGERS)
        if self.after_tool_turns is not None:
            whole("after_tool_turns", self.after_tool_turns)
        whole("most_calls", self.most_calls)


SignalScope: TypeAlias = "Literal['turn', 'run'] | RunScope"
"""``turn``: every turn has a signal of its own. ``run``, or a `RunScope`: a run of tool turns has one in common."""


def run_scope(given: SignalScope) -> RunScope | None:
    """The rules of that scope; None for ``turn``, which has none.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(given, RunScope):
        return given
    if given == "run":
        return RunScope()
    if given == "turn":
        return None
    raise ConfigError(f"signal_scope {given!r} is unknown; known: 'turn', 'run', or a RunScope")
