"""Bodies as a broken or hostile client sends them: whole requests of each wire, with some places put out of order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import strategies as st

FIXTURES = Path(__file__).resolve().parents[1] / "gateway" / "fixtures"
Place: TypeAlias = tuple["str | int", ...]


class Raw(str):
    """JSON, or what is none, as it stands."""

    __slots__ = ()


class Twice(dict[str, Any]):
    """An object that has each of its keys twice."""


_IMAGE = "data:image/png;base64,iVBORw0KGgo="
_SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
_CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"town":"Bern"}'}}
CHAT: dict[str, Any] = {
    "model": "duet",
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "text", "text": "In Bern."}]},
        {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "look first"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "assistant", "content": "It rains.", "refusal": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": _IMAGE, "detail": "low"}}]},
        {"role": "developer", "content": "A note."},
    ],
    "tools": [{"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "look_up"}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA, "strict": True}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 100,
    "max_completion_tokens": 200,
    "reasoning_effort": "low",
    "n": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "seed": 7,
    "stop": ["\n\n", "END"],
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100},
    "user": "someone",
    "prompt_cache_key": "session-1",
    "metadata": {"a": "b"},
    "store": False,
}
RESPONSES: dict[str, Any] = {
    "model": "duet",
    "instructions": "Be short.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "A note."}], "id": "msg_1"},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Weather?"}, {"type": "input_image", "image_url": _IMAGE}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "look"}],
            "encrypted_content": "AA==",
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look_up", "arguments": '{"town":"Bern"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "item_reference", "id": "rs_2"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_2",
            "content": [{"type": "output_text", "text": "Rain.", "annotations": []}],
        },
        {"role": "user", "content": "And tomorrow?"},
    ],
    "tools": [
        {"type": "function", "name": "look_up", "parameters": _SCHEMA, "strict": True},
        {"type": "namespace", "name": "more", "tools": [{"type": "function", "name": "inner", "parameters": _SCHEMA}]},
        {"type": "web_search"},
        {"type": "custom", "name": "patch", "format": {"type": "text"}},
    ],
    "tool_choice": {"type": "function", "name": "look_up"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": _SCHEMA, "strict": True}, "verbosity": "low"},
    "max_output_tokens": 100,
    "previous_response_id": None,
    "include": ["reasoning.encrypted_content"],
    "store": True,
    "stream": True,
    "parallel_tool_calls": True,
    "temperature": 0.5,
    "top_p": 0.9,
    "truncation": "disabled",
    "metadata": {"a": "b"},
    "user": "someone",
    "prompt_cache_key": "session-1",
}
MESSAGES: dict[str, Any] = {
    "model": "duet",
    "system": [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "look first", "signature": "AA=="},
                {"type": "redacted_thinking", "data": "AA=="},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "look_up", "input": {"town": "Bern"}},
                {"type": "server_tool_use", "id": "s1", "name": "advisor", "input": {}},
                {
                    "type": "advisor_tool_result",
                    "tool_use_id": "s1",
                    "content": {"type": "advisor_result", "text": "x"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And tomorrow?"},
            ],
        },
        {"role": "system", "content": "A note."},
    ],
    "tools": [
        {"name": "look_up", "description": "", "input_schema": _SCHEMA, "defer_loading": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 1},
    ],
    "tool_choice": {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True},
    "max_tokens": 100,
    "thinking": {"type": "enabled", "budget_tokens": 50},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": _SCHEMA}},
    "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
    "stop_sequences": ["END"],
    "stream": True,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "service_tier": "auto",
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}
WHOLE: Mapping[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (CHAT, CHAT | {"stream": False}, CHAT | {"tools": None, "response_format": None}),
    "/v1/responses": (RESPONSES, RESPONSES | {"stream": False}, RESPONSES | {"input": "Weather?", "tools": None}),
    "/v1/messages": (MESSAGES, MESSAGES | {"stream": False}, MESSAGES | {"tools": None, "output_config": None}),
    "/v1/messages/count_tokens": (MESSAGES,),
}
"""Requests that each wire answers, which use most of its fields."""

_NUMBERS = ("0", "-1", "1", "64", "65", "0.5", "-0.0", "1e308", "-1e308", "5e-324", "9007199254740993", "1" * 40)
_NO_JSON = (
    "NaN",
    "-Infinity",
    "1e999",
    "01",
    "+1",
    "'x'",
    "undefined",
    '"\x01"',
    '"\\x"',
    '"\\ud800"',
    "{,}",
    "[1,]",
    "",
)
_TEXTS = (
    *("", " ", "\0", "\n", "x" * 70_000, "é" * 3, "\U0001f600", "\u202e", "\ufeff", "<think>", "</think>", "[DONE]"),
    *("data: x\n\n", "null", "{}", "http://169.254.169.254/", "file:///etc/passwd", _IMAGE, "data:,", "../..", "%s%n"),
    *("user", "system", "developer", "assistant", "tool", "function", "text", "image_url", "input_text", "json_object"),
    *("none", "auto", "required", "any", "high", "c1", "look_up", "duet/reasoner", "duet/generator", "duet:128"),
)
ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(_NUMBERS).map(Raw),
    st.sampled_from(_TEXTS),
    st.sampled_from([None, True, False, [], {}, [None], [[]], [{}], {"": None}, {"type": None}, [""], {"a": [0]}]),
    st.sampled_from(["[]", "{}"]).flatmap(
        lambda pair: st.sampled_from([8, 60, 200, 400, 900, 5000]).map(lambda deep: _deep(pair, deep))
    ),
    st.sampled_from(_NO_JSON).map(Raw),
    st.text(max_size=8),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
"""A value that a field does not expect."""


def _deep(pair: str, levels: int) -> Raw:
    opens, closes = ('{"a":', "}") if pair == "{}" else ("[", "]")
    return Raw(opens * levels + "0" + closes * levels)


def written(value: object) -> str:
    """JSON of a value, with what stands for itself in it."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        fields = [f"{json.dumps(name)}:{written(inner)}" for name, inner in value.items()]
        return "{" + ",".join(fields * 2 if isinstance(value, Twice) else fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(inner) for inner in value) + "]"
    return json.dumps(value)


