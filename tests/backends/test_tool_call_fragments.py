"""Tool calls as servers send them in pieces: told apart whatever they leave out, and each with an id of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk.backends.answers.tool_calls import MOST_CALLS, ToolCalls
from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.server.decoding import Decoder
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import StreamBroken
from duet_sdk.types import Message, ToolCall

FAILURES = Failures(backend="vllm", model="m", url="http://127.0.0.1/v1")
OSLO, BERGEN = '{"town": "Oslo"}', '{"town": "Bergen"}'
BOTH = [("look_up", OSLO), ("look_up", BERGEN)]


def calls_of(chunks: list[Chunk]) -> list[ToolCall]:
    """The calls that a consumer puts together: id and name with the first piece, arguments in all of them."""
    calls: dict[int, list[str]] = {}
    for delta in [delta for chunk in chunks for delta in chunk.tool_calls]:
        if delta.position not in calls:
            assert delta.id
        call = calls.setdefault(delta.position, [delta.id or "", "", ""])
        assert delta.id in (None, call[0])
        call[1], call[2] = delta.name or call[1], call[2] + delta.arguments
    assert list(calls) == list(range(len(calls)))
    assert len({call[0] for call in calls.values()}) == len(calls)
    return [ToolCall(*call) for call in calls.values()]


def read(*deltas: Any, whole: bool = False, finish: str = "tool_calls") -> list[ToolCall]:
    """The calls of these fragments: of a stream, a list of them for each event, or of a whole message."""
    decoder = Decoder(Call(max_tokens=9), dialect=Dialect(), failures=FAILURES, sent={})
    if whole:
        choice = {"index": 0, "message": {"content": None, **deltas[0]}, "finish_reason": finish}
        chunks = decoder.whole(json.dumps({"choices": [choice]}).encode())
    else:
        events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        chunks = [chunk for event in events for chunk in decoder.read([json.dumps(event).encode()])]
    if decoder.failure is not None:
        raise decoder.failure
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    return calls_of(chunks)


def fragment(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """One fragment as one event; fields that are None are left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{**more, "function": function}]}


def told(calls: list[ToolCall]) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in calls]


