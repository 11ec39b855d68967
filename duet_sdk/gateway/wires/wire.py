"""What a wire is: from a client's body to a request of the pair, and from its reply to what the client reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from duet_sdk.events import ToolCallDelta
    from duet_sdk.gateway.errors import Headers, Refused
    from duet_sdk.gateway.kept import Kept
    from duet_sdk.gateway.keys import Caller
    from duet_sdk.gateway.names import Choice
    from duet_sdk.gateway.signals import Signals
    from duet_sdk.gateway_policy import GatewayPolicy, SignalField
    from duet_sdk.options import CallOptions
    from duet_sdk.reply import Reply
    from duet_sdk.types import Json, Message, TokenLogprob, ToolCall


@dataclass(frozen=True, slots=True)
class Given:
    """One request of a client, before it is read.

    Attributes:
        body: its JSON object.
        headers: names in lower case.
        choice: what its model's name stands for.
        caller: whose key it came with.
        policy: what the gateway serves.
        receipt: its name in the log and in answers.
        created: seconds since the epoch.
        signals: of runs that go on.
        kept: responses that clients may come back to.
    """

    body: Mapping[str, Any]
    headers: Mapping[bytes, bytes]
    choice: Choice
    caller: Caller
    policy: GatewayPolicy
    receipt: str
    created: int
    signals: Signals
    kept: Kept

    @property
    def signal_field(self) -> SignalField:
        """Where the signal is shown to this caller."""
        return self.policy.signal_field if self.caller.sees_signal else "none"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the pair, checked as far as the wire goes."""

    messages: Sequence[Message]
    options: CallOptions
    streamed: bool
    answers: int = 1
    with_usage: bool = True
    """Whether a stream ends with usage, where the wire lets clients choose."""


def tools_of(what: Asked) -> Sequence[Json]:
    """The tools that a request offers, which wires read as JSON."""
    return cast("Sequence[Json]", what.options.get("tools") or ())


@dataclass(slots=True)
class Answer:
    """One of the answers of a request."""

    text: str = ""
    calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    logprobs: Sequence[TokenLogprob] = field(default_factory=tuple)


class Writer(Protocol):
    """Makes the pieces of one stream, in order; each method gives what to send now, or nothing."""

    shows_signal: bool
    """Whether `signal` is told of pieces as they come."""

    def signal(self, text: str) -> bytes:
        """A piece of the signal."""

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """A piece of an answer."""

    def call(self, delta: ToolCallDelta) -> bytes:
        """A piece of a tool call; nothing where the wire sends calls only when they are final."""

    def end(self, reply: Reply, finishes: Mapping[int, str | None]) -> bytes:
        """All that is left of a stream whose reply is complete; the signal, where nothing was sent of it yet.

        Args:
            reply: whole.
            finishes: answer → why it ended, as the pair calls it.
        """

    def broken(self, told: Refused) -> bytes:
        """The end of a stream that broke, which no client may take for the end of an answer."""


class Wire(Protocol):
    """One protocol; it keeps nothing of a request."""

    name: str
    """For metrics and logs, such as ``chat``."""
    receipt_headers: tuple[bytes, ...]
    """Which headers of a response have the receipt."""

    def asked(self, given: Given) -> Asked:
        """The request that a body makes.

        Raises:
            Refused: a field cannot be used.
            InvalidRequest: likewise, in the words of the SDK.
        """

    def writer(self, given: Given, what: Asked) -> Writer:
        """For a stream of this request."""

    def whole(self, given: Given, answers: Sequence[Answer], reply: Reply) -> Mapping[str, Any]:
        """The body of a whole response."""

    def refusal(self, told: Refused, receipt: str) -> tuple[int, Mapping[str, Any], Headers]:
        """Status, body and headers of an error."""
