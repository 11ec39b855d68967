"""The events of a streamed response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.exchange import encode
from duet_sdk.gateway.wires.chat_out import logprobs_of, shown_signal
from duet_sdk.gateway.wires.responses_out import (
    Head,
    Item,
    final_calls,
    keep,
    message,
    part,
    reasoning,
    shows_reasoning,
    shows_summary,
)

if TYPE_CHECKING:
    from duet_sdk.events import ToolCallDelta
    from duet_sdk.gateway.errors import Refused
    from duet_sdk.gateway.wires.wire import Given
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob

_TEXT: Final = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":%d,"output_index":%d,"item_id":%b,'
    b'"content_index":0,"delta":%b,"logprobs":[]}\n\n'
)
_ARGUMENTS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
_OF_CALLS: Final = {
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
}


class Events:
    """Writes one stream: an item after the other, each with its beginning and its end.

    An item ends when nothing can replace it any more, as clients act on that at once; calls therefore come at the end
    of the answer, whole.

    Args:
        given: the client's request.
    """

    def __init__(self, given: Given) -> None:
        self._given = given
        self._head = Head(given)
        self.shows_signal = shows_reasoning(given)
        self._sequence = 0
        self._output: list[Item] = []
        """Items that have ended."""
        self._open = ""
        """Type of the item that has begun."""
        self._signal: list[str] = []
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._message_id = encode(f"msg_{given.receipt}")

    def signal(self, text: str) -> bytes:
        """A piece of the signal."""
        before = b"" if self._open else self._begin() + self._open_reasoning()
        self._signal.append(text)
        if not shows_summary(self._given):
            return before
        return before + self._of_item("response.reasoning_summary_text.delta", summary_index=0, delta=text)

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """A piece of the answer."""
        before = b"" if self._open == "message" else self._begin() + self._close_reasoning() + self._open_message()
        self._text.append(text)
        if logprobs:
            self._logprobs += logprobs
            told = {"content_index": 0, "delta": text, "logprobs": logprobs_of(logprobs)}
            return before + self._of_item("response.output_text.delta", **told)
        piece = _TEXT % (self._sequence, len(self._output), self._message_id, encode(text))
        self._sequence += 1
        return before + piece

    def call(self, delta: ToolCallDelta) -> bytes:
        """Nothing yet."""
        return b""

    def end(self, reply: Reply, finishes: Mapping[int, str | None]) -> bytes:
        """What is left of the signal and the text, the calls, and the response."""
        finish = finishes.get(0)
        pieces = [self._begin()]
        unshown = self.shows_signal and not self._open and not self._output
        if unshown and (signal := shown_signal(reply)):
            pieces.append(self.signal(signal))
        calls = final_calls(self._given, reply.tool_calls, finish)
        if self._open != "message":
            pieces.append(self._close_reasoning())
            if not calls:
                pieces.append(self._open_message())
        if self._open == "message":
            pieces.append(self._close_message(reply.text, finish))
        pieces += [self._call(call) for call in calls]
        response = self._head.whole(self._output, finish, reply)
        keep(self._given, response)
        return b"".join((*pieces, self._event(f"response.{response['status']}", response=response)))

    def broken(self, told: Refused) -> bytes:
        """An error, and the response as one that failed: some clients act on the one, some on the other."""
        error = told.body()["error"]
        return b"".join(
            (
                self._begin(),
                self._event("error", **error | {"type": "error"}, error=error),
                self._event("response.failed", response=self._head.failed(told, self._output)),
            )
        )

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        response = self._head.state("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _open_reasoning(self) -> bytes:
        opened = self._opened(reasoning(self._given, None))
        if not shows_summary(self._given):
            return opened
        empty = {"type": "summary_text", "text": ""}
        return opened + self._of_item("response.reasoning_summary_part.added", summary_index=0, part=empty)

    def _close_reasoning(self) -> bytes:
        if self._open != "reasoning":
            return b""
        item = reasoning(self._given, "".join(self._signal))
        done = b""
        if item["summary"]:
            (whole,) = item["summary"]
            done = self._of_item("response.reasoning_summary_text.done", summary_index=0, text=whole["text"])
            done += self._of_item("response.reasoning_summary_part.done", summary_index=0, part=whole)
        return done + self._closed(item)

    def _open_message(self) -> bytes:
        item = message(self._given, "", None, ()) | {"status": "in_progress", "content": []}
        return self._opened(item) + self._of_item("response.content_part.added", content_index=0, part=part(""))

    def _close_message(self, text: str, finish: str | None) -> bytes:
        item = message(self._given, text or "".join(self._text), finish, self._logprobs)
        (whole,) = item["content"]
        told = {"content_index": 0, "text": whole["text"], "logprobs": whole["logprobs"]}
        done = self._of_item("response.output_text.done", **told)
        return done + self._of_item("response.content_part.done", content_index=0, part=whole) + self._closed(item)

    def _call(self, item: Item) -> bytes:
        field = _ARGUMENTS[item["type"]]
        opened = self._opened(item | {"status": "in_progress", field: ""})
        delta = self._of_item(f"{_OF_CALLS[item['type']]}.delta", delta=item[field])
        name = {"name": item["name"]} if field == "arguments" else {}
        done = self._of_item(f"{_OF_CALLS[item['type']]}.done", **name, **{field: item[field]})
        return opened + delta + done + self._closed(item)

    def _opened(self, item: Item) -> bytes:
        self._open, self._item_id = item["type"], item["id"]
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _closed(self, item: Item) -> bytes:
        done = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = ""
        return done

    def _of_item(self, kind: str, **more: object) -> bytes:
        return self._event(kind, item_id=self._item_id, output_index=len(self._output), **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        told = encode({"type": kind, "sequence_number": self._sequence, **more})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + told + b"\n\n"