def places(value: object, here: Place = ()) -> Iterator[Place]:
    """The way to each value in a value, itself among them."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, found in inner:
        yield from places(found, (*here, step))


def changed(value: Any, place: Place, change: Any) -> Any:
    """A value with one place changed, by a function of a copy of the container there and of the last step."""
    copied = type(value)(value)
    if len(place) == 1:
        change(copied, place[0])
    else:
        copied[place[0]] = changed(copied[place[0]], place[1:], change)
    return copied


def fixtures(path: str) -> list[dict[str, Any]]:
    """What real clients have sent to a path."""
    read = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(FIXTURES.rglob("*.json")))
    return [one["body"] for one in read if one["path"].partition("?")[0].endswith(path.removeprefix("/v1"))]


@st.composite
def bodies(draw: st.DrawFn, path: str, clients: list[dict[str, Any]]) -> bytes:
    """A request to a path, with up to four places out of order; a few are no JSON at all."""
    body: Any = draw(st.sampled_from([*WHOLE[path], *clients]))
    if draw(st.booleans()):  # few fields at a time, so that one that is refused does not hide the others
        body = {name: value for name, value in body.items() if name in _NEEDED or draw(st.booleans())}
    for _ in range(draw(st.integers(0, 4))):
        ways = [place for place in places(body) if place]
        if not ways:
            break
        body = changed(body, draw(st.sampled_from(ways)), draw(_CHANGES))
    raw = written(body).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 15)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b'"', b"}", b"\0"])) + raw[at + 1 :]
    return raw


_NEEDED = frozenset({"model", "messages", "input", "max_tokens"})


def _put(odd: Any) -> Any:
    def change(container: Any, step: Any) -> None:
        container[step] = odd

    return change


def _taken(container: Any, step: Any) -> None:
    del container[step]


def _again(container: Any, step: Any) -> None:
    """A list has the value twice; an object gets it under another name."""
    if isinstance(container, list):
        container.insert(step, container[step])
    else:
        container[step + "x"] = container.pop(step)


def _in_list(container: Any, step: Any) -> None:
    container[step] = [container[step]]


def _keys_twice(container: Any, step: Any) -> None:
    if isinstance(container[step], dict):
        container[step] = Twice(container[step])


def _as_text(container: Any, step: Any) -> None:
    container[step] = written(container[step])


_CHANGES: st.SearchStrategy[Any] = st.one_of(
    ODD.map(_put), ODD.map(_put), st.sampled_from([_taken, _again, _in_list, _keys_twice, _as_text])
)
