"""The gateway behind its server, on a socket, asked by Anthropic's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import (
    APIStatusError,
    AsyncAnthropic,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
)
from support.served_gateway import at_a_port

from duet_sdk import Limit, StreamBroken, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger

QUESTION: Any = {
    "model": "duet",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "How many primes are below 60?"}],
}
TOOL: Any = {"name": "look_up", "input_schema": {"type": "object"}}


@asynccontextmanager
async def asked(
    generator: Any = "There are 17 primes.", *, key: str = "secret", **options: Any
) -> AsyncIterator[AsyncAnthropic]:
    """A client of a gateway."""
    async with (
        at_a_port(generator, **options) as port,
        AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key=key, max_retries=0) as client,
    ):
        yield client


async def test_models_and_a_whole_answer_with_its_thinking() -> None:
    async with asked() as client:
        assert [model.id async for model in client.models.list()][:2] == ["duet", "duet:128"]
        assert (await client.models.retrieve("duet:128")).display_name == "duet:128"
        reply = await client.messages.create(**QUESTION)
    thinking, text = reply.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, bool(thinking.signature)) == ("17, by sieve.", True)
    assert text.type == "text"
    assert text.text == "There are 17 primes."
    assert reply.stop_reason == "end_turn"
    assert reply.usage.output_tokens == 7
    assert reply._request_id == reply.to_dict()["duet"]["receipt"]  # type: ignore[index]


async def test_a_stream_by_the_clients_own_helper() -> None:
    async with asked() as client:
        async with client.messages.stream(**QUESTION) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            last = await stream.get_final_message()
    assert text == "There are 17 primes."
    thinking, said = last.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, bool(thinking.signature)) == ("17, by sieve.", True)
    assert said.type == "text"
    assert (last.stop_reason, last.usage.output_tokens) == ("end_turn", 7)


@pytest.mark.parametrize("display", ["summarized", "omitted"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_round_trip_with_a_tool_and_thinking(streamed: bool, display: str) -> None:
    reasoner = Scripted("look first", "never asked")
    generator = Scripted(
        Script("One moment.", tool_calls=(ToolCall("c1", "look_up", '{"town": "Bern"}'),)), "It rains."
    )
    options: Any = {"tools": [TOOL], "thinking": {"type": "adaptive", "display": display}}
    async with asked(generator, reasoner=reasoner) as client:
        if streamed:
            async with client.messages.stream(**QUESTION, **options) as stream:
                first = await stream.get_final_message()
        else:
            first = await client.messages.create(**QUESTION, **options)
        thinking, text, call = first.content
        assert (thinking.type, text.type, call.type) == ("thinking", "text", "tool_use")
        assert thinking.thinking == ("" if display == "omitted" else "look first")
        assert (call.name, call.input, first.stop_reason) == ("look_up", {"town": "Bern"}, "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        talk = [
            {"role": "user", "content": "And where I am?"},  # what found the signal by its calls would miss it
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = await client.messages.create(**{**QUESTION, "messages": talk}, **options)
    assert [block.type for block in second.content] == ["text"]
    assert second.content[0].to_dict()["text"] == "It rains."
    assert len(reasoner.calls) == 1


async def test_an_answer_in_a_form_of_the_callers() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    generator = Scripted('{"n": 17}')
    async with asked(generator) as client:
        wanted: Any = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
        reply = await client.messages.create(**QUESTION, output_config=wanted)
    assert reply.content[-1].to_dict()["text"] == '{"n": 17}'
    assert generator.calls[0].response_format["json_schema"]["schema"] == schema  # type: ignore[index]


async def test_tokens_are_counted() -> None:
    async with asked() as client:
        counted = await client.messages.count_tokens(model="duet", messages=QUESTION["messages"], system="Be brief.")
        assert counted.input_tokens == 8
        thinking: Any = {"role": "assistant", "content": [{"type": "thinking", "thinking": "a b c", "signature": ""}]}
        assert (await client.messages.count_tokens(model="duet", messages=[thinking])).input_tokens == 3


async def test_refusals_are_the_clients_own_errors() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(requests=0))
    async with asked(ledger=ledger) as client:
        for fields, kind in (({"model": "claude-1"}, NotFoundError), ({"max_tokens": 0}, BadRequestError)):
            with pytest.raises(kind) as refused:
                await client.messages.create(**{**QUESTION, **fields})
            assert refused.value.request_id
        with pytest.raises(APIStatusError) as spent:
            await client.messages.create(**QUESTION)
        assert (spent.value.status_code, spent.value.type) == (402, "billing_error")
    async with asked(key="wrong") as client:
        with pytest.raises(AuthenticationError):
            await client.messages.create(**QUESTION)
        with pytest.raises(AuthenticationError):
            await client.models.list()


async def test_a_stream_that_breaks_raises() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    async with asked(broken, retry={"attempts": 1}) as client:
        with pytest.raises((APIStatusError, InternalServerError), match="broke off"):
            async with client.messages.stream(**QUESTION) as stream:
                async for _ in stream:
                    pass
