"""What the vLLM backend reads: fields, streams in every legal form, many at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from decimal import Decimal

import pytest
from support.fault_server import Answer, raw_server
from support.served import BY_HAND, QUESTION, TOOL, chunks_of, last_usage, served, text_of

from duet_sdk.backends import Call
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import StreamBroken
from duet_sdk.policies import Sampling
from duet_sdk.reply import StageUsage
from duet_sdk.types import ToolCall


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("whole", [False, True])
async def test_thinking_in_a_field_of_its_own_is_kept_apart(field, whole):
    async with served(Answer("17.", reasoning="let me see", reasoning_field=field)) as (_, backend):
        chunks = await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=whole))
    assert ("".join(chunk.reasoning for chunk in chunks), text_of(chunks)) == ("let me see", "17.")


@pytest.mark.parametrize("whole", [False, True])
async def test_tool_calls_come_with_id_name_and_all_of_their_arguments(whole):
    asked = (ToolCall("c1", "look_up", '{"what": "primes"}'), ToolCall("c2", "look_up", "{}"))
    async with served(Answer("", tool_calls=asked)) as (_, backend):
        chunks = await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, tools=(TOOL,), whole=whole))
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    calls = [
        ToolCall(
            next(d.id for d in deltas if d.position == at and d.id),
            next(d.name for d in deltas if d.position == at and d.name),
            "".join(d.arguments for d in deltas if d.position == at),
        )
        for at in (0, 1)
    ]
    assert tuple(calls) == asked
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("prompt", [{"messages": QUESTION}, {"prompt_ids": (1, 2)}])
@pytest.mark.parametrize("top", [0, 1])
async def test_logprobs_of_both_endpoints_have_one_form(whole, prompt, top):
    async with served(Answer("one two")) as (_, backend):
        chunks = await chunks_of(backend, Call(max_tokens=9, whole=whole, sampling=Sampling(logprobs=top), **prompt))
    found = [(item.token, item.logprob, item.top) for chunk in chunks for item in chunk.logprobs]
    assert found == [(word, -0.5, ((word, -0.5),) * top) for word in ("one", " two")]


async def test_what_arrives_together_comes_in_one_step_and_an_error_after_it():
    events = [{"choices": [{"delta": {"content": text}}]} for text in ("one ", "two ")]
    written = [*events, {"error": {"message": "the engine died"}}, *events]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in written)
    answer = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    steps = []
    async with raw_server(answer.encode()) as url:
        backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities={**BY_HAND, "thinking_budget": False})
        with pytest.raises(StreamBroken, match="the engine died"):
            async with aclosing(backend.batches(Call(max_tokens=9, messages=QUESTION))) as batches:
                async for chunks in batches:
                    steps.append([chunk.text for chunk in chunks])  # noqa: PERF401 — what came before is kept
        await backend.aclose()
    assert steps == [["one ", "two "]]


async def test_token_ids_come_with_their_tokens():
    async with served(Answer("one two three")) as (_, backend):
        chunks = await chunks_of(backend)
    assert [len(chunk.token_ids) for chunk in chunks if chunk.text] == [1, 1, 1]


async def test_running_usage_of_several_outputs_is_counted_over_the_call():
    async with served(Answer("one two three")) as (_, backend):
        chunks = await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, n=2))
    running_usage = [chunk.usage.output_tokens for chunk in chunks if chunk.usage]
    assert running_usage == sorted(running_usage)
    assert running_usage[-2:] == [6, 6]


async def test_cost_and_cached_tokens_are_read():
    async with served(Answer("one", cost=0.00125, cached=5)) as (_, backend):
        chunks = await chunks_of(backend)
    assert [chunk.cost_usd for chunk in chunks if chunk.cost_usd is not None][-1] == Decimal("0.00125")
    assert last_usage(chunks) == StageUsage(7, 1, 5)


@pytest.mark.parametrize("fault", ["odd_sse", "no_done", "slow_drip"])
async def test_every_legal_form_of_a_stream_reads_the_same(fault):
    text = "eins zwei drei четыре 五 🙂 «fünf»"
    async with served(Answer(text, fault=fault)) as (_, backend):
        chunks = await chunks_of(backend)
    assert (text_of(chunks), last_usage(chunks).output_tokens) == (text, 7)


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"choices": [{"index": 0, "delta": '
        b'{"content": "17"}, "finish_reason": "stop"}]}\n\n',
        b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n\xef\xbb\xbfdata: {"choices": '
        b'[{"delta": {"content": "17"}, "finish_reason": "eos"}]}\r\rdata: [DONE]',
    ],
)
async def test_a_stream_may_end_without_done_or_blank_line(answer):
    async with raw_server(answer) as url:
        backend = VllmBackend("m", base_url=url, context_tokens=99, capabilities=BY_HAND)
        chunks = await chunks_of(backend)
        await backend.aclose()
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("17", "stop")]


async def test_connections_are_used_again_after_streams_and_whole_answers():
    async with served() as (server, backend):
        for whole in (False, True, False):
            await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, whole=whole))
        assert server.connections <= 2  # the probes run side by side


async def test_many_streams_at_once_do_not_wait_for_one_another():
    hold = asyncio.Event()
    async with served(Answer("one two three", hold=hold, fault_after=1)) as (server, backend):
        running_calls = [asyncio.create_task(chunks_of(backend)) for _ in range(300)]
        await server.until(lambda: server.open == 300)
        hold.set()
        texts = {text_of(chunks) for chunks in await asyncio.gather(*running_calls)}
    assert (texts, server.aborted) == ({"one two three"}, 0)
