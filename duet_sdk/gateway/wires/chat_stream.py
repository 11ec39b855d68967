"""The chunks of a streamed chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from duet_sdk.gateway.exchange import encode
from duet_sdk.gateway.wires.chat_out import DONE, SIGNAL_FIELDS, Head, finish_of, receipt_of, usage_of

if TYPE_CHECKING:
    from duet_sdk.events import ToolCallDelta
    from duet_sdk.gateway.errors import Refused
    from duet_sdk.gateway.wires.wire import Asked
    from duet_sdk.gateway_policy import SignalField
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob


class Chunks:
    """Writes one stream.

    Args:
        head: of its chunks.
        what: the request.
        signal_field: where the signal is shown.
    """

    def __init__(self, head: Head, what: Asked, signal_field: SignalField) -> None:
        self._head = head
        self._what = what
        self._signal_fields = SIGNAL_FIELDS[signal_field]
        self.shows_signal = bool(self._signal_fields)
        self._begun: set[int] = set()
        """Answers of which something was shown."""
        self._calling: set[int] = set()

    def signal(self, text: str) -> bytes:
        """A piece of the signal, in the first answer's message."""
        return self._begin(0) + self._head.signal(text, self._signal_fields)

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """A piece of an answer."""
        return self._begin(index) + self._head.text(index, text, logprobs)

    def call(self, delta: ToolCallDelta) -> bytes:
        """A piece of a tool call."""
        self._calling.add(delta.index)
        return self._begin(delta.index) + self._head.call(delta)

    def end(self, reply: Reply, finishes: Mapping[int, str | None]) -> bytes:
        """The finish of each answer, and usage."""
        more = {"duet": receipt_of(reply, self._head.receipt)}
        pieces, last = [], self._what.answers - 1
        for index in range(self._what.answers):
            reason = finish_of(finishes.get(index), has_calls=index in self._calling)
            with_receipt = index == last and not self._what.with_usage
            pieces += [self._begin(index), self._head.finish(index, reason, more if with_receipt else None)]
        if self._what.with_usage:
            pieces.append(self._head.usage(usage_of(reply), more))
        return b"".join((*pieces, DONE))

    def broken(self, told: Refused) -> bytes:
        """An error in place of the end, without ``[DONE]``."""
        return b"data: " + encode(told.body()) + b"\n\n"

    def _begin(self, index: int) -> bytes:
        if index in self._begun:
            return b""
        self._begun.add(index)
        return self._head.role(index)
