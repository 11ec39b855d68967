"""Models' servers that are down, break off, flap or talk nonsense: what the gateway's clients are told, and what stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.fault_server import FAULTS, Answer, FaultServer, raw_server, refused_url

from duet_sdk import AsyncDuetClient, Limit, ToolCall
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.policies import FailurePolicy, Retry

CHAT = "/v1/chat/completions"
SCOPE = "session:anybody/s"
QUESTION: dict[str, Any] = {
    "model": "duet",
    "messages": [{"role": "user", "content": "How many primes are below 60?"}],
    "prompt_cache_key": "s",
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
GOOD = Answer("one two three four")
AGAIN = {429, 502, 503}
"""Statuses that say when to come back."""
pytestmark = pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")


@dataclass
class Served:
    """A gateway with both models at one server."""

    upstream: FaultServer
    gateway: Gateway
    ledger: MemoryLedger

    async def ask(self, *, streamed: bool, **more: Any) -> Conversation:
        """A response, once nothing of it runs any more anywhere."""
        reply = await ask(self.gateway, CHAT, QUESTION | {"stream": streamed} | more)
        await self.upstream.until_idle()
        assert self.gateway.metrics.running == 0
        held = (await self.ledger.balance(SCOPE)).held
        assert (held.reasoner_tokens, held.generator_tokens, held.requests) == (0, 0, 0)
        assert str(self.upstream.port) not in reply.body.decode("utf-8", "replace")
        return reply


@asynccontextmanager
async def served(answer: Answer | Callable[[dict[str, Any]], Answer], **options: Any) -> AsyncIterator[Served]:
    ledger = MemoryLedger()
    await ledger.set_limit(SCOPE, Limit(reasoner_tokens=10**8, generator_tokens=10**8))
    async with FaultServer(answer, models=["r", "g"], context_tokens=10_000) as upstream:
        models = [VllmBackend(name, base_url=upstream.url, read_s=0.3, connect_s=2) for name in "rg"]
        given = {"retry": Retry(attempts=1), "ledger": ledger, "budget": {"deadline_s": 10}} | options
        async with AsyncDuetClient(*models, **given) as duet:
            yield Served(upstream, app(duet), ledger)
        for model in models:
            await model.aclose()


def ends_cleanly(reply: Conversation) -> bool:
    """Whether a response is a whole answer; if not, that it says so in the wire's form and in no other."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        if reply.status == 200:
            assert reply.json["choices"][0]["finish_reason"]
            return True
        told = reply.json["error"]
        assert reply.status in {400, 402, *AGAIN, 504}, reply.body
        assert ("retry-after" in reply.headers) != (reply.headers.get("x-should-retry") == "false")
    elif reply.events[-1] == "[DONE]":
        assert any(choice["finish_reason"] for event in reply.events[:-1] for choice in event["choices"])
        return True
    else:
        told = reply.events[-1]["error"]
        assert not any(choice["finish_reason"] for event in reply.events[:-1] for choice in event["choices"])
    assert set(told) == {"message", "type", "param", "code"}
    assert told["code"] != "internal_error"
    return False


@pytest.mark.parametrize(("stage", "streamed"), [("r", True), ("g", True), ("g", False), ("rg", False)])
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_a_server_does_is_an_answer_or_an_error_of_ours(fault: Any, stage: str, streamed: bool) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return Answer(GOOD.text, fault=fault) if body["model"] in stage else GOOD

    async with served(answer) as pair:
        ends_cleanly(await pair.ask(streamed=streamed))


@pytest.mark.parametrize("fault", ["cut_fin", "cut_rst", "stall_mid_stream", "error_event", "broken_json"])
async def test_a_stream_that_breaks_in_the_answer_never_ends_cleanly(fault: Any) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return Answer(GOOD.text, fault=fault) if body["model"] == "g" else GOOD

    async with served(answer) as pair:
        reply = await pair.ask(streamed=True)
        assert reply.status == 200
        assert not ends_cleanly(reply)
        if fault != "error_event":  # whole answers have none
            assert (await pair.ask(streamed=False)).json["duet"]["served_by"] == "reasoner_fallback"


