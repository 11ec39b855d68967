"""A gateway's request is a span in the caller's trace, with both stages below it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import baggage
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import Gateway, app

CHAT = "/v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "evil=text", "baggage": "evil=text"}


def question(**more: Any) -> dict[str, Any]:
    return {"model": "duet", "messages": [{"role": "user", "content": "question-text"}], **more}


def gateway(generator: Any = "There are 17.") -> Gateway:
    return app(AsyncDuetClient(Scripted("17."), Scripted(generator)))


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_is_joined_to_the_callers_trace(spans: Any, streamed: bool) -> None:
    reply = await ask(gateway(), CHAT, question(stream=streamed), headers=CALLER)
    (server,) = spans.named("POST /v1/chat/completions")
    assert format(server.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == PARENT
    assert spans.root.parent.span_id == server.context.span_id
    assert {span.context.trace_id for span in spans.all} == {server.context.trace_id}
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "duet.receipt": reply.headers["x-duet-receipt"],
        "duet.ended": "complete",
        "gen_ai.request.model": "duet",
    }
    assert "evil" not in spans.written()
    assert not server.context.trace_state
    assert not baggage.get_all()


@pytest.mark.parametrize(
    "wrong", ["", "00-zz", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01\xff", "x" * 9000]
)
async def test_a_traceparent_that_is_none_is_read_over(spans: Any, wrong: str) -> None:
    reply = await ask(gateway(), CHAT, question(), headers={"traceparent": wrong})
    assert reply.status == 200
    (server,) = spans.named("POST")
    assert server.parent is None


async def test_a_client_that_leaves_ends_its_span(spans: Any) -> None:
    talk = Conversation(gateway(Script("a b c d", stall_after=2)), CHAT, question(stream=True))
    await talk.until(b'"content":"a')
    talk.leave()
    await talk.task
    (server,) = spans.named("POST")
    assert (server.attributes["http.response.status_code"], server.attributes["duet.ended"]) == (499, "left")


async def test_no_span_is_made_for_probes(spans: Any) -> None:
    await ask(gateway(), "/health")
    assert spans.all == []


async def test_without_a_provider_there_is_no_trace() -> None:
    assert (await ask(gateway(), CHAT, question(), headers=CALLER)).status == 200
