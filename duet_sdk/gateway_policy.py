"""What a gateway serves and to whom: the table ``[gateway]`` of ``duet.toml``, which ``duet serve`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from duet_sdk._checks import one_of, seconds, tells_fields, whole
from duet_sdk.errors import ConfigError
from duet_sdk.gateway_key import GatewayKey, ServedMode
from duet_sdk.policies import STRICT

RatesOnFailure: TypeAlias = Literal["process", "refuse"]
"""What becomes of limits a minute while their store cannot be reached."""
SignalField: TypeAlias = Literal["none", "reasoning_content", "reasoning", "both", "reasoning_details"]
"""Where a client finds the signal."""

__all__ = ["GatewayKey", "GatewayPolicy", "RatesOnFailure", "ServedMode", "SignalField"]


@tells_fields
@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """What a gateway serves.

    >>> GatewayPolicy(signal_tokens=(128, 512)).modes
    ('duet', 'generator', 'reasoner')
    """

    keys: tuple[GatewayKey, ...] = ()
    """Who may ask; anybody when empty and without ``key_file``, and then it binds to loopback only."""
    key_file: str | None = None
    """The file of further keys, which ``duet keys`` makes; a change of it counts within a second. A path from the
    working directory."""
    signal_field: SignalField = "none"
    """Where the signal stands in an answer, for keys that may see it: ``reasoning_content``, ``reasoning``, ``both``,
    ``reasoning_details``, or nowhere, as a client that stores answers would store it with them."""
    modes: tuple[ServedMode, ...] = ("duet", "generator", "reasoner")
    """What can be asked for: ``duet``, ``duet/generator``, ``duet/reasoner``."""
    signal_tokens: tuple[int, ...] = ()
    """Limits of the signal that a name can select, as in ``duet:128``; when empty a quarter, half and all of the
    pair's own limit."""
    answer_tokens: int | None = None
    """Most tokens of an answer that a client can ask for; the pair's own limit when not set, since clients send
    32,000 as a default and each request holds room for its limit."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names for these, ``*`` standing for any text, such as ``{"claude-*" = "duet"}``; the first that fits."""
    side_requests: bool = True
    """Whether requests for a title, which agents send with a conversation and under its name, go to the generator
    alone."""
    hosts: tuple[str, ...] = ()
    """Names under which it is reached (``Host``); without keys loopback names alone when empty, else any. ``*`` is
    any."""
    origins: tuple[str, ...] = ()
    """Web pages that may ask (``Origin``), such as ``https://chat.example``; none when empty."""
    image_hosts: tuple[str, ...] = ()
    """Hosts that image URLs may name; none when empty, as the model's server would fetch them. ``data:`` URLs
    pass."""
    cache_salt: bool = True
    """Whether vLLM servers keep prefix caches apart by tenant, unless an endpoint has a ``cache_salt`` of its own;
    without that, how fast a prompt is read tells whether another tenant has sent the same one."""
    most_body_bytes: int = 32 * 1024 * 1024
    """Longest body of a request; 32 MiB, some images and a long history."""
    most_kept_bytes: int = 64 * 1024 * 1024
    """Responses of ``/v1/responses`` that are kept for ``previous_response_id``, all together; a tenant has at most a
    quarter. 64 MiB, some thousand turns of agents; 0 keeps none."""
    drain_s: float = 25.0
    """Seconds in which running requests may end after SIGTERM; 25, as Kubernetes kills after 30."""
    access_log: bool = False
    """Whether each request is a line of JSON in the log ``duet_sdk.gateway.access``, which `duet serve` writes to
    standard error; off, as it is a write for each request."""
    metrics_tenants: bool = False
    """Whether ``/metrics`` names tenants; off, as whoever reads metrics need not know who asks."""
    most_messages: int = 4096
    """Longest history of a request, in messages: hours of an agent at work."""
    most_depth: int = 64
    """How deep values of a body may lie; schemas of tools reach ten or so."""
    at_once: int = 512
    """Requests that run at once, in each process: what engines batch."""
    queue: int = 512
    """Requests that may wait for a place; beyond them 429."""
    queue_s: float = 10.0
    """Longest wait for a place, then 429; 10, as nothing can be sent meanwhile, and proxies close quiet connections."""
    deadline_s: float = 600.0
    """Longest time of a request, its wait and its body included; 600, after which the clients' own time is over."""
    session_requests_per_minute: int | None = 240
    """Most requests of a session within any 60 s, for keys without a number of their own; 240, more than tool turns
    make, and less than agents that loop over an error, which ask 5 to 13 times a second."""
    rates_on_failure: RatesOnFailure = "process"
    """While the ledger's Redis, which has the limits a minute, cannot be reached: ``process`` counts in each process by
    itself, ``refuse`` answers 503."""
    quiet_s: float = 8.0
    """Seconds after which a stream that shows nothing gets a comment line; 8, as proxies close quiet connections after
    10 and more."""

    __pydantic_config__ = STRICT

    @property
    def has_keys(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.keys) or self.key_file is not None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a number out of range, an unknown word, or two keys that are one.
        """
        one_of("signal_field", self.signal_field, get_args(SignalField))
        for mode in self.modes:
            one_of("modes of the gateway", mode, get_args(ServedMode))
        if not self.modes:
            raise ConfigError("modes of the gateway is empty: name 'duet', 'generator' or 'reasoner'")
        for limit in self.signal_tokens:
            whole("signal_tokens of the gateway", limit)
        if self.answer_tokens is not None:
            whole("answer_tokens of the gateway", self.answer_tokens)
        whole("most_body_bytes", self.most_body_bytes)
        whole("most_kept_bytes", self.most_kept_bytes, at_least=0)
        seconds("quiet_s", self.quiet_s)
        seconds("drain_s", self.drain_s, or_zero=True)
        for name in ("most_messages", "most_depth", "at_once"):
            whole(f"{name} of the gateway", getattr(self, name))
        whole("queue of the gateway", self.queue, at_least=0)
        if self.session_requests_per_minute is not None:
            whole("session_requests_per_minute of the gateway", self.session_requests_per_minute)
        one_of("rates_on_failure", self.rates_on_failure, get_args(RatesOnFailure))
        for name in ("quiet_s", "queue_s", "deadline_s"):
            seconds(name, getattr(self, name))
        known = [key.sha256 or key.key_env for key in self.keys]
        if len(set(known)) < len(known):
            raise ConfigError("two keys of the gateway are the same key: give each tenant one of its own")
        names = [key.name for key in self.keys if key.name is not None]
        if len(set(names)) < len(names):
            raise ConfigError("two keys of the gateway have the same name, and limits are counted by it: rename one")
