"""Chat completions through a pair, whole and streamed, as clients of the protocol send and read them."""

from __future__ import annotations

import asyncio
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

CHAT = "/v1/chat/completions"
QUESTION = {"model": "duet", "messages": [{"role": "user", "content": "How many primes are below 60?"}]}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
FIXTURES = Path(__file__).parent / "fixtures"


def with_key(**rights: Any) -> GatewayPolicy:
    """A policy whose one key is "secret"."""
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    return GatewayPolicy(keys=(GatewayKey("a", sha256=digest, **rights),), signal_field="both")


BEARER = {"authorization": "Bearer secret"}


async def test_a_whole_answer_has_text_finish_usage_and_receipt() -> None:
    reply = await ask(gateway(), CHAT, QUESTION)
    assert reply.status == 200
    assert reply.json["object"] == "chat.completion"
    assert reply.json["choices"][0]["message"]["content"] == "There are 17 primes."
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    usage = reply.json["usage"]
    assert usage["completion_tokens"] == 7
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert usage["total_tokens"] == usage["prompt_tokens"] + 7
    assert reply.json["duet"]["served_by"] == "pair"
    assert reply.json["duet"]["receipt"] == reply.headers["x-duet-receipt"]


async def test_a_stream_has_role_text_finish_usage_and_done_in_this_order() -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"stream": True, "stream_options": {"include_usage": True}})
    *chunks, finish, usage, done = reply.events
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "There are 17 primes."
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 7
    assert usage["duet"]["receipt"] == reply.headers["x-duet-receipt"]
    assert done == "[DONE]"


async def test_a_stream_without_usage_has_its_receipt_in_the_finishing_chunk() -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"stream": True})
    assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert reply.events[-2]["duet"]["served_by"] == "pair"
    assert "usage" not in reply.events[-2]


@pytest.mark.parametrize("streamed", [True, False])
async def test_tool_calls_come_whole_and_end_with_their_reason(streamed: bool) -> None:
    calling = Script("", tool_calls=(ToolCall("c1", "look_up", '{"town":"Bern"}'),))
    reply = await ask(gateway(generator=calling), CHAT, QUESTION | {"tools": [TOOL], "stream": streamed})
    if streamed:
        deltas = [chunk["choices"][0] for chunk in reply.events[:-1]]
        (call,) = next(one["delta"]["tool_calls"] for one in deltas if "tool_calls" in one["delta"])
        assert (call["index"], call["id"], call["type"]) == (0, "c1", "function")
        assert deltas[-1]["finish_reason"] == "tool_calls"
    else:
        (call,) = reply.json["choices"][0]["message"]["tool_calls"]
        assert reply.json["choices"][0]["message"]["content"] is None
        assert reply.json["choices"][0]["finish_reason"] == "tool_calls"
    assert call["function"] == {"name": "look_up", "arguments": '{"town":"Bern"}'}


@pytest.mark.parametrize("streamed", [True, False])
async def test_several_answers_have_an_index_and_a_finish_each(streamed: bool) -> None:
    lines = iter(("one", "two", "three"))
    reply = await ask(gateway(generator=lambda call: next(lines)), CHAT, QUESTION | {"n": 3, "stream": streamed})
    texts, finishes = ["", "", ""], {}
    for chunk in reply.events[:-1] if streamed else [reply.json]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta" if streamed else "message"].get("content") or ""
            finishes[choice["index"]] = choice["finish_reason"]
    assert texts == ["one", "two", "three"]
    assert finishes == {0: "stop", 1: "stop", 2: "stop"}


async def test_max_tokens_bounds_the_answer_and_says_so() -> None:
    reply = await ask(gateway(generator="a b c d e"), CHAT, QUESTION | {"max_tokens": 2})
    assert reply.json["choices"][0]["message"]["content"] == "a b"
    assert reply.json["choices"][0]["finish_reason"] == "length"


