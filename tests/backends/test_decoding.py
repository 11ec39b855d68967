"""The typed way to read a stream gives what the tolerant one gives, for whatever a server may send."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from duet_sdk.backends.answers import spellings
from duet_sdk.backends.answers.reader import Reader
from duet_sdk.backends.answers.unreadable import OutputFailed, Unreadable
from duet_sdk.backends.base import Call, Chunk, Thought
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.refusals import error_within
from duet_sdk.backends.server.decoding import Decoder, Joiner, _InputDetails, _OutputDetails, is_control
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import BackendError, StreamBroken
from duet_sdk.events import ToolCallDelta
from duet_sdk.policies import Sampling
from duet_sdk.reply import StageUsage

CALL = Call(max_tokens=8)
DIALECT = Dialect(token_ids=True, continuous_usage=True)
FAILURES = Failures(backend="vllm", model="m", url="http://127.0.0.1/v1")


@dataclass
class Outcome:
    """What was read, and what ended it."""

    chunks: list[list[Chunk]]
    failure: str | None
    done: bool


def decoded(call: Call, reads: Sequence[Sequence[bytes]]) -> Outcome:
    decoder = Decoder(call, dialect=DIALECT, failures=FAILURES, sent={})
    chunks = []
    for events in reads:
        chunks.append(decoder.read(events))
        if decoder.failure is not None or decoder.done:
            break
    done = decoder.done
    if decoder.failure is None:
        chunks.append(decoder.close())
    return Outcome(chunks, None if decoder.failure is None else str(decoder.failure), done)


def read_tolerantly(call: Call, reads: Sequence[Sequence[bytes]]) -> Outcome:
    """The same by the reader alone, event by event."""
    reader = Reader(call, usage_per_output=DIALECT.continuous_usage)
    joiner = Joiner(call.max_tokens if call.joined else -1)
    outcome = Outcome([], None, False)
    for events in reads:
        chunks: list[Chunk] = []
        for event in events:
            if event.strip().upper() == b"[DONE]":
                outcome.done = True
                chunks += reader.over()
                break
            read, outcome.failure = read_by(reader, event)
            chunks += read
            if outcome.failure:
                break
        outcome.chunks.append(joiner.join(chunks))
        if outcome.done or outcome.failure:
            break
    if outcome.failure is None:
        outcome.chunks.append([])
        if reader.lacks_an_end:
            outcome.failure = str(FAILURES.broken("its answer ended without saying why"))
    return outcome


def read_by(reader: Reader, event: bytes, *, whole: bool = False) -> tuple[list[Chunk], str | None]:
    """What the reader makes of an event, or of a whole answer, and the error that follows it."""
    begun = bool(reader.begun)
    try:
        value = from_json(event)
    except ValueError as error:
        return [], None if is_control(event) else str(FAILURES.unreadable(error))
    if (said := error_within(value)) is not None:
        return [], str(FAILURES.event(said, {}, begun=begun))
    try:
        return reader.whole(value) if whole else reader.event(value), None
    except OutputFailed as failed:
        if failed.error is not None:
            return [], str(FAILURES.event(failed.error, {}, begun=begun))
        return [], str(FAILURES.broken(str(failed)))
    except Unreadable as unreadable:
        return [], str(FAILURES.broken(str(unreadable)))


def alike(outcome: Outcome) -> tuple[object, ...]:
    """What counts of an outcome: without ids that were made, and who answered, which may be known a chunk earlier.

    Usage is what is known at the end of each read: a running total that says no more than the token ids is left out.
    """
    chunks = [[replace(one, served=None, usage=None, tool_calls=drawn(one)) for one in read] for read in outcome.chunks]
    return chunks, list(known_after(outcome.chunks)), outcome.failure, outcome.done


def drawn(chunk: Chunk) -> tuple[ToolCallDelta, ...]:
    return tuple(replace(delta, id=delta.id and "id") for delta in chunk.tool_calls)


def known_after(reads: Sequence[Sequence[Chunk]]) -> Iterator[StageUsage | None]:
    """The usage told so far, after each read: of token ids at least as many as have come."""
    known, ids = None, 0
    for read in reads:
        for chunk in read:
            ids += len(chunk.token_ids)
            known = chunk.usage or known
        yield known and replace(known, output_tokens=max(known.output_tokens, ids))


class Events:
    """Random events, by a seed: strategies for so many fields would mostly draw what both ways refuse.

    JSON as text, not as values: keys may come twice, and numbers in every way of writing them.
    """

    ODD = (
        *("0", "1", "-1", "0.0", "1.0", "1e2", "-0", "1e999", "NaN", "123456789012345678901234567890", "null", "true"),
        *("false", '""', '"x"', '"stop"', "[]", "[1]", "[null]", "{}", '{"a":1}', '[{"index":0}]', '["a"]'),
    )
    WORDS = ('""', '"a"', '" b"', '"\\ud83d\\ude42"', '"é🙂\\n"', '"\\u0000"')
    TOOL_CALLS = '[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]'
    LOGPROBS = '{"content":[{"token":"a","logprob":-0.5}]}'

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.oddness = self.random.choice([0.0, 0.0, 0.02, 0.1])
        self.is_usual = self.random.random() < 0.5

    def one(self, *usual: str) -> str:
        return self.random.choice(self.ODD if self.random.random() < self.oddness else usual)

    def rare(self, *values: str) -> tuple[str, ...]:
        return () if self.is_usual else values

    def written(self, fields: dict[str, Callable[[], str]]) -> str:
        """An object with most of these fields, in any order, now and then with one of them twice."""
        names = [name for name in fields if self.random.random() < (0.95 if self.is_usual else 0.7)]
        if names and self.random.random() < 0.05:
            names.append(self.random.choice(names))
        self.random.shuffle(names)
        return "{" + ",".join(f"{json.dumps(name)}:{fields[name]()}" for name in names) + "}"

    def said(self) -> str:
        return self.written(
            {
                "role": lambda: self.one('"assistant"'),
                "content": lambda: self.one("null", *self.WORDS),
                "reasoning": lambda: self.one("null", *self.WORDS),
                "reasoning_content": lambda: self.one("null", *self.WORDS),
                "tool_calls": lambda: self.one("null", "[]", *self.rare(self.TOOL_CALLS)),
            }
        )

    def choice(self) -> str:
        return self.written(
            {
                "index": lambda: self.one("0", "0", "0", *self.rare("1")),
                "delta": lambda: self.one("null", *[self.said() for _ in range(6)]),
                "text": lambda: self.one("null", *self.WORDS),
                "token_ids": lambda: self.one("null", "[]", "[1]", "[2]", "[3,4]"),
                "logprobs": lambda: self.one("null", "null", "null", *self.rare(self.LOGPROBS)),
                "finish_reason": lambda: self.one(*["null"] * 4, *self.rare(*["null"] * 4, *FINISHES), '"stop"'),
                "stop_reason": lambda: self.one("null", "7", '"x"'),
            }
        )

    def usage(self, *, is_running: bool) -> str:
        """A usage; one that comes with token ids is vLLM's, which has no more than these fields."""
        cached = {"cached_tokens": lambda: self.one("null", "0", "2", "-3")}
        hidden = {"reasoning_tokens": lambda: self.one("null", "0", "2")}
        more: dict[str, Callable[[], str]] = {
            "total_tokens": lambda: self.one("9"),
            "prompt_cache_hit_tokens": lambda: self.one("2"),
            "cost": lambda: self.one("null", "0.5"),
        }
        told = {} if is_running else {name: write for name, write in more.items() if self.random.random() < 0.3}
        return self.written(
            {
                "prompt_tokens": lambda: self.one("7", "4096", "0", *self.rare("-1")),
                "completion_tokens": lambda: self.one("0", "1", "2"),
                "prompt_tokens_details": lambda: self.one("null", self.written(cached)),
                "completion_tokens_details": lambda: self.one("null", self.written(hidden)),
                **told,
            }
        )

    def event(self) -> str:
        if self.random.random() < 0.02:
            return self.random.choice(["[DONE]", "", "{", '{"choices":[', *self.ODD])
        choices = f"[{','.join(self.choice() for _ in range(self.random.choice([1] * 20 + [0, 0, 2])))}]"
        error = {"error": lambda: self.one(*["null"] * 9, '{"message":"died","code":500}')}
        return self.written(
            {
                "id": lambda: self.one('"c"'),
                "é": lambda: self.one(*self.ODD),
                "choices": lambda: self.one(choices),
                "usage": lambda: self.one("null", self.usage(is_running='"token_ids":[' in choices)),
                **(error if self.random.random() < 0.1 else {}),
            }
        )

    def answer(self) -> str:
        """A whole answer, mostly with a usage of OpenAI's three numbers."""
        answer = self.event().replace('"delta"', '"message"')
        if not answer.startswith("{") or self.random.random() < 0.3:
            return answer
        answer = answer.replace('"usage"', '"used"')
        told = self.one('"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}', '"usage":null', '"m":1')
        model = self.one('"model":"m"', '"model":null', '"model":7')
        return answer[:-1] + ("," if len(answer) > 2 else "") + ",".join(f for f in (told, model) if ":" in f) + "}"

    def reads(self) -> list[list[bytes]]:
        reads = [[self.event().encode() for _ in range(self.random.randint(1, 4))] for _ in range(3)]
        if self.random.random() < 0.5:
            reads[-1].append(b"[DONE]")
        return reads


