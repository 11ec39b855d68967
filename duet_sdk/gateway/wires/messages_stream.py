"""The events of a streamed message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from duet_sdk.gateway.exchange import encode
from duet_sdk.gateway.wires.chat_out import receipt_of, shown_signal
from duet_sdk.gateway.wires.messages_out import (
    calls_of,
    error_of,
    omits_thinking,
    opened,
    shows_thinking,
    signature_of,
    stop_of,
    tool_use,
    usage_form,
    usage_told,
)
from duet_sdk.gateway.wires.wire import tools_of
from duet_sdk.pipeline.admission import likely_prompt_tokens

if TYPE_CHECKING:
    from duet_sdk.events import ToolCallDelta
    from duet_sdk.gateway.errors import Refused
    from duet_sdk.gateway.wires.wire import Asked, Given
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob

_TEXT = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'
)


class Events:
    """Writes one stream: one block after the other, each with its start and its stop.

    Calls are kept to the end: a client runs what is complete, and until then a fallback may replace it.

    Args:
        given: the client's request.
        what: the pair's.
    """

    def __init__(self, given: Given, what: Asked) -> None:
        self._given = given
        self._what = what
        self.shows_signal = shows_thinking(given)
        self._begun = False
        self._block = ""
        """Type of the open block, none when empty."""
        self._index = -1
        """Of the last block."""

    def signal(self, text: str) -> bytes:
        """A piece of the signal."""
        opens = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if omits_thinking(self._given):
            return opens
        return opens + self._delta({"type": "thinking_delta", "thinking": text})

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """A piece of the answer."""
        return self._open("text", {"type": "text", "text": ""}) + _TEXT % (self._index, encode(text))

    def call(self, delta: ToolCallDelta) -> bytes:
        """Nothing yet: the reply has the calls."""
        return b""

    def end(self, reply: Reply, finishes: Mapping[int, str | None]) -> bytes:
        """The signal where it was not shown, the calls, why it ended, and what it took."""
        pieces = []
        if self.shows_signal and self._index < 0 and (signal := shown_signal(reply)):
            pieces.append(self.signal(signal))
        calls = calls_of(reply.tool_calls, self._given, finishes.get(0))
        if not calls and self._block != "text":
            pieces.append(self._open("text", {"type": "text", "text": ""}))
        for call in calls:
            pieces += [
                self._close(),
                self._open(call.id, tool_use(call, {})),
                self._delta({"type": "input_json_delta", "partial_json": call.arguments_on_wire}),
            ]
        told = {
            "delta": {"stop_reason": stop_of(finishes.get(0), has_calls=bool(calls)), "stop_sequence": None},
            "usage": usage_told(reply),
            "duet": receipt_of(reply, self._given.receipt),
        }
        return b"".join((*pieces, self._close(), _event("message_delta", **told), _event("message_stop")))

    def broken(self, told: Refused) -> bytes:
        """An error in place of the end: open blocks stay open, and no message stops."""
        return b"event: error\ndata: " + encode(error_of(told, self._given.receipt)[1]) + b"\n\n"

    def _open(self, kind: str, block: Mapping[str, Any]) -> bytes:
        """Begin a block, unless it is the one that is open."""
        if self._block == kind:
            return b""
        before = self._begin() + self._close()
        self._block = kind
        self._index += 1
        return before + _event("content_block_start", index=self._index, content_block=block)

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        # The real number is known at the end; clients show this one until then.
        tokens = likely_prompt_tokens(self._what.messages, tools_of(self._what))
        return _event("message_start", message=opened(self._given, [], usage_form(tokens, 0, 0)))

    def _close(self) -> bytes:
        """End the open block, of thinking with its signature."""
        if not self._block:
            return b""
        signed = b""
        if self._block == "thinking":
            signed = self._delta({"type": "signature_delta", "signature": signature_of(self._given)})
        self._block = ""
        return signed + _event("content_block_stop", index=self._index)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **more: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **more}) + b"\n\n"
