"""The gateway behind its server, on a socket, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    RateLimitError,
)
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel
from support.served_gateway import at_a_port

from duet_sdk import Limit, StreamBroken, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger

QUESTION: Any = [{"role": "user", "content": "How many primes are below 60?"}]
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@asynccontextmanager
async def asked(
    generator: Any = "There are 17 primes.", *, key: str = "secret", **options: Any
) -> AsyncIterator[AsyncOpenAI]:
    """A client of a gateway whose reasoner says "17, by sieve."."""
    async with (
        at_a_port(generator, **options) as port,
        AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client,
    ):
        yield client


async def test_models_and_a_whole_answer() -> None:
    async with asked() as client:
        assert [model.id async for model in client.models.list()][:2] == ["duet", "duet:128"]
        reply = await client.chat.completions.create(model="duet", messages=QUESTION)
    assert reply.choices[0].message.content == "There are 17 primes."
    assert reply.choices[0].message.model_extra == {"reasoning_content": "17, by sieve.", "reasoning": "17, by sieve."}
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 7
    assert reply.to_dict()["duet"]["served_by"] == "pair"


async def test_a_stream_by_the_clients_own_helper() -> None:
    async with asked() as client:
        async with client.chat.completions.stream(
            model="duet", messages=QUESTION, stream_options={"include_usage": True}
        ) as stream:
            kinds = [event.type async for event in stream]
            last = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert last.choices[0].message.content == "There are 17 primes."
    assert last.to_dict()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_round_trip_with_a_tool(streamed: bool) -> None:
    generator = Scripted(Script("", tool_calls=(ToolCall("c1", "look_up", '{"town": "Bern"}'),)), "It rains.")
    async with asked(generator) as client:
        talk = [*QUESTION]
        if streamed:
            async with client.chat.completions.stream(model="duet", messages=talk, tools=[TOOL]) as stream:
                first = await stream.get_final_completion()
        else:
            first = await client.chat.completions.create(model="duet", messages=talk, tools=[TOOL])
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls or ()
        talk += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        second = await client.chat.completions.create(model="duet", messages=talk, tools=[TOOL])
    assert second.choices[0].message.content == "It rains."


async def test_an_answer_in_a_form_of_the_callers() -> None:
    class Count(BaseModel):
        n: int

    async with asked('{"n": 17}') as client:
        reply = await client.chat.completions.parse(model="duet", messages=QUESTION, response_format=Count)
    assert reply.choices[0].message.parsed == Count(n=17)


async def test_refusals_are_the_clients_own_errors() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(requests=0))
    async with asked(ledger=ledger) as client:
        for fields, kind in (({"model": "gpt-4"}, NotFoundError), ({"model": "duet", "n": 0}, BadRequestError)):
            with pytest.raises(kind):
                await client.chat.completions.create(messages=QUESTION, **fields)
        with pytest.raises(APIStatusError) as spent:
            await client.chat.completions.create(model="duet", messages=QUESTION)
        assert (spent.value.status_code, spent.value.code) == (402, "insufficient_quota")
    async with asked(key="wrong") as client:
        with pytest.raises(AuthenticationError):
            await client.models.list()


async def test_a_stream_that_breaks_raises() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    async with asked(broken, retry={"attempts": 1}) as client:
        with pytest.raises(APIError, match="broke off"):
            async for _ in await client.chat.completions.create(model="duet", messages=QUESTION, stream=True):
                pass


async def test_a_client_that_leaves_ends_the_answer_and_its_part_is_booked() -> None:
    ledger, generator = MemoryLedger(), Scripted(Script("a b c d", stall_after=2))
    async with asked(generator, ledger=ledger) as client:
        stream = await client.chat.completions.create(model="duet", messages=QUESTION, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(20):
            while generator.open_calls:
                await asyncio.sleep(0.01)
    assert generator.cancelled == 1
    assert {entry.facts.stage for entry in await ledger.entries()} == {"reasoner", "generator"}


async def test_a_response_and_what_follows_it() -> None:
    async with asked(Scripted("There are 17 primes.", "2 is.")) as client:
        first = await client.responses.create(
            model="duet", input="How many primes are below 60?", reasoning={"summary": "auto"}
        )
        assert first.output_text == "There are 17 primes."
        assert [item.type for item in first.output] == ["reasoning", "message"]
        assert isinstance(first.output[0], ResponseReasoningItem)
        assert first.output[0].summary[0].text == "17, by sieve."
        assert first.usage is not None
        assert first.usage.output_tokens_details.reasoning_tokens == 3
        assert first.to_dict()["duet"]["served_by"] == "pair"
        second = await client.responses.create(
            model="duet", input="Which is the least?", previous_response_id=first.id, store=False
        )
        assert second.output_text == "2 is."
        assert (await client.responses.retrieve(first.id)).output_text == first.output_text
        with pytest.raises(BadRequestError, match="not known here"):
            await client.responses.create(model="duet", input="And?", previous_response_id=second.id)
        await client.responses.delete(first.id)
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(first.id)
        counted = await client.responses.input_tokens.count(model="duet", input="How many primes are below 60?")
        assert counted.input_tokens > 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_round_trip_with_a_tool_by_responses(streamed: bool) -> None:
    generator = Scripted(Script("", tool_calls=(ToolCall("c1", "look_up", '{"town": "Bern"}'),)), "It rains.")
    tool: Any = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
    more: Any = {"model": "duet", "tools": [tool], "include": ["reasoning.encrypted_content"], "store": False}
    async with asked(generator) as client:
        talk: list[Any] = [*QUESTION]
        if streamed:
            async with client.responses.stream(input=talk, **more) as stream:
                kinds = [event.type async for event in stream]
                first = await stream.get_final_response()
            assert kinds.index("response.function_call_arguments.done") < kinds.index("response.completed")
        else:
            first = await client.responses.create(input=talk, **more)
        call = first.output[-1]
        assert isinstance(call, ResponseFunctionToolCall)
        talk += [item.to_dict() for item in first.output]
        talk.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        second = await client.responses.create(input=talk, **more)
    assert second.output_text == "It rains."
    assert second.usage is not None
    assert second.usage.output_tokens_details.reasoning_tokens == 0  # the signal of the first turn


async def test_a_response_in_a_form_of_the_callers() -> None:
    class Count(BaseModel):
        n: int

    async with asked('{"n": 17}') as client:
        reply = await client.responses.parse(model="duet", input="How many?", text_format=Count)
    assert reply.output_parsed == Count(n=17)


async def test_a_response_by_the_clients_own_helper() -> None:
    async with asked() as client:
        async with client.responses.stream(model="duet", input="How many?", reasoning={"summary": "auto"}) as stream:
            events = [event async for event in stream]
            last = await stream.get_final_response()
    shown = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(shown) == "17, by sieve."
    assert events[-1].type == "response.completed"
    assert last.output_text == "There are 17 primes."


async def test_a_response_that_breaks_raises() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    async with asked(broken, retry={"attempts": 1}) as client:
        with pytest.raises(APIError, match="broke off"):
            async for _ in await client.responses.create(model="duet", input="How many?", stream=True):
                pass


async def test_a_spent_budget_is_no_402_where_codex_would_repeat_it() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(requests=0))
    async with asked(ledger=ledger) as client:
        with pytest.raises(RateLimitError) as spent:
            await client.with_options(max_retries=2).responses.create(model="duet", input="How many?")
    assert spent.value.code == "insufficient_quota"
    assert spent.value.response.headers["x-should-retry"] == "false"
    assert spent.value.request.headers["x-stainless-retry-count"] == "0"
