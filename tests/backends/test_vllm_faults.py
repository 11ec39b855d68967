"""What servers do wrong, and callers who leave: the vLLM backend's errors, and requests that end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from support.certificates import self_signed
from support.fault_server import FAULTS, Answer, FaultServer, raw_server, refused_url, running
from support.served import BY_HAND, CALL, QUESTION, chunks_of, last_usage, served, text_of

from duet_sdk.backends import Call
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContentFiltered,
    ContextOverflow,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
    StreamBroken,
)


async def test_closing_the_stream_aborts_the_request():
    async with served(Answer("one two three", fault="stall_mid_stream")) as (server, backend):
        async with aclosing(backend.stream(CALL)) as stream:
            async for chunk in stream:
                if chunk.text:
                    break
            assert server.open == 1
        await server.until_idle()
        assert server.aborted == 1


@pytest.mark.parametrize("fault", ["stall_before_headers", "stall_mid_stream"])
@pytest.mark.parametrize("whole", [False, True])
async def test_cancelling_the_task_aborts_the_request(fault, whole):
    async with served(Answer(fault=fault)) as (server, backend):
        task = asyncio.create_task(chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=whole)))
        await server.until(lambda: server.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until_idle()
        assert server.aborted == 1


async def test_an_endless_stream_ends_when_the_reader_leaves():
    async with served(Answer("one two three", fault="endless")) as (server, backend):
        async with aclosing(backend.stream(CALL)) as stream:
            seen = 0
            async for chunk in stream:
                seen += bool(chunk.text)
                if seen == 200:
                    break
        await server.until_idle()
        assert server.aborted == 1


REFUSALS = {
    "rate_limited": RateLimited,
    "error_500": BackendError,
    "unavailable_503": BackendError,
    "unauthorized_401": Authentication,
    "rejected_400": Rejected,
    "overflow_400": ContextOverflow,
    "payment_402": QuotaExceeded,
    "quota_429": QuotaExceeded,
    "filter_400": ContentFiltered,
    "key_400": Authentication,
    "error_200": BackendError,
    "model_404": ModelNotFound,
    "nothing_404": ConnectFailed,
    "redirect_307": ConnectFailed,
    "stall_before_headers": ConnectFailed,
    "html": StreamBroken,
    "cut_fin": StreamBroken,
    "cut_rst": StreamBroken,
    "stall_mid_stream": StreamBroken,
    "broken_json": StreamBroken,
}
STREAM_FAULTS = REFUSALS | {
    "broken_sse": StreamBroken,
    "error_event": StreamBroken,
    "no_finish": StreamBroken,
    "giant_line": StreamBroken,
}
HARMLESS = {
    "no_usage": "one two three",
    "wrong_usage": "one two three",
    "no_done": "one two three",
    "slow_drip": "one two three",
    "wrong_content_type": "one two three",
    "odd_sse": "one two three",
    "duplicate_chunks": "oneone two two three three",
    "ignored_max_tokens": "one two threeone two threeone",
}


ODDLY_SAID = {
    # What of it is the answer, the stage that answers finds out.
    "empty_answer": "",
    "only_thinking": "",
    "answer_as_thinking": "",
    "open_thought": "I count.\n</think>\n\none two three",
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_has_its_error(fault, whole):
    call = Call(max_tokens=4, messages=QUESTION, whole=whole)
    expected = (REFUSALS if whole else STREAM_FAULTS).get(fault)
    if fault == "endless" and not whole:
        pytest.skip("ends by the reader alone: see above")
    async with served(Answer(fault=fault), read_s=0.3) as (server, backend):
        if expected is None:
            text = text_of(await chunks_of(backend, call))
            said = ODDLY_SAID.get(fault, "one two three")
            assert text.startswith(said if whole else HARMLESS.get(fault, said))
        else:
            with pytest.raises(expected) as failed:
                await chunks_of(backend, call)
            assert type(failed.value) is expected
            assert "primes" not in str(failed.value)
        await server.until_idle()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
KNOWN = {**BY_HAND, "thinking_budget": False}


def piece(text: str, finish: str | None = None) -> bytes:
    """One event in an HTTP chunk of its own."""
    event = b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


END = piece("two", "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@asynccontextmanager
async def written_by(write: Callable[[asyncio.StreamWriter], Awaitable[None]]):
    """A backend with short patience, for a server that writes by this function until its client leaves."""
    served = []

    async def serve(reader, writer):
        served.append(asyncio.current_task())
        await reader.read(1 << 16)
        await write(writer)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities=KNOWN, read_s=0.2)
    async with server:
        try:
            yield backend
        finally:
            await backend.aclose()
            await asyncio.gather(*served)


async def test_a_reader_who_takes_his_time_is_not_the_silence_of_the_server():
    is_read = asyncio.Event()

    async def write(writer):
        writer.write(HEAD + piece("one "))
        await is_read.wait()
        writer.write(END)

    texts = []
    async with written_by(write) as backend, aclosing(backend.stream(CALL)) as stream:
        async for chunk in stream:
            texts.append(chunk.text)
            await asyncio.sleep(0.5)  # longer than read_s
            is_read.set()
    assert "".join(texts) == "one two"


async def test_the_silence_of_a_server_is_measured_from_its_last_piece():
    async def write(writer):
        writer.write(HEAD)
        for _ in range(5):
            writer.write(piece("one "))
            await asyncio.sleep(0.1)  # half of read_s

    texts = []
    async with written_by(write) as backend, aclosing(backend.stream(CALL)) as stream:
        with pytest.raises(StreamBroken, match="nothing more arrived within read_s"):
            async for chunk in stream:
                texts.append(chunk.text)  # noqa: PERF401 — what came before the error is kept
    assert "".join(texts) == "one " * 5


async def test_a_connection_that_held_a_stream_waits_no_longer_for_the_next_headers():
    connections = []

    async def write(writer):
        connections.append(writer)
        writer.write(HEAD + END)  # to the first request; nobody answers the second

    async with written_by(write) as backend:
        assert text_of(await chunks_of(backend)) == "two"
        async with asyncio.timeout(5):
            with pytest.raises(ConnectFailed, match="got no response within read_s"):
                await chunks_of(backend)
    assert len(connections) == 1


async def test_what_was_written_before_a_fault_has_arrived():
    async with served(Answer("one two three", fault="error_event")) as (_, backend):
        written: list[str] = []

        async def read() -> None:
            async with aclosing(backend.stream(CALL)) as stream:
                async for chunk in stream:
                    written.append(chunk.text)  # noqa: PERF401 — what came before the error is kept

        with pytest.raises(StreamBroken, match="ended its response with an error: the engine died") as failed:
            await read()
    assert ("".join(written), failed.value.status) == ("one two", 500)


async def test_a_limit_that_is_ignored_is_ten_times_over_in_the_usage():
    async with served(Answer(fault="ignored_max_tokens")) as (_, backend):
        for whole in (False, True):
            chunks = await chunks_of(backend, Call(max_tokens=4, messages=QUESTION, whole=whole))
            assert last_usage(chunks).output_tokens == 40


async def test_a_refused_connection_is_retryable_and_names_the_url():
    backend = VllmBackend("m", base_url=(url := refused_url()))
    with pytest.raises(ConnectFailed, match=f"at {url}: could not connect .*is the server running") as failed:
        await backend.connect()
    assert (failed.value.retryable, failed.value.backend, failed.value.model) == (True, "vllm", "m")
    await backend.aclose()


async def test_tls_to_a_server_without_it_says_so():
    async with served() as (server, _):
        backend = VllmBackend("m", base_url=server.url.replace("http:", "https:"))
        with pytest.raises(ConnectFailed, match="TLS"):
            await backend.connect()
        await backend.aclose()


async def test_a_certificate_of_an_unknown_authority_is_not_accepted_and_not_tried_again():
    async with FaultServer(tls=self_signed()) as server:
        backend = VllmBackend("m", base_url=server.url, api_key="sk-secret-key")
        with pytest.raises(ConnectFailed, match=r"rejected \(unable to get local issuer.*SSL_CERT_FILE") as failed:
            await backend.connect()
        await backend.aclose()
        assert server.seen == []  # no key, no prompt has left
    assert (failed.value.retryable, failed.value.status) == (False, None)
    assert "secret" not in f"{failed.value}{failed.value.__cause__!r}"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"name": "elsewhere.example"}, "IP address mismatch"), ({"expired": True}, "certificate has expired")],
)
def test_an_own_authority_is_accepted_by_its_file_but_no_other_name_and_no_old_certificate(tmp_path, options, words):
    authority = tmp_path / "authority.pem"

    def connecting(**made):
        with running(tls=self_signed(authority=authority, **made)) as server:
            script = (
                "import asyncio; from duet_sdk.backends.server.backend import VllmBackend; "
                f"print(asyncio.run(VllmBackend('m', base_url={server.url!r}).connect()).context_tokens)"
            )
            env = {**os.environ, "SSL_CERT_FILE": str(authority)}
            return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert connecting().stdout == "4096\n"
    assert words in connecting(**options).stderr


async def test_what_is_no_http_is_no_server():
    async with raw_server(b"220 mail.example ESMTP\r\n") as url:
        backend = VllmBackend("m", base_url=url, api_key="sk-secret-key")
        with pytest.raises(ConnectFailed, match="not HTTP") as failed:
            await backend.connect()
        await backend.aclose()
    assert failed.value.__cause__ is None  # it would hold the request's headers


async def test_an_unknown_host_is_said_to_be_unknown(monkeypatch):
    async def nobody(*args: object, **options: object) -> Any:
        raise OSError("not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody)
    backend = VllmBackend("m", base_url="http://nobody.invalid/v1")
    with pytest.raises(ConnectFailed, match="the host name is unknown"):
        await backend.connect()
    await backend.aclose()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("1.5", 1.5), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), (None, None), ("-3", None)],
)
@pytest.mark.parametrize("fault", ["rate_limited", "unavailable_503"])
async def test_retry_after_is_read_in_both_of_its_forms(fault, header, seconds):
    async with served(Answer(fault=fault, retry_after=header)) as (_, backend):
        with pytest.raises(BackendError) as failed:
            await chunks_of(backend)
    assert (failed.value.retry_after, failed.value.retryable) == (seconds, True)


async def test_an_overflow_has_the_servers_numbers():
    async with served(Answer(fault="overflow_400")) as (_, backend):
        with pytest.raises(ContextOverflow, match="maximum context length is 2048") as failed:
            await chunks_of(backend)
    assert (failed.value.context_tokens, failed.value.needed_tokens) == (2048, 3000 + 64)


@pytest.mark.parametrize(
    ("words", "window", "needed"),
    [
        ("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens.", 2048, 64),
        ("This model's maximum context length is 4097 tokens. However, you requested 5000 tokens", 4097, 5000),
        ("the request exceeds the available context size (512 tokens), try increasing it", 512, 64),
    ],
)
async def test_overflows_of_other_servers_are_known_too(words, window, needed):
    async with served(Answer(fault="overflow_400", error=words)) as (_, backend):
        with pytest.raises(ContextOverflow) as failed:
            await chunks_of(backend)
    assert (failed.value.context_tokens, failed.value.needed_tokens) == (window, needed)


@pytest.mark.parametrize(("code", "expected"), [(400, Rejected), (429, RateLimited), (500, BackendError)])
async def test_an_error_inside_a_stream_that_has_not_begun_keeps_its_kind(code, expected):
    event = json.dumps({"error": {"message": "no", "code": code}}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + event + b"\n\n"
    async with raw_server(answer) as url:
        backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities=BY_HAND)
        with pytest.raises(expected) as failed:
            await chunks_of(backend)
        await backend.aclose()
    assert type(failed.value) is expected
