"""Bytes of an answer → chunks, one network read at a time.

Events in their usual form are decoded by a typed decoder, which builds only the fields that are needed and skips the
rest. It accepts only what it reads exactly as `Reader` would; everything else falls back to that tolerant reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from pydantic_core import from_json

from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.refusals import error_within
from duet_sdk.backends.server.reading import OutputFailed, Reader
from duet_sdk.backends.server.sse import EventParser
from duet_sdk.reply import StageUsage

if TYPE_CHECKING:
    from duet_sdk.backends.failures import Failures
    from duet_sdk.backends.server.wire import Dialect
    from duet_sdk.types import Json

_END: Final = b"[DONE]"
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading an answer raises when it does not have the expected form."""

_Nothing = Annotated[list[Any], msgspec.Meta(max_length=0)] | None
_Count = Annotated[int, msgspec.Meta(ge=0)]


# gc=False spares the garbage collector: these cannot form cycles.
class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None
    cost: None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: _Nothing = None
    # What else `Parts` keeps; `Reader` hands it over.
    reasoning_details: _Nothing = None
    thinking_blocks: _Nothing = None
    reasoning_items: _Nothing = None
    encrypted_content: None = None
    reasoning_opaque: None = None
    extra_content: None = None
    provider_specific_fields: None = None


class _Choice(msgspec.Struct, gc=False):
    index: Literal[0] = 0
    delta: _Said | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: None = None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None


class _Event(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(max_length=1)] | None = None
    usage: _Usage | None = None
    error: None = None