FINISHES = ('"stop"', '"stop"', '"length"', '"tool_calls"', '"content_filter"', '"max_tokens"', '"abort"', '"other"')
CALLS = st.builds(
    replace,
    st.just(CALL),
    max_tokens=st.integers(1, 8),
    n=st.sampled_from([1, 1, 1, 2]),
    joined=st.booleans(),
    thought=st.none() | st.just(Thought((1,), {})),
    sampling=st.sampled_from([Sampling(), Sampling(), Sampling(logprobs=0)]),
)


@settings(max_examples=2000)
@given(call=CALLS, seed=st.integers(0, 1 << 64))
def test_both_ways_agree(call: Call, seed: int) -> None:
    reads = Events(seed).reads()
    note(reads)
    assert alike(decoded(call, reads)) == alike(read_tolerantly(call, reads))


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":3.0,"completion_tokens":1}}',
        b'{"\\u0063hoices":[{"\\u0074ext":"a","finish_reason":"stop"}]}',
        b'{"choices":[{"text":"a"}],"choices":[{"text":"b","finish_reason":"stop"}]}',
        b' \n{"choices":[{"text":"a","finish_reason":"stop"}]}\n',
        b'{"choices":[{"text":"a","finish_reason":"stop"}]}{}',
        b'\xef\xbb\xbf{"choices":[{"text":"a","finish_reason":"stop"}]}',
    ],
)
def test_both_ways_agree_on_odd_spellings(event: bytes) -> None:
    assert alike(decoded(CALL, [[event]])) == alike(read_tolerantly(CALL, [[event]]))


