"""What the vLLM backend sends."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fault_server import Answer
from support.served import QUESTION, TOOL, chunks_of, last_usage, served, text_of

from duet_sdk.backends import Call
from duet_sdk.backends.base import Thought
from duet_sdk.backends.server.wire import Dialect, encode, encoded_at_once, request_body
from duet_sdk.errors import (
    ConfigError,
    InvalidRequest,
)
from duet_sdk.policies import Sampling
from duet_sdk.reply import StageUsage
from duet_sdk.types import ImagePart, Message, TextPart, ToolCall


async def test_a_call_goes_to_the_chat_endpoint_with_its_limits():
    async with served() as (server, backend):
        await chunks_of(backend)
    assert server.seen[-1].path == "/v1/chat/completions"
    assert server.calls == [
        {
            "model": "m",
            "max_tokens": 64,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "return_token_ids": True,
            "messages": [{"role": "user", "content": "How many primes are below sixty, please?"}],
        }
    ]


async def test_a_prompt_of_ids_goes_to_the_completion_endpoint():
    async with served() as (server, backend):
        chunks = await chunks_of(backend, Call(max_tokens=2, prompt_ids=(7, 8, 9)))
    assert server.seen[-1].path == "/v1/completions"
    assert (server.calls[0]["prompt"], "messages" in server.calls[0]) == ([7, 8, 9], False)
    assert (text_of(chunks), last_usage(chunks)) == ("one two", StageUsage(3, 2))


async def test_a_whole_answer_is_asked_for_without_a_stream():
    async with served(Answer("one two", reasoning="hm", cached=3)) as (server, backend):
        chunks = await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=True))
    assert (server.calls[0]["stream"], "stream_options" in server.calls[0]) == (False, False)
    assert [(c.text, c.reasoning, c.finish_reason, c.usage) for c in chunks] == [
        ("one two", "hm", "stop", StageUsage(7, 3, 3))
    ]


async def test_sampling_is_passed_on_and_what_is_not_set_is_left_out():
    sampling = Sampling(temperature=0.0, top_p=0.9, top_k=20, min_p=0.1, seed=4, stop=("</think>",), logprobs=2)
    async with served() as (server, backend):
        await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, n=2, sampling=sampling))
    body = server.calls[0]
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "n")} == {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.1,
        "seed": 4,
        "stop": ["</think>"],
        "n": 2,
    }
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)


async def test_extra_body_reaches_the_server_and_goes_over_what_the_call_says():
    extra = {"priority": 3, "cache_salt": "a", "temperature": 1.5, "chat_template_kwargs": {"tone": "dry"}}
    call = Call(max_tokens=9, messages=QUESTION, thinking=False, sampling=Sampling(temperature=0, extra_body=extra))
    async with served() as (server, backend):
        await chunks_of(backend, call)
    body = server.calls[0]
    assert (body["priority"], body["cache_salt"], body["temperature"]) == (3, "a", 1.5)
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "tone": "dry"}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "best_of", "stream", "model", "messages"])
async def test_extra_body_cannot_lift_a_limit(name):
    async with served() as (server, backend):
        with pytest.raises(ConfigError, match=f"extra_body must not hold '{name}'"):
            await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, sampling=Sampling(extra_body={name: 1})))
    assert server.calls == []


async def test_what_json_cannot_say_is_refused_before_anything_is_sent():
    async with served() as (server, backend):
        with pytest.raises(InvalidRequest, match="what JSON cannot"):
            await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, response_format={"x": {1, 2}}))
        with pytest.raises(InvalidRequest, match="prompt of token ids"):
            await chunks_of(backend, Call(max_tokens=9, prompt_ids=(1,), tools=(TOOL,)))
    assert server.calls == []


async def test_a_number_that_json_does_not_have_is_refused_too():
    async with served() as (server, backend):
        for sampling in (Sampling(extra_body={"top_a": math.inf}), Sampling(extra_body={"seed": Decimal(1)})):
            with pytest.raises(InvalidRequest, match="what JSON cannot"):
                await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, sampling=sampling))
    assert server.calls == []


WORDS = st.text() | st.sampled_from(["a\ud83d", 'say "hi"\\\n\x00\x7f\u2028', "é🙂"])


@given(
    messages=st.lists(st.builds(Message, st.just("user"), WORDS), max_size=2).map(tuple),
    ids=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=st.none() | st.floats(0, 5) | st.integers(0, 3),
        seed=st.none() | st.integers(),
        stop=st.lists(WORDS.filter(bool), max_size=2).map(tuple),
        logprobs=st.none() | st.just(2),
        extra_body=st.sampled_from([None, {}, {"top_a": 0.5}]),
    ),
)
def test_both_ways_to_write_a_request_say_the_same(messages, ids, sampling):
    for prompt in ({"messages": messages}, {"prompt_ids": ids}):
        call = Call(max_tokens=9, sampling=sampling, **prompt)
        body = request_body(call, model="m", dialect=Dialect(token_ids=True, continuous_usage=True))
        assert json.loads(encoded_at_once(call, body) or encode(body)) == json.loads(encode(body))


async def test_lone_surrogates_do_not_break_the_request():
    async with served() as (server, backend):
        await chunks_of(backend, Call(max_tokens=9, messages=(Message("user", "a\ud83d b"),)))
    assert server.calls[0]["messages"][0]["content"] == "a? b"


async def test_messages_tools_and_formats_are_in_openai_form():
    messages = (
        Message("system", "Brief."),
        Message("user", (TextPart("What is it?"), ImagePart("https://x/y.png", "low"))),
        Message("assistant", "", tool_calls=(ToolCall("c1", "look_up", '{"a": 1}'),)),
        Message("tool", "17", tool_call_id="c1", name="look_up"),
    )
    call = Call(
        max_tokens=9, messages=messages, tools=(TOOL,), tool_choice="auto", response_format={"type": "json_object"}
    )
    async with served() as (server, backend):
        await chunks_of(backend, call)
    assert server.calls[0]["messages"] == [
        {"role": "system", "content": "Brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "content": "17", "tool_call_id": "c1", "name": "look_up"},
    ]
    assert server.calls[0]["tools"] == [TOOL]
    assert (server.calls[0]["tool_choice"], server.calls[0]["response_format"]) == ("auto", {"type": "json_object"})


@pytest.mark.parametrize(("thinking", "sent"), [(None, None), (True, {"enable_thinking": True})])
async def test_thinking_is_switched_where_the_template_listens(thinking, sent):
    async with served() as (server, backend):
        assert (await backend.connect()).switch_thinking
        await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, thinking=thinking))
    assert server.calls[0].get("chat_template_kwargs") == sent


def test_what_a_request_chooses_leaves_the_prompt_as_it_is():
    thought = Thought((1,), {})
    prompts = {"messages": (Message("user", "?"),), "prompt_ids": (1,), "thinking": True, "thought": thought}
    chosen = {"max_tokens": 3, "sampling": Sampling(seed=1), "tenant": "t", "session": "s", "tools": ({},)}
    chosen |= {"tool_choice": "auto", "response_format": {}, "n": 2, "whole": True, "joined": True}
    assert {field.name for field in fields(Call)} == {*prompts, *chosen}
    call = Call(1, **prompts)
    assert call.chosen(**chosen) == replace(call, **chosen)
