"""Servers that come back as others, that close idle connections, and that answer to names which they do not list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from support.fault_server import Answer, FaultServer
from support.served import BY_HAND, CALL, QUESTION, chunks_of, served, text_of

from duet_sdk import AsyncDuetClient
from duet_sdk.backends import Call
from duet_sdk.backends.resilience import Breaker
from duet_sdk.backends.server import knowledge
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import Authentication, BackendError, ConnectFailed, ContextOverflow, ModelNotFound, Rejected
from duet_sdk.policies import BreakerPolicy

THINKING = Call(max_tokens=9, messages=QUESTION, thinking=True)


# What is known of a server that has changed.


async def test_a_refusal_that_names_a_field_of_ours_has_the_server_asked_anew_and_the_call_sent_again():
    async with served(thinking=True) as (server, backend):
        await chunks_of(backend, THINKING)
        server.thinking = False  # restarted without --reasoning-parser
        refused = Answer(fault="rejected_400", error="thinking_token_budget is set but reasoning_config is missing")
        server.answer = lambda body: refused if "thinking_token_budget" in body else Answer("one two three")
        assert text_of(await chunks_of(backend, THINKING)) == "one two three"
        assert "thinking_token_budget" not in server.calls[-1]
        assert backend.epoch == 1


async def test_a_window_that_a_refusal_contradicts_is_asked_for_anew():
    async with served() as (server, backend):
        assert (await backend.connect()).context_tokens == 4096
        server.context_tokens = 2048
        server.answer = Answer(fault="overflow_400")  # says 2048
        with pytest.raises(ContextOverflow):
            await chunks_of(backend)
        assert (await backend.connect()).context_tokens == 2048


async def test_a_refusal_that_is_the_callers_fault_has_nothing_asked_anew():
    async with served(Answer(fault="rejected_400")) as (server, backend):
        await backend.connect()
        asked = len(server.seen)
        for _ in range(3):
            with pytest.raises(Rejected):
                await chunks_of(backend)
        assert len(server.seen) == asked + 3


async def test_a_field_that_is_refused_for_ever_doubles_no_work(monkeypatch):
    refused = Answer(fault="rejected_400", error="stream_options is not known here")
    async with served(refused) as (server, backend):
        for _ in range(4):
            with pytest.raises(Rejected):
                await chunks_of(backend)
        assert [seen.path for seen in server.seen].count("/v1/models") == 2
        assert len(server.calls) == 4


async def test_a_broken_connection_has_the_server_asked_anew():
    server = await FaultServer(Answer("one two three")).start()
    backend = VllmBackend("m", base_url=server.url)
    assert (await backend.connect()).context_tokens == 4096
    await server.stop()
    with pytest.raises(ConnectFailed):
        await chunks_of(backend)
    back = await FaultServer(Answer("one two three"), context_tokens=512, vllm=True).start(server.port)
    try:
        assert (await backend.connect()).context_tokens == 512
        assert text_of(await chunks_of(backend)) == "one two three"
    finally:
        await backend.aclose()
        await back.stop()


async def test_facts_are_asked_for_anew_after_some_minutes(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(knowledge, "monotonic", lambda: now)
    async with served() as (server, backend):
        first = await backend.connect()
        now += knowledge.GOOD_S - 1
        assert await backend.connect() is first
        now += 2
        asked = len(server.seen)
        assert await backend.connect() is first  # unchanged: whatever was derived from it is still good
        assert len(server.seen) > asked
        assert backend.epoch == 0
        server.context_tokens = 99
        now += knowledge.GOOD_S + 1
        assert (await backend.connect()).context_tokens == 99
        assert backend.epoch == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_old_facts_hold_where_the_server_does_not_say_new_ones(monkeypatch, status):
    now = 1000.0
    monkeypatch.setattr(knowledge, "monotonic", lambda: now)
    async with served() as (server, backend):
        first = await backend.connect()
        now += knowledge.GOOD_S + 1
        monkeypatch.setattr(server, "key", "another")
        with pytest.raises(Authentication):
            await backend.connect()
        server.key = None

        async def failed(request: object) -> None:
            raise BackendError("unavailable", backend="vllm", model="m", status=status, retryable=True)

        monkeypatch.setattr(backend._server, "ask", failed)
        monkeypatch.setattr(backend._facts, "_asking", type(backend._facts._asking)(lambda: failed(None)))
        assert await backend.connect() is first


async def test_an_unavailable_server_is_asked_anew_when_it_is_back():
    async with served() as (server, backend):
        await backend.connect()
        server.answer = Answer(fault="unavailable_503")
        with pytest.raises(BackendError):
            await chunks_of(backend)
        server.answer, server.context_tokens = Answer("one two three"), 77
        assert (await backend.connect()).context_tokens == 77


async def test_a_pair_goes_on_with_a_generator_that_restarted_without_its_tokenizer():
    async with FaultServer(Answer("17.")) as server:
        endpoint = Endpoint(model="vllm/m", base_url=server.url)
        async with AsyncDuetClient("scripted/17", endpoint, handoff="instruct") as duet:
            await duet.chat("How many?")
            server.vllm = False
            server.answer = [Answer(fault="cut_rst"), Answer("17.")]
            reply = await duet.chat("How many?")
    assert (reply.text, reply.served_by) == ("17.", "pair")


# Names.


async def test_an_alias_that_is_not_listed_is_answered():
    async with served(vllm=False, models=["vendor/m-2026"]) as (server, backend):
        server.aliases = {"m"}
        await backend.connect()
        assert text_of(await chunks_of(backend)) == "one two three"


@pytest.mark.parametrize("vllm", [False, True])
@pytest.mark.parametrize("error", [None, "Invalid model name passed in model=m. Call `/v1/models`", "unknown route"])
async def test_a_name_that_is_refused_lists_those_that_are_served(vllm, error):
    async with served(vllm=vllm, models=["a", "b/c"]) as (server, backend):
        server.answer = Answer(fault="model_404", error=error)
        with pytest.raises(ModelNotFound, match="available: 'a', 'b/c'") as failed:
            await backend.connect()
    assert not failed.value.retryable


async def test_a_model_that_is_gone_names_those_that_have_come():
    async with served(models=["m"]) as (server, backend):
        await chunks_of(backend)
        server.models = ["n"]
        backend._facts._asked -= knowledge._DOUBT_S  # long ago
        with pytest.raises(ModelNotFound, match="available: 'n'"):
            await chunks_of(backend)


async def test_a_wrong_key_is_no_wrong_name():
    async with served(models=["a"], key="right", api_key="right") as (server, backend):

        async def refused(path: str, body: object) -> object:
            if path == "/chat/completions":
                server.key = "other"
            return await ask(path, body)

        ask, backend._server.ask = backend._server.ask, refused
        with pytest.raises(Authentication):
            await backend.connect()


# Connections that the server closed between two requests.


@asynccontextmanager
async def closing_server(*, close_on: int, how: str) -> AsyncIterator[tuple[str, list[int]]]:
    """Answers on kept connections; one closes without a word as its request of that number arrives."""
    requests: list[int] = []
    body = b'{"choices": [{"index": 0, "message": {"content": "17"}, "finish_reason": "stop"}]}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                number += 1
                requests.append(number)
                if number == close_on:
                    if how == "reset":
                        writer.transport.abort()
                    elif how == "late":
                        await asyncio.sleep(0.3)
                    return
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", requests


WHOLE = replace(CALL, whole=True)
KNOWN = {**BY_HAND, "thinking_budget": False}


@pytest.mark.parametrize("how", ["quietly", "reset"])
async def test_a_kept_connection_that_the_server_closed_is_no_failure(how):
    async with closing_server(close_on=2, how=how) as (url, requests):
        backend = Breaker(
            VllmBackend("m", base_url=url, context_tokens=99, capabilities=KNOWN), BreakerPolicy(failures=1)
        )
        texts = [text_of(await chunks_of(backend, WHOLE)) for _ in range(4)]
        await backend.aclose()
    assert texts == ["17"] * 4
    assert requests == [1, 2, 1, 2, 1, 2, 1]


async def test_a_closed_connection_is_neither_an_attempt_nor_charged():
    async with closing_server(close_on=2, how="quietly") as (url, _):
        options = {"capabilities": KNOWN}
        endpoint = Endpoint(model="vllm/m", base_url=url, context_tokens=9999, options=options)
        async with AsyncDuetClient("scripted/17", endpoint) as duet:
            replies = [await duet.chat("How many?", mode="generator") for _ in range(3)]
    assert [len(reply.receipt.attempts) for reply in replies] == [1, 1, 1]
    assert {attempt.error_type for reply in replies for attempt in reply.receipt.attempts} == {None}


@pytest.mark.parametrize(("close_on", "how"), [(1, "quietly"), (1, "reset"), (2, "late")])
async def test_a_connection_that_breaks_over_its_request_is_a_failure(monkeypatch, close_on, how):
    monkeypatch.setattr("duet_sdk.backends.server.http._STALE_S", 0.1)
    async with closing_server(close_on=close_on, how=how) as (url, requests):
        backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities=KNOWN)
        for _ in range(close_on - 1):
            await chunks_of(backend, WHOLE)
        with pytest.raises(BackendError):
            await chunks_of(backend, WHOLE)
        await backend.aclose()
    assert len(requests) == close_on