STREAMS: dict[str, list[dict[str, Any]]] = {
    "as documented": [
        fragment("look_up", "", index=0, id="a", type="function"),
        fragment(None, OSLO[:5], index=0),
        fragment(None, OSLO[5:], index=0),
        fragment("look_up", "", index=1, id="b"),
        fragment(None, BERGEN, index=1),
    ],
    "whole calls, no index": [fragment("look_up", OSLO, id="a"), fragment("look_up", BERGEN, id="b")],
    "whole calls, index null": [fragment("look_up", OSLO, id="a", index=None), fragment("look_up", BERGEN, id="b")],
    "whole calls, one index": [
        fragment("look_up", OSLO, id="a", index=0),
        fragment("look_up", BERGEN, id="b", index=0),
    ],
    "pieces, one index": [
        fragment("look_up", "", id="a", index=0),
        fragment(None, OSLO, index=0),
        fragment("look_up", "", id="b", index=0),
        fragment(None, BERGEN, index=0),
    ],
    "pieces, no index": [
        fragment("look_up", "", id="a"),
        fragment(None, OSLO[:3]),
        fragment(None, OSLO[3:]),
        fragment("look_up", "", id="b"),
        fragment(None, BERGEN),
    ],
    "neither index nor id": [fragment("look_up", OSLO), fragment("look_up", BERGEN)],
    "neither index nor id, in pieces": [
        fragment("look_up", ""),
        fragment(None, OSLO),
        fragment("look_up", ""),
        fragment(None, BERGEN),
    ],
    "neither index nor id, in one event": [
        {"tool_calls": [{"function": {"name": "look_up", "arguments": text}} for text in (OSLO, BERGEN)]}
    ],
    "neither index nor id, in one event, then pieces in their places": [
        {"tool_calls": [{"function": {"name": "look_up"}}, {"function": {"name": "look_up"}}]},
        {"tool_calls": [{"function": {"arguments": OSLO[:4]}}, {"function": {"arguments": BERGEN[:4]}}]},
        {"tool_calls": [{"function": {"arguments": OSLO[4:]}}, {"function": {"arguments": BERGEN[4:]}}]},
    ],
    "interleaved by index": [
        fragment("look_up", OSLO[:4], index=0, id="a"),
        fragment("look_up", BERGEN[:4], index=1, id="b"),
        fragment(None, OSLO[4:], index=0),
        fragment(None, BERGEN[4:], index=1),
    ],
    "interleaved by id": [
        fragment("look_up", OSLO[:4], id="a"),
        fragment("look_up", BERGEN[:4], id="b"),
        fragment(None, OSLO[4:], id="a"),
        fragment(None, BERGEN[4:], id="b"),
    ],
    "interleaved by id, one index": [
        fragment("look_up", OSLO[:4], id="a", index=0),
        fragment("look_up", BERGEN[:4], id="b", index=0),
        fragment(None, OSLO[4:], id="a", index=0),
        fragment(None, BERGEN[4:], id="b", index=0),
    ],
    "empty ids and names later": [
        fragment("look_up", "", index=0, id="a"),
        fragment("", OSLO, index=0, id="", type=""),
        fragment("look_up", "", index=1, id="b"),
        fragment("", BERGEN, index=1, id=""),
    ],
    "id and name with every piece": [
        fragment("look_up", OSLO[:4], index=0, id="a"),
        fragment("look_up", OSLO[4:], index=0, id="a"),
        fragment("look_up", "", index=0, id="a"),
        fragment("look_up", BERGEN, index=1, id="b"),
    ],
    "name with every piece, no id, no index": [
        fragment("look_up", OSLO[:4]),
        fragment("look_up", OSLO[4:]),
        fragment("look_up", BERGEN),
    ],
    "another id with every piece": [
        fragment("look_up", OSLO[:4], index=0, id="a1"),
        fragment(None, OSLO[4:], index=0, id="a2"),
        fragment("look_up", BERGEN[:4], index=1, id="b1"),
        fragment(None, BERGEN[4:], index=1, id="b2"),
    ],
    "one id for all": [fragment("look_up", OSLO, index=0, id="call"), fragment("look_up", BERGEN, index=1, id="call")],
    "one id and one index for all": [
        fragment("look_up", OSLO, index=0, id="call"),
        fragment("look_up", BERGEN, index=0, id="call"),
    ],
    "one id for all, no index": [fragment("look_up", OSLO, id="call"), fragment("look_up", BERGEN, id="call")],
    "ids that are numbers": [fragment("look_up", OSLO, id=1), fragment("look_up", BERGEN, id=2)],
    "an id that comes late": [
        fragment("look_up", "", index=0),
        fragment(None, OSLO, index=0, id="a"),
        fragment("look_up", BERGEN, index=1),
    ],
    "an index that comes late": [
        fragment("look_up", "", id="a"),
        fragment(None, OSLO, index=0),
        fragment("look_up", "", id="b", index=1),
        fragment(None, BERGEN, index=1),
    ],
    "indexes of another kind": [
        fragment("look_up", OSLO, index="0", id="a"),
        fragment("look_up", BERGEN, index=1.0, id="b"),
    ],
    "indexes that are none": [
        fragment("look_up", OSLO, index="a", id="a"),
        fragment("look_up", BERGEN, index=[], id="b"),
    ],
    "indexes from 1, and with gaps": [
        fragment("look_up", OSLO, index=1, id="a"),
        fragment("look_up", BERGEN, index=700, id="b"),
    ],
    "arguments as objects": [
        fragment("look_up", json.loads(OSLO), index=0, id="a"),
        fragment("look_up", json.loads(BERGEN), index=1, id="b"),
    ],
    "an empty object in front": [
        fragment("look_up", {}, index=0, id="a"),
        fragment(None, OSLO, index=0),
        fragment("look_up", "{}", index=1, id="b"),
        fragment(None, BERGEN, index=1),
    ],
    "arguments null": [
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look_up", "arguments": None}}]},
        fragment(None, OSLO, index=0),
        fragment("look_up", BERGEN, index=1, id="b"),
    ],
    "no function around name and arguments": [
        {"tool_calls": [{"id": "a", "name": "look_up", "arguments": OSLO}]},
        {"tool_calls": [{"id": "b", "name": "look_up", "input": json.loads(BERGEN)}]},
    ],
    "one object in place of a list": [
        {"tool_calls": {"id": "a", "function": {"name": "look_up", "arguments": OSLO}}},
        {"tool_calls": {"id": "b", "function": {"name": "look_up", "arguments": BERGEN}}},
    ],
    "what is none among them": [
        {"tool_calls": [None, 7, "x", {"id": "a", "function": {"name": "look_up", "arguments": OSLO}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "look_up", "arguments": BERGEN}}, []]},
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_two_calls_stay_two(name: str) -> None:
    assert told(read(*STREAMS[name])) == BOTH


@pytest.mark.parametrize("name", STREAMS)
def test_two_calls_stay_two_where_the_end_is_said_to_be_another(name: str) -> None:
    assert told(read(*STREAMS[name], finish="stop")) == BOTH


def test_ids_of_the_server_are_kept() -> None:
    assert [call.id for call in read(*STREAMS["as documented"])] == ["a", "b"]
    assert [call.id for call in read(*STREAMS["interleaved by id, one index"])] == ["a", "b"]


def test_an_id_that_is_made_is_one_that_every_server_takes() -> None:
    ids = [call.id for call in read(*STREAMS["neither index nor id"])]
    assert all(len(id_) == 9 and id_.isalnum() and id_.isascii() for id_ in ids)
    assert {call.id for call in read(*STREAMS["neither index nor id"])}.isdisjoint(ids)


def test_different_tools_without_index_and_id_are_told_apart_by_name() -> None:
    events = [fragment("one", ""), fragment("two", ""), fragment("three", "{}")]
    assert told(read(*events)) == [("one", "{}"), ("two", "{}"), ("three", "{}")]


@pytest.mark.parametrize("arguments", [None, "", "null", {}, "{}"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_call_without_arguments_has_none_as_json(arguments: Any, whole: bool) -> None:
    call = {"id": "a", "function": {"name": "now", "arguments": arguments}}
    assert told(read({"tool_calls": [call]}, whole=whole)) == [("now", "{}")]


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"id": "a", "function": {"name": "look_up", "arguments": text}} for text in (OSLO, BERGEN)]},
        {"tool_calls": [{"function": {"name": "look_up", "arguments": text}} for text in (OSLO, BERGEN)]},
        {
            "tool_calls": [
                {"index": 0, "id": "", "function": {"name": "look_up", "arguments": t}} for t in (OSLO, BERGEN)
            ]
        },
        {
            "tool_calls": [
                {"index": "a", "function": {"name": "look_up", "arguments": json.loads(t)}} for t in (OSLO, BERGEN)
            ]
        },
        {
            "content": [
                {"type": "tool_use", "id": "a", "name": "look_up", "input": json.loads(t)} for t in (OSLO, BERGEN)
            ]
        },
    ],
)
def test_calls_of_a_whole_message_are_each_one(message: dict[str, Any]) -> None:
    assert told(read(message, whole=True, finish="stop")) == BOTH


