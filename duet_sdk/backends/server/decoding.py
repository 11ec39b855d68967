"""Bytes of an answer → chunks, one network read at a time.

Events in their usual form are decoded by a typed decoder, which builds only the fields that are needed and skips the
rest. It accepts only what it reads exactly as `Reader` would; at the first event that is unlike that, the rest of the
stream goes to that tolerant reader.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from pydantic_core import from_json

from duet_sdk.backends.answers.numbers import MOST_TOKENS
from duet_sdk.backends.answers.reader import RANK, Reader
from duet_sdk.backends.answers.unreadable import OutputFailed, Unreadable
from duet_sdk.backends.answers.usage import settled
from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.refusals import error_within, parsed
from duet_sdk.backends.server.sse import EventParser, LineTooLong
from duet_sdk.reply import StageUsage

if TYPE_CHECKING:
    from duet_sdk.backends.failures import Failures
    from duet_sdk.backends.server.wire import Dialect
    from duet_sdk.types import Json

_END: Final = b"[DONE]"
_DATA: Final = b"data:"
_THOUGHTS: Final = ("", "reasoning", "reasoning_content")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What taking apart an answer of vLLM's own endpoints raises when it does not have the expected form."""
_EVENT_FIELDS: Final = (b"data:", b"event:", b":", b"id:", b"retry:")
"""What a stream of events begins with."""
_FIRST_BYTES: Final = 64
"""In which a body's first line begins."""
_NAMED_READS: Final = 4
"""Reads in which the first events are searched for who answers: Azure's first one names nobody."""

_Nothing = Annotated[list[Any], msgspec.Meta(max_length=0)] | None
_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]


# gc=False spares the garbage collector: these cannot form cycles. A field of type None is one that `Reader` reads and
# the typed decoder does not: an event that has it is not a usual one.
class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_read_tokens: None = None
    cache_write_tokens: None = None
    cache_creation_tokens: None = None
    cache_creation_input_tokens: None = None
    created_cache_tokens: None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """OpenAI's and vLLM's, with nothing of another provider's: that is for `usage_in`."""

    prompt_tokens: _AtLeastOne
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: _Nothing = None
    thinking: None = None
    reasoning_text: None = None
    reasoning_details: _Nothing = None
    thinking_blocks: _Nothing = None
    refusal: None = None
    function_call: None = None
    # What else `Parts` keeps.
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
    message: None = None
    usage: None = None
    error: None = None


class _Groq(msgspec.Struct, gc=False):
    usage: None = None


class _Event(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(max_length=1)] | None = None
    usage: _Usage | None = None
    x_groq: _Groq | None = None
    usageMetadata: None = None  # noqa: N815 - Gemini's own name
    error: None = None
    errors: None = None
    base_resp: None = None


class _Named(msgspec.Struct, gc=False):
    """Who answers."""

    id: str | None = None
    model: str | None = None


class _Output(msgspec.Struct, gc=False):
    message: _Said | None = None
    text: str | None = None
    index: Literal[0] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: None = None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    delta: None = None
    usage: None = None
    error: None = None


class _UsualAnswer(msgspec.Struct, gc=False):
    """A whole answer as most servers write it: one output of text."""

    choices: Annotated[list[_Output], msgspec.Meta(min_length=1, max_length=1)]
    usage: _Usage
    id: str | None = None
    model: str | None = None
    error: None = None
    errors: None = None
    base_resp: None = None


class _Answer(msgspec.Struct, gc=False):
    """The needed fields of a whole answer: vLLM also repeats the token ids of the prompt, which may be long."""

    choices: Any = None
    usage: Any = None
    id: Any = None
    model: Any = None
    x_groq: Any = None
    usageMetadata: Any = None  # noqa: N815 - as above
    error: Any = None
    errors: Any = None
    base_resp: Any = None


