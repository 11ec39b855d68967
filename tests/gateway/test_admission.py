"""What a request passes before it is read: limits a minute by key and session, places and the line, its time."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient, LedgerError
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway_key import GatewayKey
from duet_sdk.gateway_policy import GatewayPolicy

CHAT = "/v1/chat/completions"
QUESTION = {"model": "duet", "messages": [{"role": "user", "content": "How many?"}]}
BEARER = {"x-api-key": "secret"}
STALLS = Script("a b c d e f", stall_after=2)


def key(value: str = "secret", **rights: Any) -> GatewayKey:
    return GatewayKey("a", sha256=hashlib.sha256(value.encode()).hexdigest(), **rights)


def gateway(*keys: GatewayKey, generator: Any = "There are 17.", **policy: Any) -> Gateway:
    models = [one if isinstance(one, Scripted) else Scripted(one) for one in ("17.", generator)]
    return app(AsyncDuetClient(*models), policy=GatewayPolicy(keys=keys, **policy))


async def waiting(served: Gateway, count: int) -> None:
    """Until so many wait."""
    while True:
        text = (await ask(served, "/metrics", headers=BEARER)).body.decode()
        if f"duet_gateway_requests_waiting {count}\n" in text:
            return
        await asyncio.sleep(0)


def limited(reply: Conversation) -> str:
    """What a 429 says, if it is one as clients read it."""
    assert reply.status == 429
    assert reply.json["error"]["type"] == "rate_limit_error"
    assert int(reply.headers["retry-after"]) >= 1
    assert "x-should-retry" not in reply.headers
    return str(reply.json["error"]["message"])


async def test_requests_a_minute_of_a_key_are_refused_before_their_body_is_read() -> None:
    served = gateway(key(requests_per_minute=2), key("other", requests_per_minute=1))
    for _ in range(2):
        assert (await ask(served, CHAT, QUESTION, headers=BEARER)).status == 200
    said = limited(await ask(served, CHAT, b"no JSON", headers=BEARER))
    assert said.startswith("this key may begin 2 requests a minute: come back in ")
    assert (await ask(served, CHAT, QUESTION, headers={"x-api-key": "other"})).status == 200
    assert (await ask(served, "/v1/models", headers=BEARER)).status == 200


async def test_a_refusal_does_not_wait_for_the_body() -> None:
    served = gateway(key(requests_per_minute=1))
    await ask(served, CHAT, QUESTION, headers=BEARER)
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-api-key", b"secret"), (b"content-type", b"application/json")]
    await served({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
    assert sent[0]["status"] == 429


async def test_tokens_of_both_stages_count_and_what_is_owed_is_waited_for() -> None:
    spent = Scripted(Script("There are 17.", billed=5000))
    served = gateway(key(tokens_per_minute=2000), generator=spent)
    assert (await ask(served, CHAT, QUESTION, headers=BEARER)).status == 200
    reply = await ask(served, CHAT, QUESTION, headers=BEARER)
    assert "this key may use 2000 tokens a minute" in limited(reply)
    assert int(reply.headers["retry-after"]) > 60  # more than a minute's tokens are owed


async def test_a_request_that_was_wrong_takes_no_tokens() -> None:
    served = gateway(key(tokens_per_minute=1000))
    for _ in range(5):
        assert (await ask(served, CHAT, b"no JSON", headers=BEARER)).status == 400
        assert (await ask(served, CHAT, {"model": "no"}, headers=BEARER)).status == 404
    assert (await ask(served, CHAT, QUESTION, headers=BEARER)).status == 200


async def test_requests_hold_tokens_while_they_run() -> None:
    served = gateway(key(tokens_per_minute=2500), generator=Scripted(STALLS))
    talks = [Conversation(served, CHAT, QUESTION | {"stream": True}, headers=BEARER) for _ in range(2)]
    for talk in talks:
        await talk.until(b'"content":"a')
    limited(await ask(served, CHAT, QUESTION, headers=BEARER))
    for talk in talks:
        talk.leave()
        await talk.task
    limited(await ask(served, CHAT, QUESTION, headers=BEARER))  # who leaves pays what was held


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_session_that_loops_is_slowed_down_and_no_other(by_header: bool) -> None:
    served = gateway(key(session_requests_per_minute=2))

    async def turn(session: str) -> Conversation:
        if by_header:
            return await ask(served, CHAT, QUESTION, headers=BEARER | {"session-id": session})
        return await ask(served, CHAT, QUESTION | {"prompt_cache_key": session}, headers=BEARER)

    for _ in range(2):
        assert (await turn("one")).status == 200
    assert "a session may begin 2 requests a minute" in limited(await turn("one"))
    assert (await turn("two")).status == 200


async def test_sessions_are_limited_without_keys_and_by_default() -> None:
    assert GatewayPolicy().session_requests_per_minute == 240
    served = gateway(session_requests_per_minute=1)
    headers = {"x-session-id": "one"}
    assert (await ask(served, CHAT, QUESTION, headers=headers)).status == 200
    limited(await ask(served, CHAT, QUESTION, headers=headers))


async def test_a_full_line_is_a_429_at_once_and_a_place_goes_to_who_waits() -> None:
    generator = Scripted(STALLS, "There are 17.")
    served = gateway(key(), generator=generator, at_once=1, queue=1)
    running = Conversation(served, CHAT, QUESTION | {"stream": True}, headers=BEARER)
    await running.until(b'"content":"a')
    queued = Conversation(served, CHAT, QUESTION, headers=BEARER)
    await waiting(served, 1)
    reply = await ask(served, CHAT, b"no JSON", headers=BEARER)
    assert limited(reply) == "too many requests are waiting here: come back in 1 s"
    assert reply.json["error"]["code"] == "overloaded"
    running.leave()
    await running.task
    await queued.task
    assert queued.status == 200
    await waiting(served, 0)


async def test_who_waits_too_long_gets_a_429() -> None:
    served = gateway(generator=Scripted(STALLS), at_once=1, queue_s=0.01)
    running = Conversation(served, CHAT, QUESTION | {"stream": True})
    await running.until(b'"content":"a')
    limited(await ask(served, CHAT, QUESTION | {"stream": True}))
    running.leave()
    await running.task


async def test_a_client_that_leaves_while_it_waits_leaves_the_line_and_costs_nothing() -> None:
    generator = Scripted(STALLS)
    served = gateway(key(), generator=generator, at_once=1)
    running = Conversation(served, CHAT, QUESTION | {"stream": True}, headers=BEARER)
    await running.until(b'"content":"a')
    queued = Conversation(served, CHAT, QUESTION, headers=BEARER)
    await waiting(served, 1)
    queued.leave()
    await queued.task
    assert queued.pieces == []
    await waiting(served, 0)
    running.leave()
    await running.task
    assert len(generator.calls) == 1
    assert served.metrics.text().count('status="499"} 1') == 2  # one had no model's name yet


async def test_keys_take_turns_and_a_higher_class_goes_first() -> None:
    order: list[str] = []

    def answer(call: Any) -> Script:
        order.append(call.messages[-1].text if call.messages else "?")
        return Script("x")

    first = Scripted(STALLS, *[answer] * 8)
    served = gateway(
        key("one"), key("two"), key("high", priority="high"), generator=first, at_once=1, modes=("generator",)
    )

    def come(value: str) -> Conversation:
        body = {"model": "duet/generator", "messages": [{"role": "user", "content": value}], "stream": True}
        return Conversation(served, CHAT, body, headers={"x-api-key": value})

    running = come("one")
    await running.until(b'"content":"a')
    talks = []
    for count, value in enumerate(("one", "one", "one", "two", "high"), 1):
        talks.append(come(value))
        while served.admission.line.waiting != count:
            await asyncio.sleep(0)
    running.leave()
    await asyncio.gather(running.task, *[talk.task for talk in talks])
    assert order == ["high", "one", "two", "one", "one"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_that_takes_too_long_ends_with_a_504(streamed: bool) -> None:
    generator = Scripted(STALLS)
    served = gateway(generator=generator, deadline_s=0.2)
    reply = await ask(served, CHAT, QUESTION | {"stream": streamed})
    error = (reply.events[-1] if streamed else reply.json)["error"]
    assert error["code"] == "deadline_exceeded"
    assert reply.status == (200 if streamed else 504)
    assert generator.open_calls == 0


async def test_a_body_that_does_not_come_ends_at_the_deadline() -> None:
    served, sent = gateway(deadline_s=0.05), list[Any]()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    await served({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
    assert sent[0]["status"] == 504


async def test_histories_and_depths_are_bounded() -> None:
    served = gateway(most_messages=2, most_depth=5)
    turn = QUESTION["messages"][0]
    reply = await ask(served, CHAT, {"model": "duet", "messages": [turn] * 3})
    assert (reply.status, reply.json["error"]["code"]) == (400, "too_many_messages")
    deep: Any = {"x": [{"y": [{}]}]}
    assert (await ask(served, CHAT, QUESTION | {"metadata": deep["x"]})).status == 200
    reply = await ask(served, CHAT, QUESTION | {"metadata": deep})
    assert (reply.status, reply.json["error"]["code"]) == (400, "too_deep")


async def test_limits_whose_store_is_gone_are_a_503_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    served = gateway(key(requests_per_minute=1))

    async def gone(*_: object) -> None:
        raise LedgerError("10.1.2.3 is gone")

    monkeypatch.setattr(served.admission.rates, "take", gone)
    reply = await ask(served, CHAT, QUESTION, headers=BEARER)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert "10.1.2.3" not in reply.body.decode()
    assert served.admission.line.running == 0