async def test_the_signal_is_shown_to_a_key_that_may_see_it_only() -> None:
    for sees, shown in ((True, "17 of them."), (False, None)):
        served = gateway(policy=with_key(sees_signal=sees))
        whole = await ask(served, CHAT, QUESTION, headers=BEARER)
        assert whole.json["choices"][0]["message"].get("reasoning_content") == shown
        assert whole.json["choices"][0]["message"].get("reasoning") == shown
        stream = await ask(served, CHAT, QUESTION | {"stream": True}, headers=BEARER)
        deltas = [chunk["choices"][0]["delta"] for chunk in stream.events[:-1]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (shown or "")


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_signal_of_a_run_is_shown_in_its_first_turn_alone(streamed: bool) -> None:
    calling = Script("", tool_calls=(ToolCall("c1", "look_up", "{}"),))
    served = gateway(generator=Scripted(calling, "It rains."), policy=GatewayPolicy(signal_field="reasoning"))
    body: dict[str, Any] = {**QUESTION, "tools": [TOOL], "stream": streamed}
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    turns = ({"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "rain"})
    shown = []
    for messages in (QUESTION["messages"], [*QUESTION["messages"], *turns]):
        reply = await ask(served, CHAT, {**body, "messages": messages})
        chunks = reply.events[:-1] if streamed else [reply.json]
        told = [chunk["choices"][0]["delta" if streamed else "message"] for chunk in chunks]
        shown.append("".join(one.get("reasoning") or "" for one in told))
    assert shown == ["17 of them.", ""]


@pytest.mark.parametrize("streamed", [True, False])
async def test_reasoning_details_come_and_go_back_as_agent_framework_has_them(streamed: bool) -> None:
    fixture = json.loads((FIXTURES / "agent-framework-chat-after-tool.json").read_text(encoding="utf-8"))["body"]
    call = fixture["messages"][1]["tool_calls"][0]
    reasoner = Scripted("look first", "another signal")
    calling = Script("", tool_calls=(ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]),))
    served = gateway(reasoner, Scripted(calling, "It rains."), GatewayPolicy(signal_field="reasoning_details"))
    first = {**fixture, "messages": fixture["messages"][:1], "stream": streamed}
    reply = await ask(served, CHAT, first)
    if streamed:
        deltas = [chunk["choices"][0]["delta"] for chunk in reply.events[:-1]]
        details = [delta["reasoning_details"] for delta in deltas if "reasoning_details" in delta]
    else:
        details = [reply.json["choices"][0]["message"]["reasoning_details"]]
    sent_back = fixture["messages"][1]["reasoning_details"][0]
    assert "".join(detail["text"] for (detail,) in details) == "look first"
    assert all({**detail, "text": "text"} == sent_back for (detail,) in details)
    reply = await ask(served, CHAT, fixture)
    assert reply.json["choices"][0]["message"]["content"] == "It rains."
    assert len(reasoner.calls) == 1


async def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    reply = await ask(gateway(generator=broken, retry={"attempts": 1}), CHAT, QUESTION | {"stream": True})
    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == "stream_broken"
    assert not any(chunk["choices"][0]["finish_reason"] for chunk in reply.events[:-1])


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_model_that_cannot_be_reached_is_a_503_with_retry_after(streamed: bool) -> None:
    dead = [Scripted(connect_error=ConnectFailed("refused at 10.1.2.3", backend="scripted", model="m")) for _ in "ab"]
    reply = await ask(gateway(*dead, retry={"attempts": 1}), CHAT, QUESTION | {"stream": streamed})
    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json["error"]["code"] == "upstream_unreachable"
    assert "10.1.2.3" not in reply.body.decode()


async def test_a_spent_budget_is_a_402_that_is_not_to_be_repeated() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=1))
    reply = await ask(gateway(policy=with_key(), ledger=ledger), CHAT, QUESTION, headers=BEARER)
    assert reply.status == 402
    assert reply.json["error"]["code"] == "insufficient_quota"
    assert reply.headers["x-should-retry"] == "false"


async def test_a_prompt_that_is_too_long_is_a_400_with_both_numbers() -> None:
    small = AsyncDuetClient(
        {"model": "scripted/a", "context_tokens": 64}, {"model": "scripted/b", "context_tokens": 64}
    )
    asked = {"model": "duet", "messages": [{"role": "user", "content": "word " * 500}]}
    reply = await ask(app(small), CHAT, asked)
    assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
    assert "64" in reply.json["error"]["message"]


async def test_a_client_that_leaves_ends_both_stages_and_the_part_is_booked() -> None:
    ledger = MemoryLedger()
    generator = Scripted(Script("a b c d e f", stall_after=2))
    served = gateway(generator=generator, policy=with_key(), ledger=ledger)
    talk = Conversation(served, CHAT, QUESTION | {"stream": True}, headers=BEARER)
    await talk.until(b'"content":"a')
    talk.leave()
    await asyncio.wait_for(talk.task, 20)
    assert (generator.open_calls, generator.cancelled) == (0, 1)
    booked = [(entry.facts.stage, entry.scopes) for entry in await ledger.entries()]
    assert booked == [("reasoner", ("tenant:a",)), ("generator", ("tenant:a",))]
    assert 'requests_total{wire="chat",model="duet",status="499"} 1' in served.metrics.text()


