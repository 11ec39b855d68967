"""Anthropic's Messages through a pair, whole and streamed, as clients of the protocol send and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.served_gateway import gateway

from duet_sdk import AsyncDuetClient, ConnectFailed, Limit, StreamBroken, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

MESSAGES = "/v1/messages"
USER = {"role": "user", "content": "How many primes are below 60?"}
QUESTION: dict[str, Any] = {"model": "duet", "max_tokens": 1000, "messages": [USER]}
TOOL = {"name": "look_up", "input_schema": {"type": "object"}}
CALLING = Script("", tool_calls=(ToolCall("c1", "look_up", '{"town":"Bern"}'),))
SHOWN = GatewayPolicy(signal_field="both")
FIXTURES = sorted(
    path
    for path in (Path(__file__).parent / "fixtures").glob("*.json")
    if json.loads(path.read_text(encoding="utf-8"))["path"].startswith(MESSAGES)
)


def events(reply: Conversation) -> list[dict[str, Any]]:
    """The events of a stream, whose names must be their types."""
    found = []
    for event in reply.body.decode().split("\n\n"):
        if event and not event.startswith(":"):
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def blocks(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a stream, put together as clients do it."""
    found: list[dict[str, Any]] = []
    for event in stream:
        if event["type"] == "content_block_start":
            assert event["index"] == len(found)
            found.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(found) - 1
            for name, value in event["delta"].items():
                if name != "type":
                    found[-1][name] = found[-1].get(name, "") + value
    return found


async def test_a_whole_answer_has_text_stop_usage_and_receipt() -> None:
    reply = await ask(gateway(), MESSAGES, QUESTION)
    assert reply.status == 200
    assert (reply.json["type"], reply.json["role"], reply.json["model"]) == ("message", "assistant", "duet")
    assert reply.json["content"] == [{"type": "text", "text": "There are 17 primes."}]
    assert (reply.json["stop_reason"], reply.json["stop_sequence"]) == ("end_turn", None)
    assert reply.json["usage"]["output_tokens"] == 7
    assert reply.json["usage"]["input_tokens"] > 0
    assert reply.json["duet"]["served_by"] == "pair"
    assert reply.json["duet"]["receipt"] == reply.headers["x-duet-receipt"] == reply.headers["request-id"]


