"""Every dial of a pair, as a frozen dataclass that checks itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, TypeAlias, get_args

from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.types import GateName, Json


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
DEFAULT_BUDGET = Budget(signal_tokens=512, answer_tokens=1024)


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


Trigger: TypeAlias = Literal["tool_error", "repeated_call", "invalid_call", "low_confidence"]
"""What makes the reasoner be asked again within a run."""
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)


@dataclass(frozen=True, slots=True)
class RunScope:
    """The reasoner plans once for an agent's run, and is asked again only where one of these rules says so.

    A run lasts from a user message to the next one. The gate has the last word on every asking.

    >>> RunScope(after_tool_turns=4, ask_again_on=["tool_error"]).ask_again_on
    ('tool_error',)
    """

    ask_again_on: Sequence[Trigger] = TRIGGERS
    """``tool_error``, ``repeated_call``, ``invalid_call``, ``low_confidence`` (where the gate judges that); all by
    default, as each tells of a plan that did not hold."""
    after_tool_turns: int | None = 8
    """Tool turns after which a signal counts as old; 8 by default, None for never."""
    most_calls: int = 4
    """How often the reasoner is asked for a signal in one run, whatever happens; retries of one asking count once."""

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            ConfigError: an unknown rule, or a number below 1.
        """
        given: object = self.ask_again_on
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ConfigError(f"ask_again_on must be a list out of {', '.join(TRIGGERS)}, got {given!r}")
        object.__setattr__(self, "ask_again_on", tuple(given))
        if unknown := [rule for rule in self.ask_again_on if rule not in TRIGGERS]:
            raise ConfigError(f"ask_again_on knows no {unknown[0]!r}; known are {', '.join(TRIGGERS)}")
        for name in ("after_tool_turns", "most_calls"):
            value = getattr(self, name)
            if value is None and name == "after_tool_turns":
                continue
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


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
    raise ConfigError(f"signal_scope {given!r} is unknown; known are 'turn', 'run', or a RunScope")
