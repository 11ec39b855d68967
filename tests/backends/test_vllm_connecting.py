"""What the vLLM backend finds out about a server, its keys, its event loops, its options."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings

import pytest
from pydantic import SecretStr
from support.fault_server import Answer, raw_server, running
from support.served import BY_HAND, QUESTION, chunks_of, last_usage, served, text_of

from duet_sdk.backends import Call
from duet_sdk.backends.connect import connect as connect_by_name
from duet_sdk.backends.server.backend import VllmBackend, connect
from duet_sdk.backends.server.probing import served_window
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import (
    Authentication,
    ConfigError,
    ConnectFailed,
    ModelNotFound,
    Rejected,
)
from duet_sdk.pricing import FREE, GpuHour


async def test_vllm_is_known_by_what_it_answers():
    async with served() as (server, backend):
        can = await backend.connect()
        assert (can.context_tokens, can.prompt_ids, can.switch_thinking, can.strict_tools) == (4096, True, True, True)
        asked = len(server.seen)
        assert await backend.connect() == can
        assert (len(server.seen), server.calls) == (asked, [])


async def test_another_server_can_do_less():
    async with served(vllm=False) as (server, backend):
        can = await backend.connect()
        assert (can.context_tokens, can.prompt_ids, can.switch_thinking, can.tools) == (None, False, False, True)
        assert not can.strict_tools
        chunks = await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, thinking=False))
        assert (await backend.count_tokens(QUESTION), await backend.tokenizer()) == (None, None)
    assert server.calls[0].keys() == {"model", "max_tokens", "stream", "stream_options", "messages"}
    assert server.calls[0]["stream_options"] == {"include_usage": True}
    assert (text_of(chunks), last_usage(chunks).output_tokens) == ("one two three", 3)


@pytest.mark.parametrize("missing", ["/v1/models", "/version", "/tokenize"])
async def test_an_endpoint_that_is_missing_is_no_failure(missing):
    async with served(without=[missing]) as (_, backend):
        can = await backend.connect()
        assert can.prompt_ids
        assert can.context_tokens == (None if missing == "/v1/models" else 4096)
        assert (await backend.count_tokens(QUESTION) is None) == (missing == "/tokenize")


async def test_a_model_that_is_not_served_lists_those_that_are():
    async with served(models=["a", "b/c"]) as (_, backend):
        with pytest.raises(ModelNotFound, match="available: 'a', 'b/c'"):
            await backend.connect()


async def test_a_url_one_level_too_high_is_recognised():
    async with served() as (server, _):
        backend = VllmBackend("m", base_url=server.url.removesuffix("/v1"))
        with pytest.raises(ConnectFailed, match="one level below, at /v1; wrong URL"):
            await backend.connect()
        await backend.aclose()


async def test_a_page_in_place_of_an_api_is_a_wrong_url():
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>") as url:
        backend = VllmBackend("m", base_url=url)
        with pytest.raises(ConnectFailed, match="not JSON; wrong URL"):
            await backend.connect()
        await backend.aclose()


async def test_with_every_capability_set_by_hand_nothing_is_asked():
    async with served(context_tokens=77, capabilities=BY_HAND) as (server, backend):
        can = await backend.connect()
        assert (can.context_tokens, can.prompt_ids) == (77, True)
        assert server.seen == []
        await chunks_of(backend)
    assert "return_token_ids" not in server.calls[0]


async def test_one_capability_set_by_hand_goes_over_what_is_found():
    async with served(capabilities={"token_ids": False, "tools": False}) as (_, backend):
        assert not (await backend.connect()).tools
        chunks = await chunks_of(backend)
    assert [chunk.token_ids for chunk in chunks if chunk.token_ids] == []


async def test_first_connects_at_the_same_time_share_one_probe():
    async with served() as (server, backend):
        await asyncio.gather(*(backend.connect() for _ in range(20)))
        assert [seen.path for seen in server.seen].count("/v1/models") == 1


async def test_a_waiter_that_is_cancelled_does_not_end_the_probe_of_the_others():
    async with served() as (server, backend):
        first = asyncio.create_task(backend.connect())
        second = asyncio.create_task(backend.connect())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).context_tokens == 4096
        assert first.cancelled()
        assert [seen.path for seen in server.seen].count("/v1/models") == 1


async def test_a_probe_that_failed_is_tried_again():
    async with served(key="sk-1", api_key="sk-1") as (server, backend):
        server.key = "another"
        with pytest.raises(Authentication):
            await backend.connect()
        server.key = "sk-1"
        await backend.connect()


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/tokenize"])
async def test_a_server_that_does_not_answer_a_probe_is_not_waited_for_long(path, monkeypatch):
    monkeypatch.setattr("duet_sdk.backends.server.client._ASK_S", 0.2)
    async with served() as (server, backend):
        server.stalled.add(path)
        if path == "/v1/models":
            with pytest.raises(ConnectFailed, match="no response"):
                await backend.connect()
        else:
            assert (await backend.connect()).context_tokens == 4096


async def test_the_key_is_sent_and_never_shown(caplog):
    caplog.set_level(logging.DEBUG)
    for key in ("sk-very-secret", SecretStr("sk-very-secret"), " sk-very-secret\n"):
        async with served(key="sk-very-secret", api_key=key, headers={"X-Org": "org-secret"}) as (server, backend):
            await chunks_of(backend)
            assert server.seen[-1].headers["X-Org"] == "org-secret"
            server.answer = Answer(fault="rejected_400", error="your key sk-very-secret of org-secret is odd")
            with pytest.raises(Rejected) as failed:
                await chunks_of(backend)
            for shown in (str(failed.value), repr(failed.value), repr(backend), caplog.text):
                assert "secret" not in shown


async def test_a_wrong_key_is_an_authentication_error():
    async with served(key="right", api_key="wrong") as (_, backend):
        with pytest.raises(Authentication, match="rejected the API key") as failed:
            await backend.connect()
    assert (failed.value.status, failed.value.retryable) == (401, False)


def test_two_runs_of_asyncio_use_one_backend_without_a_warning():
    with running() as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = VllmBackend("m", base_url=server.url)
        texts = [text_of(asyncio.run(chunks_of(backend))) for _ in range(3)]
        del backend
        gc.collect()
    assert texts == ["one two three"] * 3
    assert [str(warning.message) for warning in caught] == []


def test_a_loop_that_was_closed_carelessly_does_not_harm_the_next():
    with running() as server:
        backend = VllmBackend("m", base_url=server.url)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own, for sockets left open
            for _ in range(2):
                loop = asyncio.new_event_loop()
                assert text_of(loop.run_until_complete(chunks_of(backend))) == "one two three"
                loop.close()
            assert text_of(asyncio.run(chunks_of(backend))) == "one two three"
            gc.collect()


async def test_a_closed_backend_can_be_used_again():
    async with served() as (_, backend):
        await chunks_of(backend)
        await backend.aclose()
        await backend.aclose()
        assert text_of(await chunks_of(backend)) == "one two three"


@pytest.mark.parametrize(
    ("url", "boundary"),
    [
        ("http://127.0.0.1:8000/v1", "local"),
        ("http://localhost:8000/v1", "local"),
        ("http://[::1]:8000/v1", "local"),
        ("http://10.1.2.3/v1", "local"),
        ("http://192.168.0.9:1/v1", "local"),
        ("http://8.8.8.8/v1", "any"),
        ("https://api.example.com/v1", "any"),
        ("http://10.evil.example/v1", "any"),
    ],
)
def test_the_boundary_follows_from_the_address(url, boundary):
    backend = VllmBackend("m", base_url=url)
    assert (backend.boundary, backend.price) == (boundary, FREE if boundary == "local" else None)


def test_boundary_and_price_can_be_set_by_hand():
    assert VllmBackend("m", base_url="https://gpu.example/v1", boundary="local").price == FREE
    own = VllmBackend("m", boundary="eu", price=GpuHour("2"))
    assert (own.boundary, own.price) == ("eu", GpuHour("2"))
    assert VllmBackend("m", boundary="eu").price is None


def test_a_backend_is_made_by_name_and_by_endpoint():
    name, backend = connect_by_name("vllm/org/m@http://10.0.0.1:1/v1")
    assert (name, backend.model, backend.base_url) == ("vllm/org/m", "org/m", "http://10.0.0.1:1/v1")
    endpoint = Endpoint(
        model="vllm/m", base_url="http://10.0.0.1/v1/", api_key="k", options={"read_s": 5, "trust_env": False}
    )
    assert connect_by_name(endpoint)[1].base_url == "http://10.0.0.1/v1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "auto"}, "no option 'dtype'"),
        ({"read_s": "long"}, "option 'read_s' must be of type int or float, got str"),
        ({"read_s": 0}, "read_s must be a number of seconds above 0"),
        ({"connect_s": float("nan")}, "connect_s must be"),
        ({"context_tokens": 0}, "context_tokens must be a whole number"),
        ({"context_tokens": True}, "option 'context_tokens' must be of type int, got bool"),
        ({"base_url": "127.0.0.1:8000"}, "must be an http or https URL"),
        ({"base_url": "http://[::1"}, "must be an http or https URL"),
        ({"base_url": "http://x:99999/v1"}, "must be an http or https URL"),
        ({"base_url": "http://user:sk-secret@x/v1"}, "must not hold a user"),
        ({"base_url": "http://x/v1?key=sk-secret"}, "must not hold a user"),
        ({"api_key": "sk-se\ncret"}, "api_key must be a text without line breaks"),
        ({"headers": {"X": "sk-se\rcret"}}, "header 'X' must be"),
        ({"capabilities": {"magic": True}}, "no capability 'magic'"),
        ({"capabilities": {"tools": "yes"}}, "must be true or false"),
        ({"price": 3}, "option 'price' must be"),
        ({"priority": True}, "option 'priority' must be of type int, got bool"),
        ({"priority": "low"}, "option 'priority' must be of type int, got str"),
    ],
)
def test_an_option_that_cannot_work_is_named(options, message):
    with pytest.raises(ConfigError, match=message) as failed:
        connect("m", options)
    assert "secret" not in str(failed.value)


BASE = {"id": "base", "root": "org/model", "parent": None, "max_model_len": 2048}
ADAPTER = {"id": "gen", "root": "adapters/gen", "parent": "base", "max_model_len": None}


@pytest.mark.parametrize(
    ("cards", "window"),
    [
        ([BASE, ADAPTER], 2048),
        ([ADAPTER, BASE], 2048),
        ([BASE, {**ADAPTER, "max_model_len": 512}], 512),
        ([BASE, {**ADAPTER, "parent": "org/model"}], 2048),  # by the folder that the base was loaded from
        ([BASE, {**ADAPTER, "id": "first"}, {**ADAPTER, "parent": "first"}], 2048),
        ([BASE, {**ADAPTER, "parent": "gone"}], None),
        ([BASE, {**ADAPTER, "parent": None}], None),
        ([BASE, {**ADAPTER, "parent": ["base"]}], None),
        ([BASE, {**ADAPTER, "parent": "gen"}], None),
        ([{**ADAPTER, "id": "a", "parent": "gen"}, {**ADAPTER, "parent": "a"}], None),
        ([{**BASE, "max_model_len": True}, ADAPTER], None),
        ([{**BASE, "max_model_len": -1}, ADAPTER], None),
        ([{"id": "gen", "context_length": 131072}], 131072),
        ([{"id": "gen", "context_window": 8192}], 8192),
        ([{"id": "gen", "max_context_length": 32768}], 32768),
        ([{"id": "gen", "meta": {"n_ctx": 1024, "n_ctx_train": 8192}}], 1024),
        ([{"id": "gen", "meta": None}], None),
        ([{"id": "gen", "meta": [], "max_model_len": "2048"}], None),
    ],
)
def test_the_window_is_what_the_list_gives_the_model_or_that_which_it_adapts(cards, window):
    assert served_window({card["id"]: card for card in cards}, "gen") == window


async def test_an_adapter_has_the_window_of_its_base():
    async with served(cards=[BASE, ADAPTER], model="gen") as (_, backend):
        assert (await backend.connect()).context_tokens == 2048
