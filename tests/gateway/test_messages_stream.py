"""Whatever a pair tells, in whatever order, a stream of Messages is well-formed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient, DuetClient, Reply, StreamBroken, ToolCall
from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.events import ToolCallDelta
from duet_sdk.gateway import app
from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway.kept import Kept
from duet_sdk.gateway.keys import ANYBODY
from duet_sdk.gateway.names import Choice
from duet_sdk.gateway.signals import Signals
from duet_sdk.gateway.wires.messages import MESSAGES
from duet_sdk.gateway.wires.wire import Given
from duet_sdk.gateway_policy import GatewayPolicy

CLIENT = AsyncDuetClient("scripted/17", "scripted/There are 17.")
CALLS = (ToolCall("c1", "look_up", '{"town":"Bern"}'), ToolCall("c2", "look_up", '{"town":'), ToolCall("c3", "go", ""))
USER = {"role": "user", "content": "How many?"}


@pytest.fixture(scope="module")
def reply() -> Reply:
    with DuetClient("scripted/17", "scripted/There are 17.") as duet:
        return duet.chat("How many?")


def asked(thinking: dict[str, Any], *, signal_field: Any = "both") -> Given:
    body = {"model": "duet", "messages": [USER], "stream": True, "thinking": thinking}
    policy = GatewayPolicy(signal_field=signal_field)
    return Given(
        body, {}, Choice("duet", CLIENT, "duet", 512, 1024, 1024), ANYBODY, policy, "r1", 0, Signals(), Kept(1)
    )


def check(stream: bytes, *, is_whole: bool) -> list[dict[str, Any]]:
    """The blocks of a stream whose events are in order."""
    blocks: list[dict[str, Any]] = []
    is_open, kinds = False, []
    for event in stream.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        kinds.append(told["type"])
        assert name == f"event: {told['type']}"
        match told["type"]:
            case "content_block_start":
                assert not is_open
                assert told["index"] == len(blocks)
                blocks.append({**told["content_block"], "deltas": []})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert told["index"] == len(blocks) - 1
                blocks[-1]["deltas"].append(told["delta"])
            case "content_block_stop":
                assert is_open
                assert told["index"] == len(blocks) - 1
                is_open = False
    assert kinds[0] == ("message_start" if is_whole or len(kinds) > 1 else "error")
    assert kinds.count("message_start") == (kinds[0] == "message_start")
    if is_whole:
        assert not is_open
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("message_delta") == kinds.count("message_stop") == 1
    else:
        assert kinds[-1] == "error"
        assert {"message_delta", "message_stop"}.isdisjoint(kinds)
    return blocks


EVENT = st.one_of(
    st.tuples(st.just("signal"), st.text(min_size=1)),
    st.tuples(st.just("text"), st.text()),
    st.tuples(st.just("call"), st.sampled_from(CALLS)),
)
THINKING = st.sampled_from([{}, {"type": "adaptive"}, {"display": "omitted"}, {"type": "disabled"}])


@given(
    events=st.lists(EVENT, max_size=12),
    calls=st.lists(st.sampled_from(CALLS), max_size=3),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "deadline", "error", "odd", None]),
    thinking=THINKING,
    breaks=st.booleans(),
)
def test_any_order_of_events_is_a_stream_in_order(
    reply: Reply, events: list[Any], calls: list[ToolCall], finish: str | None, thinking: dict[str, Any], breaks: bool
) -> None:
    given_ = asked(thinking)
    writer = MESSAGES.writer(given_, MESSAGES.asked(given_))
    stream, texts = b"", []
    for kind, value in events:
        if kind == "signal" and not texts and writer.shows_signal:  # a signal comes before its answer
            stream += writer.signal(value)
        elif kind == "text":
            texts.append(value)
            stream += writer.text(0, value, ())
        elif kind == "call":
            stream += writer.call(ToolCallDelta(0, value.id, value.name, value.arguments))
    if breaks:
        stream += writer.broken(Refused(502, "stream_broken", "cut"))
    else:
        stream += writer.end(replace(reply, tool_calls=tuple(calls)), {0: finish})
    blocks = check(stream, is_whole=not breaks)
    assert "".join(d["text"] for b in blocks if b["type"] == "text" for d in b["deltas"]) == "".join(texts)
    assert all(block["type"] == "thinking" for block in blocks[:1]) or "thinking" not in {b["type"] for b in blocks}
    for block in blocks:
        if block["type"] == "thinking" and not (breaks and block is blocks[-1]):
            assert block["deltas"][-1]["type"] == "signature_delta"
            assert block["deltas"][-1]["signature"]
    uses = [block for block in blocks if block["type"] == "tool_use"]
    is_cut = finish in ("length", "deadline", "error")
    whole = [call for call in calls if not is_cut or call.arguments_on_wire == call.arguments]
    assert [use["name"] for use in uses] == ([] if breaks else [call.name for call in whole])
    for use in uses:
        assert isinstance(json.loads(use["deltas"][0]["partial_json"]), dict)


class Cut(Scripted):
    """A model whose server goes away right after a call."""

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        async for chunk in super().stream(call):
            yield chunk
            if chunk.tool_calls:
                raise StreamBroken("cut", backend="scripted", model="m")


@pytest.mark.parametrize("text", ["", "Wait."])
async def test_a_call_of_a_stream_that_breaks_is_never_sent(text: str) -> None:
    cut = Cut(Script(text, tool_calls=CALLS[:1]))
    served = app(AsyncDuetClient(Scripted("17"), cut, retry={"attempts": 1}))
    tools = [{"name": "look_up", "input_schema": {"type": "object"}}]
    body = {"model": "duet", "messages": [USER], "tools": tools, "stream": True}
    reply: Conversation = await ask(served, "/v1/messages", body)
    assert b"tool_use" not in reply.body
    told = reply.events[-1] if reply.status == 200 else reply.json
    assert told["error"] == {"type": "api_error", "message": "a model's answer broke off"}


@pytest.mark.parametrize(
    ("thinking", "field", "shown"),
    [
        ({"type": "adaptive"}, "reasoning", ["17", True]),
        ({}, "reasoning_content", ["17", True]),
        ({"type": "adaptive", "display": "omitted"}, "both", ["", True]),
        ({"type": "disabled"}, "both", None),
        ({"type": "adaptive"}, "none", None),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_signal_is_a_thinking_block_where_it_is_shown(
    thinking: dict[str, Any], field: Any, shown: list[Any] | None, streamed: bool
) -> None:
    served = app(AsyncDuetClient(Scripted("17"), Scripted("17.")), policy=GatewayPolicy(signal_field=field))
    body = {"model": "duet", "messages": [USER], "thinking": thinking, "stream": streamed}
    reply: Conversation = await ask(served, "/v1/messages", body)
    blocks = check(reply.body, is_whole=True) if streamed else reply.json["content"]
    assert blocks[-1]["type"] == "text"
    if shown is None:
        assert len(blocks) == 1
        return
    block = blocks[0]
    for delta in block.pop("deltas", ()):
        block.update({name: block.get(name, "") + value for name, value in delta.items() if name != "type"})
    assert [block["thinking"], bool(block["signature"])] == shown


async def test_an_answer_that_ran_out_of_room_says_max_tokens() -> None:
    served = app(AsyncDuetClient(Scripted("17"), Scripted("a b c d e")))
    reply: Conversation = await ask(served, "/v1/messages", {"model": "duet", "messages": [USER], "max_tokens": 2})
    assert (reply.json["content"][0]["text"], reply.json["stop_reason"]) == ("a b", "max_tokens")
