"""What `read_s` bounds is progress, and servers that stop while somebody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from support.served import BY_HAND, CALL, QUESTION, chunks_of, text_of

from duet_sdk.backends import Call
from duet_sdk.backends.server import http, pulse
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import BackendError, ConnectFailed, StreamBroken

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
KNOWN = {**BY_HAND, "thinking_budget": False}
Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def event(delta: dict[str, object], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: %s\n\n" % json.dumps({"choices": [choice], **more}).encode()


class Stub:
    """A server that writes by hand; `listening` can be closed while its connections stay open."""

    def __init__(self, write: Write, health: bytes | None) -> None:
        self.write, self.health = write, health
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (await reader.read(1 << 16)).startswith(b"GET /health"):
                writer.write(self.health or b"")
                return
            self.asked += 1
            await self.write(writer)
            await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def written_by(
    write: Write, *, health: bytes | None = None, vllm: bool = False, **options: float
) -> AsyncIterator[tuple[Stub, VllmBackend]]:
    stub = Stub(write, health)
    stub.listening = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{stub.listening.sockets[0].getsockname()[1]}/v1"
    backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities=KNOWN, **options)
    await backend.connect()
    backend._server.pulse.ends_at_once = vllm
    try:
        yield stub, backend
    finally:
        await backend.aclose()
        stub.listening.close()


def again_and_again(said: bytes | Callable[[int], bytes], *, first: bytes = b"") -> Write:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + first)
        for at in range(400):
            writer.write(said(at) if callable(said) else said)
            await writer.drain()
            await asyncio.sleep(0.02)

    return write


NO_PROGRESS = {
    "comments": b": keep-alive\n\n",
    "blank lines": b"\n",
    "events without data": b"event: ping\n\n",
    "empty texts": event({"content": ""}),
    "roles": event({"role": "assistant"}),
    "nothing at all": event({}),
    "null": event({"content": None, "reasoning_content": None}),
    "usage that stands still": b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}\n\n',
    "calls without a word": event({"tool_calls": [{"index": 0, "id": "c", "function": {"arguments": ""}}]}),
    "a line that never ends": b"data: ",
}


@pytest.mark.parametrize("said", NO_PROGRESS.values(), ids=NO_PROGRESS)
@pytest.mark.parametrize("first", [b"", event({"content": "one "})], ids=["from the start", "after a piece"])
async def test_a_stream_that_is_only_kept_alive_ends_after_read_s(said, first):
    async with written_by(again_and_again(said, first=first), read_s=0.3) as (_, backend), asyncio.timeout(5):
        with pytest.raises(StreamBroken, match="nothing more arrived within read_s"):
            await chunks_of(backend)


@pytest.mark.parametrize(
    "said",
    [
        event({"content": " "}),
        event({"reasoning": "hm"}),
        event({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}),
        lambda at: event({}, usage={"prompt_tokens": 3, "completion_tokens": at}),
    ],
    ids=["blanks", "thoughts", "a call", "growing usage"],
)
async def test_a_slow_stream_that_goes_on_is_waited_for(said):
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for at in range(8):
            writer.write(said(at + 1) if callable(said) else said)
            await asyncio.sleep(0.15)
        writer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "17"}, "finish_reason": "stop"}]}\n\n')
        writer.write(b"data: [DONE]\n\n")

    async with written_by(write, read_s=0.6) as (_, backend):
        assert text_of(await chunks_of(backend)).strip() == "17"


async def test_a_whole_answer_that_is_only_kept_alive_ends_after_read_s():
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.replace(b"text/event-stream", b"application/json"))
        for _ in range(400):
            writer.write(b"\n")  # as DeepSeek does while a request waits
            await asyncio.sleep(0.02)

    async with written_by(write, read_s=0.3) as (_, backend), asyncio.timeout(5):
        with pytest.raises(StreamBroken, match="nothing more arrived within read_s"):
            await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=True))


async def test_an_error_that_drips_in_is_not_waited_for_long():
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 X\r\nconnection: close\r\n\r\n")
        for _ in range(400):
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with written_by(write, read_s=0.3) as (_, backend), asyncio.timeout(5):
        with pytest.raises(BackendError) as failed:
            await chunks_of(backend)
    assert failed.value.status == 503


# Servers that stop.


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (http, pulse):
        monkeypatch.setattr(module, "FIRST_LOOK_S", 0.1)
        monkeypatch.setattr(module, "FIRST_LOOK_UNBEGUN_S", 0.1)
    monkeypatch.setattr(pulse, "_AGAIN_S", 0.05)


def silent(stub_of: Callable[[], Stub], *, begun: bytes, closes: bool) -> Write:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        if closes:
            stub_of().listening.close()

    return write


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("vllm", [False, True])
async def test_a_silent_stream_of_a_server_that_takes_no_connections_is_given_up(vllm):
    begun = HEAD + event({"content": "one "})
    stub: Stub
    write = silent(lambda: stub, begun=begun, closes=True)
    async with written_by(write, vllm=vllm, read_s=60) as (stub, backend), asyncio.timeout(10):
        with pytest.raises(StreamBroken, match="silent and accepts no new connections, so it has stopped") as failed:
            await chunks_of(backend)
        assert failed.value.retryable
        with pytest.raises(ConnectFailed):
            await chunks_of(backend)  # what was known of it is no longer believed


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("whole", [False, True])
async def test_an_answer_of_a_stopped_vllm_that_has_not_begun_is_given_up(whole):
    stub: Stub
    write = silent(lambda: stub, begun=b"", closes=True)
    async with written_by(write, vllm=True, read_s=60) as (stub, backend), asyncio.timeout(10):
        with pytest.raises(StreamBroken, match="so it has stopped"):
            await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=whole))


@pytest.mark.usefixtures("_soon")
async def test_a_vllm_whose_engine_is_dead_is_known_by_its_health():
    begun = HEAD + event({"content": "one "})
    dead = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    write = silent(lambda: None, begun=begun, closes=False)
    async with written_by(write, vllm=True, health=dead, read_s=60) as (_, backend), asyncio.timeout(10):
        with pytest.raises(StreamBroken, match="so it has stopped"):
            await chunks_of(backend)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("vllm", "health", "begun"),
    [
        (True, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", HEAD + event({"content": "one "})),
        (True, None, HEAD + event({"content": "one "})),
        (False, None, HEAD + event({"content": "one "})),
        (False, None, b""),
    ],
    ids=["well", "health without an answer", "no vLLM", "not begun"],
)
async def test_a_silent_server_that_takes_connections_is_waited_for(vllm, health, begun):
    write = silent(lambda: None, begun=begun, closes=False)
    async with written_by(write, vllm=vllm, health=health, read_s=1.0) as (_, backend), asyncio.timeout(10):
        with pytest.raises(BackendError, match="within read_s"):
            await chunks_of(backend)


@pytest.mark.usefixtures("_soon")
async def test_a_server_that_finishes_what_it_has_begun_may_stop_listening():
    stub: Stub

    async def write(writer: asyncio.StreamWriter) -> None:
        stub.listening.close()
        writer.write(HEAD)
        await asyncio.sleep(0.5)  # it is no vLLM, so that a long prompt may be the reason
        writer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "17"}, "finish_reason": "stop"}]}\n\n')
        writer.write(b"data: [DONE]\n\n")

    async with written_by(write, read_s=60) as (stub, backend):
        assert text_of(await chunks_of(backend)) == "17"


@pytest.mark.usefixtures("_soon")
async def test_many_silent_streams_share_one_look_at_their_server():
    looks = 0

    async def refuses() -> bool:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.02)
        return False

    begun = HEAD + event({"content": "one "})
    write = silent(lambda: None, begun=begun, closes=False)
    async with written_by(write, read_s=0.5) as (_, backend):
        backend._server.pulse._refuses = refuses
        streams = (chunks_of(backend, CALL) for _ in range(50))
        failed = await asyncio.gather(*streams, return_exceptions=True)
    assert {type(error) for error in failed} == {StreamBroken}
    assert 1 <= looks <= 10