@settings(max_examples=1000)
@given(seed=st.integers(0, 1 << 64), byte=st.characters(max_codepoint=127))
def test_both_ways_agree_where_a_byte_is_wrong(seed: int, byte: str) -> None:
    events = Events(seed)
    event = events.event().encode()
    at = events.random.randrange(len(event) or 1)
    reads = [[event[:at] + byte.encode() + event[at + 1 :]]]
    note(reads)
    assert alike(decoded(CALL, reads)) == alike(read_tolerantly(CALL, reads))


def test_text_that_is_not_utf_8_is_refused() -> None:
    event = b'{"choices":[{"text":"a\xff"}]}'
    assert "cannot be parsed" in str(decoded(CALL, [[event]]).failure)


@settings(max_examples=1000)
@given(call=CALLS, seed=st.integers(0, 1 << 64))
def test_a_whole_answer_is_what_the_reader_makes_of_all_of_it(call: Call, seed: int) -> None:
    said = Events(seed).answer().encode()
    note(said)
    decoder = Decoder(call, dialect=DIALECT, failures=FAILURES, sent={})
    reader = Reader(call, usage_per_output=DIALECT.continuous_usage)
    chunks = decoder.whole(said)
    expected, failure = read_by(reader, said, whole=True)
    read, tolerant = Outcome([chunks], None, False), Outcome([expected], None, False)
    assert alike(read) == alike(tolerant)
    assert [chunk.served for chunk in chunks] == [chunk.served for chunk in expected]
    assert (decoder.failure is not None) == (failure is not None or reader.lacks_an_end)