class _Answer(msgspec.Struct, gc=False):
    """The needed fields of a whole answer: vLLM also repeats the token ids of the prompt, which may be long."""

    choices: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_UNUSUAL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Decoder:
    """Reads the answer to one call.

    Args:
        call: the call; if it is ``joined``, chunks of one read are merged as `Joiner` does.
        dialect: which of vLLM's additions the server understands.
        failures: makes the errors.
        sent: the request's JSON, which errors must not quote.

    Attributes:
        cut: bytes of a stream → the events that they complete, for `read`.
        done: whether the server has ended the stream.
        failure: the error that follows the chunks returned last; None while all is well.
    """

    __slots__ = (
        "_failures",
        "_is_usual",
        "_joiner",
        "_only_answers",
        "_parser",
        "_reader",
        "_sent",
        "cut",
        "done",
        "failure",
    )

    def __init__(self, call: Call, *, dialect: Dialect, failures: Failures, sent: Json) -> None:
        self.done = False
        self.failure: Exception | None = None
        self._reader = Reader(call, dialect=dialect)
        self._parser = EventParser()
        self.cut = self._parser.feed
        self._joiner = Joiner(call.max_tokens if call.joined else -1)
        self._is_usual = call.n == 1 and call.sampling.logprobs is None
        self._only_answers = call.thought is not None
        self._failures = failures
        self._sent = sent

    def read(self, events: Sequence[bytes]) -> list[Chunk]:  # noqa: C901, PLR0912, PLR0915  # one function: every token passes here
        """The chunks of these events, up to the one that ends the stream."""
        if not events or not self._is_usual:
            return self._unusual(events)
        ends = events[-1] == _END
        try:
            # [DONE] anywhere but last is not JSON, so the whole read falls back to the reader.
            usual = list(map(_decode, events[:-1] if ends else events))
        except _UNUSUAL:
            return self._unusual(events)
        self.done = ends
        reader, left = self._reader, self._joiner.left
        begun = reader.begun
        chunks: list[Chunk] = []
        usages: list[_Usage | None] = []
        thought = ""
        open_one: Chunk | None = None
        for event in usual:
            text, reasoning, finish = "", "", None
            ids: tuple[int, ...] = ()
            if event.choices:
                choice = event.choices[0]
                ids, finish = choice.token_ids or (), choice.finish_reason
                if (said := choice.delta) is None:  # the completion endpoint
                    text = choice.text or ""
                else:
                    text = said.content or ""
                    reasoning = said.reasoning or said.reasoning_content or ""
                    if reasoning and self._only_answers:
                        text, reasoning = reasoning + text, ""
                    thought = reasoning or thought
                if finish is not None:
                    reader.unfinished = 0
            elif event.usage is None:
                return self._unusual(events)  # nothing, or an error in a form of its own
            left -= len(ids)
            is_counted = bool(ids) or not (text or reasoning)
            begun = begun or bool(ids) or not is_counted
            if open_one is not None and left >= 0 and is_counted and not (reasoning and open_one.text):
                open_one.text += text
                open_one.reasoning += reasoning
                open_one.token_ids += ids
                open_one.finish_reason = finish
                usages[-1] = event.usage or usages[-1]
            else:
                open_one = Chunk(text, reasoning, ids, (), (), None, None, finish)
                chunks.append(open_one)
                usages.append(event.usage)
            if not is_counted or finish is not None:
                open_one = None  # nothing more may be merged into it
        reader.begun, self._joiner.left = begun, left
        if thought or not reader.unfinished:
            self._keep(usual, chunks)
        for chunk, usage in zip(chunks, usages, strict=True):
            if usage is not None:
                details = usage.prompt_tokens_details
                cached = None if details is None else details.cached_tokens
                chunk.usage = StageUsage(usage.prompt_tokens, usage.completion_tokens, cached)
        return chunks

    def _keep(self, events: Sequence[_Event], chunks: Sequence[Chunk]) -> None:
        """Note what the model wants back of its reasoning; all of it goes with the chunk that ends the output."""
        if self._only_answers:
            return
        parts = self._reader.parts[0]
        ends = iter([chunk for chunk in chunks if chunk.finish_reason is not None])
        for choice in [event.choices[0] for event in events if event.choices]:
            if (said := choice.delta) is not None:
                parts.text("reasoning", said.reasoning or "")
                parts.text("reasoning_content", said.reasoning_content or "")
            if choice.finish_reason is not None:
                next(ends).provider_parts = parts.found

    def close(self) -> list[Chunk]:
        """The chunks of a last event without its empty line; sets ``failure`` if the answer is incomplete."""
        chunks = [] if self.done else self.read(self._parser.close())
        if self.failure is None:
            self._check_end()
        return chunks

    def whole(self, said: bytes) -> list[Chunk]:
        """The chunks of a whole answer, one for each output; sets ``failure`` if it is incomplete.

        Raises:
            OutputFailed: the server gave an output up.
            ValueError: it is not a completion; so do TypeError, KeyError, AttributeError and RecursionError.
        """
        value: Any
        try:
            value = msgspec.structs.asdict(_decode_answer(said))
        except _UNUSUAL:
            value = from_json(said)
        if not isinstance(value, dict) or not value.get("choices"):
            value = from_json(said)  # all of it, as an error has other fields
        if (error := error_within(value)) is not None:
            self.failure = self._failures.event(error, self._sent, begun=False)
            return []
        chunks = self._reader.whole(value)
        self._check_end()
        return chunks

    def _unusual(self, events: Sequence[bytes]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in events:
            if event == _END:
                self.done = True
                break
            try:
                value = from_json(event)
                if (error := error_within(value)) is not None:
                    self.failure = self._failures.event(error, self._sent, begun=self._reader.begun)
                    break
                chunks += self._reader.event(value)
            except OutputFailed as failed:
                self.failure = self._failures.broken(str(failed))
                break
            except UNREADABLE as unreadable:
                self.failure = self._failures.unreadable(unreadable)
                break
        return self._joiner.join(chunks)

    @property
    def has_ended(self) -> bool:
        """Whether the server has said all, as it should."""
        return self.done and self.failure is None and not self._reader.unfinished

    def _check_end(self) -> None:
        if self._reader.unfinished:
            self.failure = self._failures.broken("its answer ended without saying why")


class Joiner:
    """Merges chunks that arrived together: each one costs every layer above, and not every caller looks at them.

    Only chunks that are counted by token ids are merged, and only within the limit. What goes beyond it keeps its own
    pieces, so that it is counted and cut exactly.

    Args:
        most: the call's limit in tokens; a negative one merges nothing.

    Attributes:
        left: how many tokens may still be merged.
    """

    __slots__ = ("left",)

    def __init__(self, most: int) -> None:
        self.left = most

    def join(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same output in fewer chunks; some of the given ones are changed."""
        if self.left < 0:
            return chunks
        joined: list[Chunk] = []
        for chunk in chunks:
            self.left -= len(chunk.token_ids)
            if joined and self.left >= 0 and _fit(joined[-1], chunk):
                _add(joined[-1], chunk)
            else:
                joined.append(chunk)
        return joined


def _fit(first: Chunk, then: Chunk) -> bool:
    if first.index != then.index or first.finish_reason is not None or (first.text and then.reasoning):
        return False
    if first.tool_calls or then.tool_calls or first.logprobs or then.logprobs:
        return False
    return _counted(first) and _counted(then)


def _counted(chunk: Chunk) -> bool:
    return bool(chunk.token_ids) or not (chunk.text or chunk.reasoning)


def _add(chunk: Chunk, then: Chunk) -> None:
    chunk.text += then.text
    chunk.reasoning += then.reasoning
    chunk.token_ids += then.token_ids
    chunk.usage = then.usage or chunk.usage
    if then.cost_usd is not None:
        chunk.cost_usd = then.cost_usd
    chunk.finish_reason = then.finish_reason
    chunk.provider_parts = then.provider_parts or chunk.provider_parts
