"""Answers of real servers, damaged at random: whatever comes, an answer or an error of ours, soon and in little memory.

The normal run takes two hundred bodies of each kind. ``DUET_FUZZ_BODIES=20000`` takes as many as that.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from support.answers_of_servers import ANSWERS, STREAMS
from support.served import BY_HAND, QUESTION

from duet_sdk.backends.base import Call, Chunk, Thought
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.backends.server.decoding import Decoder
from duet_sdk.backends.server.sse import LineTooLong
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import DuetError
from duet_sdk.policies import Sampling

BODIES = int(os.environ.get("DUET_FUZZ_BODIES", "200"))
LONGEST_S = 0.5
"""Of CPU for one body of a few KiB: a hundred times what one takes."""
MOST_BYTES = 4 << 20
"""Of memory beside the body itself: what it makes is a few objects for each of its fields."""
FAILURES = Failures(backend="vllm", model="m", url="http://127.0.0.1/v1", secrets=("sk-very-secret",))
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        0.0,
        1.5,
        1e30,
        10**18,
        10**40,
        float("nan"),
        float("inf"),
        "",
        " ",
        "0",
        "x",
        "\x00",
    ),
    *(
        "null",
        "[DONE]",
        "data: x",
        "🙂",
        "\ud800",
        "stop",
        "error",
        "9" * 5000,
        "x" * 9000,
        [],
        {},
        [[]],
        [None],
        [{}],
    ),
    *({"type": "text"}, {"text": "a"}, {"index": 0}, [1, 2], [True], {"a": {"b": {"c": []}}}, "{" * 500, "[" * 9000),
)


class Damage:
    """Changes bodies, by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def events(self) -> list[bytes]:
        """The events of a stream of some server, some of them damaged, in another order, or of another server."""
        events = list(self.random.choice(list(STREAMS.values())))
        for _ in range(self.random.randint(0, 3)):
            other = self.random.choice(list(STREAMS.values()) + [[answer] for answer in ANSWERS.values()])
            place = self.random.randrange(len(events) + 1)
            events.insert(place, self.random.choice(other))
        if self.random.random() < 0.2:
            self.random.shuffle(events)
        written = [self.written(event) for event in events]
        if self.random.random() < 0.8:
            written.append(b"[DONE]")
        return written

    def answer(self) -> bytes:
        return self.written(self.random.choice(list(ANSWERS.values())))

    def written(self, value: Any) -> bytes:
        """A value as JSON, with some of its fields changed, and now and then some of its bytes."""
        if self.random.random() < 0.5:
            for _ in range(self.random.choice([1, 1, 2, 4])):
                value = self.changed(value)
        data = json.dumps(value).encode("utf-8", "surrogatepass")
        return self.torn(data) if self.random.random() < 0.15 else data

    def changed(self, value: Any) -> Any:
        """The value with one thing in it replaced, taken away, doubled, wrapped or buried."""
        if isinstance(value, dict) and value and self.random.random() < 0.85:
            name = self.random.choice(list(value))
            changed = {**value, name: self.changed(value[name])}
            if self.random.random() < 0.1:
                del changed[name]
            return changed
        if isinstance(value, list) and value and self.random.random() < 0.85:
            at = self.random.randrange(len(value))
            changed_items = [*value[:at], self.changed(value[at]), *value[at + 1 :]]
            return changed_items * (self.random.choice([2, 300]) if self.random.random() < 0.02 else 1)
        kind = self.random.random()
        if kind < 0.6:
            return self.random.choice(ODD)
        if kind < 0.8:
            return [value]
        for _ in range(self.random.choice([3, 50, 150, 210])):
            value = {"text": value} if kind < 0.9 else [value]
        return value

    def torn(self, data: bytes) -> bytes:
        """The bytes with some of them lost, doubled, or others."""
        at, length = self.random.randrange(len(data)), self.random.randint(1, 30)
        middle = self.random.choice(
            [b"", data[at : at + length] * 2, self.random.randbytes(length), b"\n\n", b"\r", b"{"]
        )
        return data[:at] + middle + data[at + length :]

    def framed(self, events: list[bytes]) -> bytes:
        """The events as a stream: framed by the standard, or not quite."""
        end = self.random.choice([b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\n: comment\n\n"])
        head = self.random.choice(
            [b"data: ", b"data: ", b"data:", b"event: message\ndata: ", b"event: error\ndata: ", b""]
        )
        return b"".join(head + event + end for event in events)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The bytes as the network may cut them."""
        most = self.random.choice([1, 7, 100, 4096, len(data) + 1])
        if most == 1 and len(data) > 20_000:
            most = 50
        at = 0
        while at < len(data):
            length = self.random.randint(1, most)
            yield data[at : at + length]
            at += length


CALLS = st.builds(
    replace,
    st.just(Call(max_tokens=64, messages=QUESTION)),
    n=st.sampled_from([1, 1, 1, 3]),
    joined=st.booleans(),
    thought=st.none() | st.just(Thought((1,), {})),
    sampling=st.sampled_from([Sampling(), Sampling(logprobs=1)]),
)


@contextmanager
def within_bounds(size: int) -> Iterator[None]:
    """Fails where the block takes much time, or much memory for so many bytes."""
    tracemalloc.start()
    begun = time.thread_time()
    try:
        yield
        took_s, (_, peak) = time.thread_time() - begun, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert took_s < LONGEST_S + size * 2e-6
    assert peak < MOST_BYTES + 60 * size


def check(chunks: list[Chunk], call: Call, decoder: Decoder) -> None:
    """What was read is of the promised form, and JSON-ready."""
    assert decoder.failure is None or isinstance(decoder.failure, DuetError)
    assert "sk-very-secret" not in str(decoder.failure)
    for chunk in chunks:
        assert type(chunk.text) is type(chunk.reasoning) is str
        assert 0 <= chunk.index < call.n
        assert chunk.finish_reason in (None, "stop", "length", "tool_calls", "content_filter")
        assert all(type(at) is int for at in chunk.token_ids)
        if (usage := chunk.usage) is not None:
            told = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens)
            assert all(count is None or 0 <= count <= 4 * 10**9 for count in told)
        for delta in chunk.tool_calls:
            assert all(text is None or type(text) is str for text in (delta.id, delta.name, delta.arguments))


@settings(max_examples=BODIES)
@given(call=CALLS, seed=st.integers(0, 1 << 64), is_vllm=st.booleans())
def test_a_damaged_stream_is_read_or_ends_in_an_error_of_ours(call: Call, seed: int, is_vllm: bool) -> None:
    damage = Damage(seed)
    data = damage.framed(damage.events())
    note(data[:4000])
    decoder = Decoder(call, dialect=Dialect(is_vllm, is_vllm), failures=FAILURES, sent={"prompt": "x"})
    chunks: list[Chunk] = []
    with within_bounds(len(data)):
        try:
            for piece in damage.pieces(data):
                chunks += decoder.read(decoder.cut(piece))
                if decoder.done or decoder.failure is not None:
                    break
            if decoder.failure is None:
                chunks += decoder.close()
        except LineTooLong:
            pass  # which the client turns into StreamBroken
    check(chunks, call, decoder)


@settings(max_examples=BODIES)
@given(call=CALLS, seed=st.integers(0, 1 << 64))
def test_a_damaged_answer_is_read_or_ends_in_an_error_of_ours(call: Call, seed: int) -> None:
    damage = Damage(seed)
    data = damage.answer() if damage.random.random() < 0.9 else damage.framed(damage.events())
    note(data[:4000])
    decoder = Decoder(call, dialect=Dialect(), failures=FAILURES, sent={"prompt": "x"})
    with within_bounds(len(data)):
        chunks = decoder.whole(data, kind="application/json")
    check(chunks, call, decoder)


class Damaged:
    """A server that answers with damaged bodies, and counts the connections that are open."""

    def __init__(self, seed: int) -> None:
        self.damage = Damage(seed)
        self.open = 0

    async def __aenter__(self) -> Damaged:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(int(length))
            is_stream, random = self.damage.random.random() < 0.6, self.damage.random
            body = self.damage.framed(self.damage.events()) if is_stream else self.damage.answer()
            kinds = ["text/event-stream"] * 4 + ["application/json", "text/plain", "text/html", "x"]
            kind = random.choice(kinds if is_stream else [*kinds[4:], kinds[0], "application/json"])
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode())
            for piece in self.damage.pieces(body) if len(body) < 2000 else [body]:
                writer.write(piece)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open -= 1


@pytest.mark.parametrize("whole", [False, True])
async def test_over_http_nothing_is_left_open(whole: bool) -> None:
    call = Call(max_tokens=64, messages=QUESTION, whole=whole)
    async with Damaged(seed=17) as server:
        known = {**BY_HAND, "thinking_budget": False}
        backend = VllmBackend("m", base_url=server.url, capabilities=known, context_tokens=4096, read_s=5)
        ended = 0
        for _ in range(max(50, BODIES // 10)):
            try:
                async for _chunks in backend.batches(call):
                    pass
                ended += 1
            except DuetError:
                continue
        assert ended > 5
        await backend.aclose()
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.sleep(0.01)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others