@pytest.mark.parametrize("fault", ["cut_fin", "cut_rst", "stall_mid_stream"])
async def test_a_stream_that_breaks_in_a_tool_call_never_ends_cleanly(fault: Any) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        call = ToolCall("c1", "look_up", '{"town": "Bern", "day": "to morrow"}')
        return Answer("", tool_calls=(call,), fault=fault, fault_after=1) if body["model"] == "g" else GOOD

    async with served(answer, on_failure="raise") as pair:
        reply = await pair.ask(streamed=True, tools=[TOOL])
        assert not ends_cleanly(reply)


async def test_a_signal_that_breaks_leaves_the_generator() -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return Answer("one two three four", fault="cut_rst") if body["model"] == "r" else GOOD

    async with served(answer) as pair:
        reply = await pair.ask(streamed=True)
        assert ends_cleanly(reply)
        assert reply.events[-2]["duet"]["served_by"] == "generator_fallback"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_server_that_asks_to_wait_is_heard_by_the_client(streamed: bool) -> None:
    async with served(Answer(fault="rate_limited", retry_after="17")) as pair:
        reply = await pair.ask(streamed=streamed)
        assert (reply.status, reply.headers["retry-after"]) == (429, "17")


@pytest.mark.parametrize("fault", ["error_500", "unavailable_503"])
async def test_an_engine_that_fails_is_no_bare_500(fault: Any) -> None:
    async with served(Answer(fault=fault)) as pair:
        reply = await pair.ask(streamed=False)
        assert reply.status in AGAIN
        assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_servers_that_are_down_at_the_start_are_found_when_they_come(streamed: bool) -> None:
    upstream = FaultServer(GOOD, models=["r", "g"])
    await upstream.start()
    await upstream.stop()
    models = [VllmBackend(name, base_url=upstream.url, connect_s=2) for name in "rg"]
    async with AsyncDuetClient(*models, retry=Retry(attempts=1)) as duet:
        gateway = app(duet)
        for _ in range(3):
            reply = await ask(gateway, CHAT, QUESTION | {"stream": streamed})
            assert (reply.status, reply.json["error"]["code"]) == (503, "upstream_unreachable")
            assert int(reply.headers["retry-after"]) >= 1
        await upstream.start(upstream.port)
        for _ in range(2):
            assert ends_cleanly(await ask(gateway, CHAT, QUESTION | {"stream": streamed}))
        await upstream.stop()
        assert (await ask(gateway, CHAT, QUESTION | {"stream": streamed})).status == 503
        await upstream.start(upstream.port)
        assert ends_cleanly(await ask(gateway, CHAT, QUESTION | {"stream": streamed}))
    for model in models:
        await model.aclose()
    await upstream.stop()


async def test_one_that_flaps_is_tried_again_before_anything_is_shown() -> None:
    flapping = [Answer(fault=fault) for fault in ("unavailable_503", "cut_rst")]
    turns = iter([*flapping, GOOD] * 2)
    policy = FailurePolicy(retry=Retry(attempts=3, first_wait_s=0.01))
    async with served(lambda body: next(turns), retry=None, on_failure=policy) as pair:
        reply = await pair.ask(streamed=False)
        assert reply.json["duet"]["served_by"] == "pair"


@pytest.mark.parametrize("nonsense", [b"", b"\0\xff\0", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 999 ?\r\n\r\n"])
async def test_servers_that_speak_no_http_are_told_as_such(nonsense: bytes) -> None:
    async with raw_server(nonsense) as url:
        models = [VllmBackend(name, base_url=url, read_s=0.3, connect_s=2) for name in "rg"]
        async with AsyncDuetClient(*models, retry=Retry(attempts=1), budget={"deadline_s": 10}) as duet:
            reply = await ask(app(duet), CHAT, QUESTION)
        for model in models:
            await model.aclose()
    assert not ends_cleanly(reply)
    assert reply.status in {502, 503}


async def test_a_generator_that_is_down_is_replaced_by_the_reasoner() -> None:
    async with FaultServer(GOOD, models=["r"]) as upstream:
        models = (VllmBackend("r", base_url=upstream.url), VllmBackend("g", base_url=refused_url()))
        async with AsyncDuetClient(*models, retry=Retry(attempts=1)) as duet:
            reply = await ask(app(duet), CHAT, QUESTION)
        for model in models:
            await model.aclose()
    assert reply.json["duet"]["served_by"] == "reasoner_fallback"