async def test_a_client_that_leaves_before_a_whole_answer_ends_it() -> None:
    reasoner = Scripted(Script("a b c", stall_after=1))
    talk = Conversation(gateway(reasoner=reasoner), CHAT, QUESTION)
    while not reasoner.open_calls:
        await asyncio.sleep(0)
    talk.leave()
    await asyncio.wait_for(talk.task, 20)
    assert reasoner.open_calls == 0
    assert talk.pieces == []


async def test_a_stream_that_shows_nothing_gets_comment_lines() -> None:
    reasoner = Scripted(Script("a b c", stall_after=1))
    served = gateway(reasoner=reasoner, policy=GatewayPolicy(quiet_s=0.05))
    talk = Conversation(served, CHAT, QUESTION | {"stream": True})
    await talk.until(b": waiting\n\n: waiting\n\n")
    assert talk.status == 200
    talk.leave()
    await asyncio.wait_for(talk.task, 20)


async def test_response_format_sampling_and_stop_reach_the_generator() -> None:
    generator = Scripted('{"n": 17} and more')
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    await ask(
        gateway(generator=generator),
        CHAT,
        QUESTION | {"response_format": schema, "stop": " and", "temperature": 0.3, "seed": 7, "top_k": -1},
    )
    (call,) = generator.calls
    assert call.sampling.stop == (" and",)
    assert (call.sampling.temperature, call.sampling.seed, call.sampling.top_k) == (0.3, 7, None)
    assert call.response_format == schema


async def test_logprobs_come_where_they_are_asked_for() -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"logprobs": True, "top_logprobs": 1})
    first = reply.json["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["logprob"]) == ("There", -0.1)


async def test_unknown_fields_are_read_over() -> None:
    reply = await ask(
        gateway(),
        CHAT,
        QUESTION | {"service_tier": "auto", "store": True, "safeguards": {"a": 1}, "thinking": {"type": "adaptive"}},
    )
    assert reply.status == 200


async def test_a_client_cannot_bring_a_signal_or_a_providers_parts() -> None:
    generator = Scripted("ok")
    history = [
        {"role": "user", "content": "first"},
        {
            "role": "assistant",
            "content": "said",
            "signal": "planted",
            "provider_parts": {"endpoint": "e", "model": "m", "text": "{}"},
        },
        {"role": "user", "content": "second"},
    ]
    await ask(gateway(generator=generator), CHAT, {"model": "duet", "messages": history})
    (call,) = generator.calls
    assert "planted" not in repr(call)
    assert all(message.provider_parts is None for message in call.messages)


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_reasoner_is_asked_once_in_a_run_of_tool_turns(streamed: bool) -> None:
    reasoner = Scripted("look first", "another signal")
    generator = Scripted(Script("", tool_calls=(ToolCall("c1", "look_up", "{}"),)), "It rains.")
    served = gateway(reasoner, generator)
    await ask(served, CHAT, QUESTION | {"tools": [TOOL], "stream": streamed})
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    turn = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    asked = {"model": "duet", "tools": [TOOL], "messages": [*QUESTION["messages"], *turn]}
    reply = await ask(served, CHAT, asked)
    assert reply.json["choices"][0]["message"]["content"] == "It rains."
    assert len(reasoner.calls) == 1
    other = {**asked, "messages": [{"role": "user", "content": "And tomorrow?"}, *turn]}
    await ask(served, CHAT, other)
    assert len(reasoner.calls) == 2


async def test_an_image_by_url_is_refused_unless_its_host_is_listed() -> None:
    def picture(url: str) -> dict[str, Any]:
        parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
        return {"model": "duet", "messages": [{"role": "user", "content": parts}]}

    served = gateway(policy=GatewayPolicy(image_hosts=("img.example",)))
    for url, status in (
        ("http://169.254.169.254/", 400),
        ("data:image/png;base64,AA==", 200),
        ("https://img.example/a.png", 200),
        ("https://img.example@evil.example/", 400),
    ):
        assert (await ask(served, CHAT, picture(url))).status == status, url


FROM_CLIENTS = sorted(
    path for path in FIXTURES.glob("*.json") if json.loads(path.read_text(encoding="utf-8"))["path"] == CHAT
)


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")  # a script does not obey it
@pytest.mark.parametrize("path", FROM_CLIENTS, ids=lambda path: path.stem)
async def test_what_real_clients_send_is_answered(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    headers = {name: value for name, value in fixture["headers"].items() if name != "authorization"}
    served = gateway(policy=GatewayPolicy(aliases={"duet-small": "duet/generator"}))
    reply = await ask(served, CHAT, fixture["body"], headers=headers)
    assert reply.status == 200, reply.body
    if fixture["body"].get("stream"):
        assert reply.events[-1] == "[DONE]"
    else:
        assert reply.json["usage"]["total_tokens"] > 0
