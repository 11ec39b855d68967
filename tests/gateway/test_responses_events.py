"""Whatever a pair tells, the events of a streamed response are in order, and what they said is what it ends with."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from support.response_events import in_order, whole_of

from duet_sdk import AsyncDuetClient, Reply, ToolCall
from duet_sdk.backends.scripted import Scripted
from duet_sdk.events import ToolCallDelta
from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway.kept import Kept
from duet_sdk.gateway.keys import Caller
from duet_sdk.gateway.signals import Signals
from duet_sdk.gateway.wires.responses import RESPONSES
from duet_sdk.gateway.wires.wire import Asked, Given
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.types import TokenLogprob

TOOLS = [{"type": "function", "name": "look_up"}, {"type": "custom", "name": "patch"}]
WORDS = st.text(max_size=5)
CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from(["c1", "c2"]),
        st.sampled_from(["look_up", "patch", "unknown"]),
        st.sampled_from(['{"town": "Bern"}', '{"input": "*** Begin"}', '{"tow', "", "[]"]),
    ),
    max_size=3,
)
STEPS = st.lists(st.sampled_from(["text", "text", "logprobs", "call", "signal"]), max_size=12)


async def a_reply() -> Reply:
    async with AsyncDuetClient(Scripted("17 of them."), Scripted("There are 17.")) as client:
        return await client.chat("How many?")


REPLY = asyncio.run(a_reply())


def asked(body: dict[str, Any], *, is_seen: bool) -> Given:
    policy = GatewayPolicy(signal_field="both" if is_seen else "none")
    choice = cast("Any", SimpleNamespace(name="duet"))
    return Given({"model": "duet", **body}, {}, choice, Caller(), policy, "ab12", 17, Signals(), Kept(1 << 20))


@settings(max_examples=300, deadline=None)
@given(
    steps=STEPS,
    words=WORDS,
    calls=CALLS,
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "empty", "deadline", None]),
    breaks=st.booleans(),
    is_seen=st.booleans(),
    wanted=st.fixed_dictionaries(
        {},
        optional={
            "reasoning": st.just({"summary": "auto"}),
            "include": st.just(["reasoning.encrypted_content"]),
            "parallel_tool_calls": st.booleans(),
            "store": st.booleans(),
        },
    ),
)
def test_any_sequence_is_in_order(
    steps: list[str],
    words: str,
    calls: list[ToolCall],
    finish: str | None,
    breaks: bool,
    is_seen: bool,
    wanted: dict[str, Any],
) -> None:
    request = asked({"input": "How many?", "tools": TOOLS, **wanted}, is_seen=is_seen)
    writer = RESPONSES.writer(request, cast("Asked", None))
    pieces, texts, is_shown = [], [], False
    for step in steps:
        if step == "signal" and writer.shows_signal and not is_shown:
            pieces.append(writer.signal(words))
        elif step in ("text", "logprobs"):
            texts.append(words)
            is_shown = True
            logprobs = (TokenLogprob(words, -0.5),) if step == "logprobs" else ()
            pieces.append(writer.text(0, words, logprobs))
        elif step == "call":
            piece = writer.call(ToolCallDelta(0, "c1", "look_up", "{}"))
            assert piece == b""  # whoever gets a call runs it, and it may still be void
    if breaks:
        pieces.append(writer.broken(Refused(502, "stream_broken", "the answer broke off", kind="server_error")))
    else:
        reply = replace(REPLY, text="".join(texts), tool_calls=tuple(calls), finish_reason=finish)
        pieces.append(writer.end(reply, {0: finish}))
    response = whole_of(in_order(b"".join(pieces)))
    assert response["status"] == (
        "failed" if breaks else "incomplete" if finish in ("length", "content_filter", "deadline") else "completed"
    )
    for item in response["output"]:
        if item["type"] == "function_call":
            assert isinstance(json.loads(item["arguments"]), dict)
            assert response["status"] == "completed" or "invalid_json" not in item["arguments"]  # half a call is none
    is_kept = request.kept.response(None, "resp_ab12") is not None
    assert is_kept == (not breaks and wanted.get("store") is not False)