@pytest.mark.parametrize("whole", [False, True])
def test_the_old_function_call_is_a_tool_call(whole: bool) -> None:
    pieces = [{"function_call": {"name": "look_up", "arguments": OSLO}}]
    if not whole:
        pieces = [
            {"function_call": {"name": "look_up"}},
            *({"function_call": {"arguments": a}} for a in (OSLO[:3], OSLO[3:])),
        ]
    assert told(read(*pieces, whole=whole, finish="function_call")) == [("look_up", OSLO)]


def test_a_limit_is_more_telling_than_the_calls_before_it() -> None:
    decoder = Decoder(Call(max_tokens=9), dialect=Dialect(), failures=FAILURES, sent={})
    event = {"choices": [{"index": 0, "delta": fragment("look_up", "{", index=0), "finish_reason": "length"}]}
    assert [chunk.finish_reason for chunk in decoder.read([json.dumps(event).encode()])] == ["length"]


def test_more_calls_than_any_request_asks_for_end_the_stream() -> None:
    many = [fragment("look_up", "{}", index=at, id=f"c{at}") for at in range(MOST_CALLS)]
    assert len(read(*many)) == MOST_CALLS
    with pytest.raises(StreamBroken, match="more than 128 tool calls"):
        read(*many, fragment("look_up", "{}", index=MOST_CALLS, id="c"))


def test_an_id_that_the_history_holds_is_not_used_again() -> None:
    earlier = Message("assistant", "", (ToolCall("call_0", "look_up", "{}"),))
    calls = ToolCalls(0, (earlier,))
    ((first, _), (second, _)) = calls.read(
        [{"id": at, "function": {"name": "look_up", "arguments": "{}"}} for at in ("call_0", "call_1")], whole=True
    )
    assert first.id not in (None, "call_0")
    assert second.id == "call_1"


@pytest.mark.parametrize("arguments", [" ", "\n "])
def test_arguments_of_nothing_but_space_are_none(arguments: str) -> None:
    (call,) = read(fragment("look_up", arguments, index=0, id="c"))
    assert json.loads(call.arguments) == {}


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["a", "{", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "arguments", "a"]), inner),
    max_leaves=6,
)
FRAGMENTS = st.fixed_dictionaries(
    {}, optional={"index": ODD, "id": ODD, "function": ODD, "name": ODD, "arguments": ODD}
)


@settings(max_examples=500)
@given(st.lists(st.lists(FRAGMENTS | ODD, max_size=3), max_size=8), st.booleans())
def test_whatever_comes_ids_are_unique_and_positions_in_order(events: list[list[Any]], whole: bool) -> None:
    calls = ToolCalls(0)
    deltas = [delta for event in events for delta, _ in calls.read(event, whole=whole)]
    calls_of([Chunk(tool_calls=(*deltas, *calls.end()))])
