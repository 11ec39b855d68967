"""The vLLM backend on real servers: what it finds out about them, and what comes back."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import cues
import pytest

from duet_sdk import Message, Sampling
from duet_sdk.backends import Backend, Call, Chunk
from duet_sdk.backends.connect import connect
from duet_sdk.errors import ContextOverflow, ModelNotFound

pytestmark = pytest.mark.vllm

QUESTION = (Message("user", "What is the capital of France?"),)
GREEDY = Sampling(temperature=0)


@asynccontextmanager
async def connected(model: str) -> AsyncIterator[Backend]:
    _, backend = connect(model)
    try:
        await backend.connect()
        yield backend
    finally:
        await backend.aclose()


async def chunks_of(backend: Backend, call: Call) -> list[Chunk]:
    async with aclosing(backend.stream(call)) as stream:
        return [chunk async for chunk in stream]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def reasons(chunks: list[Chunk]) -> list[str]:
    return [chunk.finish_reason for chunk in chunks if chunk.finish_reason]


def ids_of(chunks: list[Chunk]) -> tuple[int, ...]:
    return tuple(at for chunk in chunks for at in chunk.token_ids)


def usage_of(chunks: list[Chunk]):
    return [chunk.usage for chunk in chunks if chunk.usage][-1]


async def test_what_a_server_can_do_is_found_out_at_connect(plain, thinker):
    async with connected(plain.model) as backend:
        can = await backend.connect()
        assert (can.context_tokens, can.prompt_ids, can.logprobs, can.response_format) == (2048, True, True, True)
        assert not can.switch_thinking
    async with connected(thinker.model) as backend:
        can = await backend.connect()
        assert (can.context_tokens, can.prompt_ids, can.switch_thinking) == (2048, True, True)


async def test_a_wrong_model_is_told_which_ones_are_served(plain):
    _, backend = connect(plain.model.replace("/plain@", "/other@"))
    with pytest.raises(ModelNotFound, match="plain"):
        await backend.connect()
    await backend.aclose()


async def test_a_stream_has_the_id_of_every_token_that_is_billed(plain, renderer):
    before = plain.generated()
    async with connected(plain.model) as backend:
        chunks = await chunks_of(backend, Call(max_tokens=16, messages=QUESTION, sampling=GREEDY))
        counted = await backend.count_tokens(QUESTION)
    assert text_of(chunks) == "The capital of France is Paris."
    assert reasons(chunks) == ["stop"]
    assert ids_of(chunks) == (*renderer.encode(text_of(chunks)), 2)
    usage = usage_of(chunks)
    assert usage.output_tokens == len(ids_of(chunks)) == plain.generated() - before
    assert usage.input_tokens == counted == 37
    # What is left early is counted as well: the prompt from the first piece on, each token by its id. A running total that
    # says no more than the ids is not passed on.
    assert chunks[0].usage is not None
    assert chunks[0].usage.input_tokens == counted
    assert all(chunk.token_ids or chunk.usage is not None for chunk in chunks)


@pytest.mark.parametrize("whole", [False, True])
async def test_the_limit_holds_to_the_token(plain, whole):
    before = plain.generated()
    async with connected(plain.model) as backend:
        call = Call(max_tokens=5, messages=QUESTION, sampling=cues.never_ends(), whole=whole)
        chunks = await chunks_of(backend, call)
    assert reasons(chunks) == ["length"]
    assert usage_of(chunks).output_tokens == 5 == plain.generated() - before


async def test_a_whole_answer_says_what_the_stream_says(plain):
    async with connected(plain.model) as backend:
        call = Call(max_tokens=16, messages=QUESTION, sampling=GREEDY)
        streamed, whole = await chunks_of(backend, call), await chunks_of(backend, replace(call, whole=True))
    assert text_of(whole) == text_of(streamed)
    assert usage_of(whole).output_tokens == usage_of(streamed).output_tokens


async def test_thinking_comes_apart_from_the_text_and_ends_at_the_closing_tag(thinker):
    sampling = replace(cues.thinks(), stop=("</think>",))
    async with connected(thinker.model) as backend:
        call = Call(max_tokens=24, messages=QUESTION, sampling=sampling, thinking=True)
        chunks = await chunks_of(backend, call)
    assert "".join(chunk.reasoning for chunk in chunks).strip() == cues.THOUGHT
    assert text_of(chunks) == ""
    assert reasons(chunks) == ["stop"]
    assert usage_of(chunks).output_tokens == len(ids_of(chunks)) <= 10


async def test_thinking_is_switched_off_by_the_template(thinker):
    async with connected(thinker.model) as backend:
        call = Call(max_tokens=4, messages=QUESTION, sampling=cues.never_ends(), thinking=False)
        chunks = await chunks_of(backend, call)
    assert text_of(chunks)
    assert not any(chunk.reasoning for chunk in chunks)
    assert usage_of(chunks).input_tokens == 20  # the empty think block is in the prompt


@pytest.mark.parametrize("whole", [False, True])
async def test_logprobs_come_with_their_tokens(plain, whole):
    async with connected(plain.model) as backend:
        call = Call(max_tokens=2, messages=QUESTION, sampling=replace(GREEDY, logprobs=2), whole=whole)
        items = [item for chunk in await chunks_of(backend, call) for item in chunk.logprobs]
    assert [item.token for item in items] == ["The", " capital"]
    assert [item.top[0][0] for item in items] == ["The", " capital"]
    assert all(len(item.top) == 2 and item.logprob <= 0 for item in items)


async def test_several_outputs_are_told_apart(plain):
    async with connected(plain.model) as backend:
        sampling = Sampling(temperature=1, seed=1, extra_body={"ignore_eos": True})
        chunks = await chunks_of(backend, Call(max_tokens=3, messages=QUESTION, sampling=sampling, n=2))
    assert text_of(chunks, 0)
    assert text_of(chunks, 1)
    assert sorted(chunk.index for chunk in chunks if chunk.finish_reason) == [0, 1]
    assert usage_of(chunks).output_tokens == len(ids_of(chunks)) == 6


async def test_an_answer_keeps_to_a_json_schema(plain):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    async with connected(plain.model) as backend:
        call = Call(max_tokens=32, messages=QUESTION, sampling=GREEDY, response_format=wanted)
        answer = text_of(await chunks_of(backend, call))
    assert json.loads(answer)["city"] in ("Paris", "Rome")


@pytest.mark.parametrize("whole", [False, True])
async def test_a_tool_call_comes_back_parsed_and_counted(thinker, whole):
    async with connected(thinker.model) as backend:
        call = Call(
            max_tokens=32,
            messages=QUESTION,
            tools=(cues.WEATHER,),
            sampling=cues.calls_weather(),
            thinking=False,
            whole=whole,
        )
        chunks = await chunks_of(backend, call)
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert [delta.name for delta in deltas if delta.name] == ["weather"]
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": "Paris"}
    assert reasons(chunks) == ["tool_calls"]
    assert text_of(chunks) == ""
    assert usage_of(chunks).output_tokens == len(ids_of(chunks)) <= 32


async def test_a_prompt_of_token_ids_is_continued(thinker, renderer):
    prompt = renderer.think_ids(QUESTION, cues.THOUGHT)
    async with connected(thinker.model) as backend:
        chunks = await chunks_of(backend, Call(max_tokens=4, prompt_ids=prompt, sampling=cues.never_ends()))
    assert usage_of(chunks).input_tokens == len(prompt)
    assert len(ids_of(chunks)) == 4
    assert renderer.decode(ids_of(chunks)).startswith(text_of(chunks))


async def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_written(plain):
    before = plain.generated()
    async with connected(plain.model) as backend:
        with pytest.raises(ContextOverflow, match="2048"):
            await chunks_of(backend, Call(max_tokens=8, messages=(Message("user", "word " * 3000),)))
    assert plain.generated() == before