_decode_named = msgspec.json.Decoder(_Named).decode
_decode = msgspec.json.Decoder(_Event).decode
_decode_usual_answer = msgspec.json.Decoder(_UsualAnswer).decode
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
        "_most",
        "_naming_left",
        "_only_answers",
        "_parser",
        "_prompt_tokens",
        "_reader",
        "_sent",
        "_taken",
        "cut",
        "done",
        "failure",
    )

    def __init__(self, call: Call, *, dialect: Dialect, failures: Failures, sent: Json) -> None:
        self.done = False
        self.failure: Exception | None = None
        self._taken: list[Chunk] | None = None
        self._reader = Reader(call, usage_per_output=dialect.continuous_usage)
        self._parser = EventParser()
        self.cut = self._parser.feed
        self._joiner = Joiner(call.max_tokens if call.joined else -1)
        # Each read is taken for a usual one, until one is not; the first ones say who answers.
        self._is_usual = call.n == 1 and call.sampling.logprobs is None
        self._naming_left = _NAMED_READS
        self._most = self._joiner.left
        self._prompt_tokens = 0  # as told, while the running totals say no more than the token ids
        self._only_answers = call.thought is not None
        self._failures = failures
        self._sent = sent

    def read(self, events: Sequence[bytes]) -> list[Chunk]:  # noqa: C901, PLR0912, PLR0915  # one function: every token passes here
        """The chunks of these events, up to the one that ends the stream."""
        if not self._is_usual or not events:
            return self._unusual(events) if events else []
        ends = events[-1] == _END
        try:
            # [DONE] anywhere but last is not JSON, so the whole read falls back to the reader.
            usual = list(map(_decode, events[:-1] if ends else events))
        except _UNUSUAL:
            self._is_usual = False
            return self._unusual(events)
        self.done = ends
        reader, left = self._reader, self._joiner.left
        begun = reader.begun
        chunks: list[Chunk] = []
        reason, most, known = reader.reason, self._most, self._prompt_tokens
        thought = 0  # a bit for each field that it stands in
        open_one: Chunk | None = None
        for event in usual:
            text, reasoning = "", ""
            finish: str | None = None
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
                    if reasoning:
                        thought |= (said.reasoning is not None) | 2 * (said.reasoning_content is not None)
                if finish is not None:
                    if reason is None or RANK[finish] > RANK[reason]:
                        reason = finish
                    else:
                        finish = None  # said before
            elif event.usage is None:
                return self._unusual(events)  # nothing, or an error in a form of its own
            left -= len(ids)
            usage: StageUsage | None = None
            if (used := event.usage) is not None and (
                used.completion_tokens != most - left
                or used.prompt_tokens != known
                or used.prompt_tokens_details is not None
                or used.completion_tokens_details is not None
                or not ids  # the last one: vLLM writes it behind the answer
            ):
                usage = _told(used)
                is_plain = used.prompt_tokens_details is None and used.completion_tokens_details is None
                known = used.prompt_tokens if is_plain and used.completion_tokens == most - left else 0
            is_counted = bool(ids) or not (text or reasoning)
            begun = begun or len(ids) > 0 or not is_counted
            if open_one is not None and left >= 0 and is_counted and not (reasoning and open_one.text):
                open_one.text += text
                open_one.reasoning += reasoning
                open_one.token_ids += ids
                open_one.finish_reason = finish
                if usage is not None:
                    open_one.usage = usage
            else:
                open_one = Chunk(text, reasoning, ids, (), (), usage, None, finish)
                chunks.append(open_one)
            if not is_counted or finish is not None:
                open_one = None  # nothing more may be merged into it
        reader.begun, self._joiner.left, self._prompt_tokens = begun, left, known
        if reason is not reader.reason:
            reader.ended(0, reason or "stop")
            if thought or reader.has_parts:
                self._keep(usual, chunks)
        elif thought and not self._only_answers:
            if thought == 3:
                self._keep(usual, chunks)
            else:
                reader.parts[0].text(_THOUGHTS[thought], "".join([chunk.reasoning for chunk in chunks]))
        if self._naming_left:
            self._name(events, chunks)
        return chunks

    def _keep(self, events: Sequence[_Event], chunks: Sequence[Chunk]) -> None:
        """Note what the model wants back of its reasoning; all of it goes with the chunk that ends the output."""
        parts = self._reader.parts[0]
        ends = iter([chunk for chunk in chunks if chunk.finish_reason is not None])
        for choice in [event.choices[0] for event in events if event.choices]:
            if (said := choice.delta) is not None:
                parts.text("reasoning", said.reasoning or "")
                parts.text("reasoning_content", said.reasoning_content or "")
            if choice.finish_reason is not None and (chunk := next(ends, None)) is not None:
                chunk.provider_parts = parts.found

    def close(self) -> list[Chunk]:
        """The chunks of a last event without its empty line; sets ``failure`` if the answer is incomplete."""
        if self._taken is not None:
            return self._taken
        chunks = [] if self.done else self.read(self._parser.close())
        if (bare := self._parser.bare) and not self._reader.begun:
            return self.whole(bare)
        if self.failure is None:
            self._check_end()
        return chunks

    def take_whole(self, said: bytes, *, kind: str) -> None:
        """An answer in one piece came in place of the stream: `close` gives its chunks. Arguments as for `whole`."""
        self._taken = self.whole(said, kind=kind)
        self.done = True

    def whole(self, said: bytes, *, kind: str = "untyped") -> list[Chunk]:
        """The chunks of an answer in one piece, one for each output; sets ``failure`` if it is none, or incomplete.

        Args:
            said: all of it.
            kind: its content type, for the error.
        """
        if self._is_usual and (chunk := self._usual_whole(said)) is not None:
            return [chunk]
        said = said.removeprefix(codecs.BOM_UTF8)
        if said[:_FIRST_BYTES].lstrip().startswith(_EVENT_FIELDS):
            return self._whole_of_events(said)
        try:
            value = _value_of(said)
        except ValueError:
            value = parsed(said)  # an error may break off, or be a page
            if error_within(value) is None:
                self.failure = self._failures.broken(f"its answer is no completion ({kind})")
                return []
        chunks = self._read(self._reader.whole, value)
        if self.failure is None:
            self._check_end()
        return chunks

    def _usual_whole(self, said: bytes) -> Chunk | None:
        """The chunk of an answer in its usual form, None for any other."""
        try:
            answer = _decode_usual_answer(said)
        except _UNUSUAL:
            return None
        output, reader = answer.choices[0], self._reader
        text, reasoning, ids = output.text or "", "", output.token_ids or ()
        if (said_by := output.message) is not None:
            text, reasoning = said_by.content or "", said_by.reasoning or said_by.reasoning_content or ""
            if reasoning and self._only_answers:
                text, reasoning = reasoning + text, ""
            elif reasoning:
                reader.parts[0].text("reasoning", said_by.reasoning or "")
                reader.parts[0].text("reasoning_content", said_by.reasoning_content or "")
        if text or reasoning or ids:
            reader.begun = 1
        usage = _told(answer.usage)
        chunk = Chunk(text, reasoning, ids, (), (), usage, None, reader.ended(0, output.finish_reason or "stop"))
        if chunk.finish_reason is not None and reader.has_parts:
            chunk.provider_parts = reader.parts[0].found
        reader.sign(answer.model, answer.id, (chunk,))
        return chunk

    def _whole_of_events(self, said: bytes) -> list[Chunk]:
        """A stream, though one piece was asked for."""
        try:
            chunks = self.read(self.cut(said))
        except LineTooLong as error:
            self.failure = self._failures.broken(f"{error} in its answer")
            return []
        return chunks if self.failure is not None else chunks + self.close()

    def _unusual(self, events: Sequence[bytes]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in _apart(events):
            if event.strip().upper() == _END:
                self.done = True
                chunks += self._reader.over()
                break
            try:
                value = from_json(event)
            except ValueError as error:
                if is_control(event):
                    continue
                self.failure = self._failures.unreadable(error)
                break
            chunks += self._read(self._reader.event, value)
            if self.failure is not None:
                break
        return self._joiner.join(chunks)

    def _name(self, events: Sequence[bytes], chunks: Sequence[Chunk]) -> None:
        """Let the first of these events that names who answers say so."""
        self._naming_left -= 1
        for event in events:
            try:
                named = _decode_named(event)
            except _UNUSUAL:
                continue
            if self._reader.sign(named.model, named.id, chunks):
                self._naming_left = 0
                return

    def _read(self, read: Callable[[object], list[Chunk]], value: object) -> list[Chunk]:
        """What the reader makes of a value, or why it makes nothing of it."""
        if (error := error_within(value)) is not None:
            self.failure = self._failures.event(error, self._sent, begun=bool(self._reader.begun))
            return []
        try:
            return read(value)
        except OutputFailed as failed:
            if failed.error is not None:
                self.failure = self._failures.event(failed.error, self._sent, begun=bool(self._reader.begun))
            else:
                self.failure = self._failures.broken(str(failed))
        except Unreadable as unreadable:
            self.failure = self._failures.broken(str(unreadable))
        return []

    @property
    def has_ended(self) -> bool:
        """Whether the server has said all, as it should."""
        return self.done and self.failure is None and not self._reader.lacks_an_end

    def _check_end(self) -> None:
        if self._reader.lacks_an_end:
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
    chunk.served = chunk.served or then.served


def _told(used: _Usage) -> StageUsage:
    """What a usage says, as `usage_of` reads it."""
    prompt, output, total = used.prompt_tokens, used.completion_tokens, used.total_tokens
    inputs, outputs = used.prompt_tokens_details, used.completion_tokens_details
    if inputs is None and outputs is None and total == prompt + output:
        return StageUsage(prompt, output)
    cached = None if inputs is None else inputs.cached_tokens
    hidden = None if outputs is None else outputs.reasoning_tokens
    return settled(prompt, output, total, cached=cached, written=None, thought=hidden)


def _apart(events: Sequence[bytes]) -> Iterator[bytes]:
    """The events, also those that a server or a proxy has framed wrongly: twice, or with one newline between them."""
    for event in events:
        data = event[len(_DATA) :].lstrip() if event.startswith(_DATA) else event
        if b"\n" in data and not _is_json(data):
            yield from data.split(b"\n")
        else:
            yield data


def _is_json(data: bytes) -> bool:
    try:
        from_json(data)
    except ValueError:
        return False
    return True


def is_control(event: bytes) -> bool:
    """Whether an event that is not JSON is none that was damaged: nothing, or words that keep a connection open."""
    return event.isascii() and not any(mark in event for mark in (b"{", b"[", b'"'))


def _value_of(said: bytes) -> object:
    """The JSON of a whole answer.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    value: object
    try:
        value = msgspec.structs.asdict(needed := _decode_answer(said))
        if needed.choices:
            return value
    except _UNUSUAL:
        pass
    value = from_json(said)  # all of it, as an error has other fields
    return value