async def test_a_stream_has_start_blocks_delta_and_stop_in_this_order() -> None:
    reply = await ask(gateway(), MESSAGES, QUESTION | {"stream": True})
    stream = events(reply)
    assert [event["type"] for event in stream if event["type"] != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert stream[0]["message"]["usage"]["input_tokens"] > 0
    assert stream[0]["message"]["model"] == "duet"
    assert blocks(stream) == [{"type": "text", "text": "There are 17 primes."}]
    assert stream[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert stream[-2]["usage"]["output_tokens"] == 7
    assert stream[-2]["duet"]["receipt"] == reply.headers["request-id"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_calls_come_whole_and_end_with_their_reason(streamed: bool) -> None:
    reply = await ask(gateway(generator=CALLING), MESSAGES, QUESTION | {"tools": [TOOL], "stream": streamed})
    if streamed:
        (call,) = blocks(events(reply))
        assert call.pop("partial_json") == '{"town":"Bern"}'
        call["input"] = {"town": "Bern"}
        reason = events(reply)[-2]["delta"]["stop_reason"]
    else:
        (call,) = reply.json["content"]
        reason = reply.json["stop_reason"]
    assert call == {"type": "tool_use", "id": "c1", "name": "look_up", "input": {"town": "Bern"}}
    assert reason == "tool_use"


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")  # a script does not obey it
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_what_real_clients_send_is_answered(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    headers = {name: value for name, value in fixture["headers"].items() if name != "authorization"}
    served = gateway(generator='{"title": "Primes"}', policy=GatewayPolicy(aliases={"claude-*": "duet"}))
    reply = await ask(served, MESSAGES, fixture["body"], headers=headers, query_string=b"beta=true")
    assert reply.status == 200, reply.body
    if fixture["body"].get("stream"):
        assert events(reply)[-1]["type"] == "message_stop"
    else:
        assert reply.json["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_claude_codes_tool_turn_asks_the_reasoner_once(streamed: bool) -> None:
    """Its fixtures, the call and the thinking being what the gateway gave it."""
    first, after = (
        json.loads((FIXTURES[0].parent / f"claude-code-{name}.json").read_text())["body"]
        for name in ("first", "after-tool")
    )
    reasoner = Scripted("look first", "another signal")
    generator = Scripted(Script("", tool_calls=(ToolCall("toolu_1", "tool_0", '{"a":"x"}'),)), "It rains.")
    served = gateway(reasoner, generator, SHOWN)
    reply = await ask(served, MESSAGES, first | {"stream": streamed})
    thinking, call = blocks(events(reply)) if streamed else reply.json["content"]
    assert thinking["thinking"] == "look first"
    assert thinking["signature"]
    after["messages"][2]["content"][0] = thinking
    assert call["id"] == after["messages"][2]["content"][1]["id"]
    reply = await ask(served, MESSAGES, after | {"stream": False})
    assert reply.json["content"][-1] == {"type": "text", "text": "It rains."}
    assert len(reasoner.calls) == 1
    assert "look first" not in "".join(message.text for message in generator.calls[-1].messages[2:])


async def test_a_spent_budget_is_a_402_that_is_not_to_be_repeated() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=1))
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    policy = GatewayPolicy(keys=(GatewayKey("a", sha256=digest),))
    reply = await ask(gateway(policy=policy, ledger=ledger), MESSAGES, QUESTION, headers={"x-api-key": "secret"})
    assert reply.status == 402
    assert reply.json["type"] == "error"
    assert reply.json["error"]["type"] == "billing_error"
    assert reply.json["request_id"] == reply.headers["request-id"]
    assert reply.headers["x-should-retry"] == "false"


async def test_a_stream_that_breaks_ends_with_an_error_and_stops_nothing() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    reply = await ask(gateway(generator=broken, retry={"attempts": 1}), MESSAGES, QUESTION | {"stream": True})
    stream = events(reply)
    assert reply.status == 200
    assert stream[-1]["error"]["type"] == "api_error"
    assert "content_block_stop" not in {event["type"] for event in stream}


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_model_that_cannot_be_reached_is_an_overload_to_come_back_after(streamed: bool) -> None:
    dead = [Scripted(connect_error=ConnectFailed("refused at 10.1.2.3", backend="scripted", model="m")) for _ in "ab"]
    reply = await ask(gateway(*dead, retry={"attempts": 1}), MESSAGES, QUESTION | {"stream": streamed})
    assert (reply.status, reply.json["error"]["type"]) == (529, "overloaded_error")
    assert reply.headers["retry-after"] == "1"
    assert "10.1.2.3" not in reply.body.decode()


async def test_a_prompt_that_is_too_long_says_so_in_the_words_that_clients_know() -> None:
    small = AsyncDuetClient(
        {"model": "scripted/a", "context_tokens": 64}, {"model": "scripted/b", "context_tokens": 64}
    )
    reply = await ask(app(small), MESSAGES, QUESTION | {"messages": [{"role": "user", "content": "word " * 500}]})
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json["error"]["message"].startswith("prompt is too long: ")
    assert reply.json["error"]["message"].endswith(" tokens > 64 maximum")


@pytest.mark.parametrize("path", [MESSAGES, "/v1/chat/completions"])
async def test_instructions_that_are_too_long_alone_are_told_in_other_words(path: str) -> None:
    """So that no agent shortens its history in vain."""
    small = AsyncDuetClient(
        {"model": "scripted/a", "context_tokens": 256}, {"model": "scripted/b", "context_tokens": 256}
    )
    messages = [{"role": "system", "content": "word " * 500}, USER]
    reply = await ask(app(small), path, {"model": "duet", "messages": messages})
    assert reply.status == 400
    assert "instructions and tools alone" in reply.json["error"]["message"]
    assert "too long" not in reply.json["error"]["message"]
    assert reply.json["error"].get("code") != "context_length_exceeded"
    assert reply.headers["x-should-retry"] == "false"


async def test_an_unknown_key_is_refused_in_the_wires_form_before_the_body_is_read() -> None:
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    served = gateway(policy=GatewayPolicy(keys=(GatewayKey("a", sha256=digest),)))
    for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
        reply = await ask(served, path, b"no JSON", headers={"x-api-key": "wrong"})
        assert (reply.status, reply.json["error"]["type"]) == (401, "authentication_error")
        assert reply.headers["x-should-retry"] == "false"
    for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
        assert (await ask(served, MESSAGES, QUESTION, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", MESSAGES, QUESTION | {"model": "gpt-4"}, 404, "not_found_error"),
        ("POST", f"{MESSAGES}/batches", QUESTION, 404, "not_found_error"),
        ("GET", MESSAGES, None, 405, "invalid_request_error"),
        ("POST", MESSAGES, b"{", 400, "invalid_request_error"),
        ("POST", MESSAGES, b" " * 2000, 413, "request_too_large"),
    ],
)
async def test_refusals_have_the_wires_form(method: str, path: str, body: Any, status: int, kind: str) -> None:
    reply = await ask(gateway(policy=GatewayPolicy(most_body_bytes=1000)), path, body, method=method)
    assert (reply.status, reply.json["error"]["type"]) == (status, kind)
    assert reply.json["request_id"] == reply.headers["request-id"]


async def test_tokens_are_counted_without_spending() -> None:
    reasoner, generator = Scripted("17"), Scripted("17")
    counted = await ask(gateway(reasoner, generator), f"{MESSAGES}/count_tokens", QUESTION)
    assert counted.json == {"input_tokens": 6}
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "a b c", "signature": "x"}]}
    counted = await ask(gateway(reasoner, generator), f"{MESSAGES}/count_tokens", QUESTION | {"messages": [thought]})
    assert counted.json == {"input_tokens": 3}
    assert reasoner.calls == generator.calls == []


async def test_the_probe_and_the_models_are_answered() -> None:
    assert (await ask(gateway(), "/api/hello", method="HEAD")).status == 200
    reply = await ask(gateway(), "/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert reply.json["data"][0]["type"] == "model"
    assert (reply.json["first_id"], reply.json["has_more"]) == ("duet", False)