def test_usual_whole_answers_are_decoded_by_types() -> None:
    usual = [Events(seed).answer().encode() for seed in range(1000)]
    decoders = [Decoder(CALL, dialect=DIALECT, failures=FAILURES, sent={}) for _ in usual]
    assert sum(decoder._usual_whole(said) is not None for decoder, said in zip(decoders, usual, strict=True)) > 50


def test_details_of_a_usage_are_typed_by_every_spelling() -> None:
    paths = (*spellings.CACHED_TOKENS, *spellings.CACHE_WRITE_TOKENS, *spellings.REASONING_TOKENS)
    for details, typed in (("prompt_tokens_details", _InputDetails), ("completion_tokens_details", _OutputDetails)):
        assert {path[1] for path in paths if path[0] == details} == set(typed.__struct_fields__)


@pytest.mark.parametrize("depth", [300, 300_000])
def test_what_is_nested_deeply_ends_no_process(depth: int) -> None:
    event = b'{"choices":' + b"[" * depth + b"]" * depth + b"}"
    assert "cannot be parsed" in str(decoded(CALL, [[event]]).failure)


def test_what_is_nested_deeply_next_to_a_usage_is_an_error_in_both_ways() -> None:
    event = b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"x":' + b"[" * 300 + b"]" * 300 + b"}}"
    assert "cannot be parsed" in str(decoded(CALL, [[event]]).failure)
    assert alike(decoded(CALL, [[event]])) == alike(read_tolerantly(CALL, [[event]]))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("last", [b'{"error":{"message":"died"}}', b"{", b'{"choices":[{"finish_reason":"abort"}]}'])
def test_an_error_comes_after_what_came_before_it_in_the_same_read(last: bytes, joined: bool) -> None:
    decoder = Decoder(replace(CALL, joined=joined), dialect=DIALECT, failures=FAILURES, sent={})
    one, two = (b'{"choices":[{"text":"%c","token_ids":[1]}]}' % letter for letter in b"ab")
    assert "".join(chunk.text for chunk in decoder.read([one, two, last, one])) == "ab"
    assert isinstance(decoder.failure, StreamBroken)


@pytest.mark.parametrize("joined", [False, True])
def test_a_stream_that_says_no_end_is_broken_and_one_without_a_last_blank_line_is_not(joined: bool) -> None:
    call = replace(CALL, joined=joined)
    for end, failed in (("null", True), ('"stop"', False)):
        decoder = Decoder(call, dialect=DIALECT, failures=FAILURES, sent={})
        events = decoder.cut(b'data: {"choices":[{"text":"a","finish_reason":%s}]}\n' % end.encode())
        assert decoder.read(events) == []
        assert [chunk.text for chunk in decoder.close()] == ["a"]
        assert isinstance(decoder.failure, BackendError) is failed


@pytest.mark.parametrize(("cost", "read"), [("0.5", Decimal("0.5")), ("NaN", None), ("1e999", None), ('"-inf"', None)])
def test_a_cost_is_an_amount_or_nothing(cost: str, read: Decimal | None) -> None:
    event = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":%s}}' % cost.encode()
    assert decoded(CALL, [[event]]).chunks[0] == [Chunk(usage=StageUsage(1, 1), cost_usd=read)]
