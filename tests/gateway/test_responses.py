"""OpenAI's Responses through a pair, whole and streamed, as clients of the protocol send and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.response_events import events, whole_of

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

RESPONSES = "/v1/responses"
USER = {"role": "user", "content": "How many primes are below 60?"}
QUESTION: dict[str, Any] = {"model": "duet", "input": "How many primes are below 60?"}
TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
CALLING = Script("", tool_calls=(ToolCall("c1", "look_up", '{"town":"Bern"}'),))
SHOWN = GatewayPolicy(signal_field="both")
WITH_SUMMARY = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
CALL = {"call_id": "call_1", "name": "tool_0", "arguments": "{}"}
DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
BEARER = {"authorization": "Bearer secret"}
FIXTURES = sorted(
    path
    for path in (Path(__file__).parent / "fixtures").glob("*.json")
    if json.loads(path.read_text(encoding="utf-8"))["path"] == RESPONSES
)


def gateway(
    reasoner: Any = "17 of them.",
    generator: Any = "There are 17 primes.",
    policy: GatewayPolicy | None = None,
    **options: Any,
) -> Gateway:
    models = [one if isinstance(one, Scripted) else Scripted(one) for one in (reasoner, generator)]
    return app(AsyncDuetClient(*models, **options), policy=policy)


def with_key(**rights: Any) -> GatewayPolicy:
    """A policy whose one key is "secret"."""
    return GatewayPolicy(keys=(GatewayKey("a", sha256=DIGEST, **rights),), signal_field="both")


async def response_to(served: Gateway, body: dict[str, Any], *, streamed: bool) -> tuple[Conversation, dict[str, Any]]:
    """An answer that is complete, and its response."""
    reply = await ask(served, RESPONSES, body | {"stream": streamed})
    assert reply.status == 200, reply.body
    return reply, whole_of(events(reply)) if streamed else reply.json


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_response_has_text_usage_and_receipt(streamed: bool) -> None:
    reply, response = await response_to(gateway(), QUESTION | {"metadata": {"a": "b"}}, streamed=streamed)
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "duet")
    assert response["created_at"] > 0
    assert text_of(response) == "There are 17 primes."
    usage = response["usage"]
    assert usage["output_tokens"] == 7
    assert usage["output_tokens_details"] == {"reasoning_tokens": 3}
    assert usage["input_tokens_details"] == {"cached_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + 7
    assert response["metadata"] == {"a": "b"}
    assert response["duet"]["receipt"] == reply.headers["x-duet-receipt"]


async def test_a_streams_events_come_in_the_order_that_clients_demand() -> None:
    reply = await ask(gateway(), RESPONSES, QUESTION | {"stream": True})
    kinds = [event["type"] for event in events(reply) if event["type"] != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_reasoner_is_asked_once_in_a_run_of_tool_turns(streamed: bool) -> None:
    reasoner = Scripted("look first", "another signal")
    served = gateway(reasoner, Scripted(CALLING, "It rains."))
    first = {"model": "duet", "input": [USER], "tools": [TOOL]}
    _, response = await response_to(served, first, streamed=streamed)
    (call,) = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "look_up", '{"town":"Bern"}')
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    _, response = await response_to(served, first | {"input": [USER, call, output]}, streamed=streamed)
    assert text_of(response) == "It rains."
    assert len(reasoner.calls) == 1


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_what_real_clients_send_is_answered(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    headers = {name: value for name, value in fixture["headers"].items() if name != "authorization"}
    served = gateway(policy=SHOWN)
    served.kept.keep(None, {"id": "resp_2", "output": [{"type": "function_call", "id": "fc_2", **CALL}]}, [USER])
    reply = await ask(served, RESPONSES, fixture["body"], headers=headers)
    assert reply.status == 200, reply.body
    response = whole_of(events(reply)) if fixture["body"].get("stream") else reply.json
    assert (response["status"], text_of(response)) == ("completed", "There are 17 primes.")
    assert response["usage"]["total_tokens"] > 0
