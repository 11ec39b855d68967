"""Streams: the signal and the answer, piece by piece."""

import asyncio
import gc

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_duet import ChatDuet
from pairs import calls, pair

from duet_sdk import Budget, DuetError, FailurePolicy, Retry, StreamBroken
from duet_sdk.backends.scripted import Script, Scripted

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def whole(chunks):
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


def test_the_signal_comes_first_then_the_answer_then_usage():
    model, *_ = pair("one two", "three four")
    chunks = list(model.stream("q"))
    assert [(c.additional_kwargs.get("reasoning_content"), c.content) for c in chunks] == [
        ("one", ""),
        (" two", ""),
        (None, "three"),
        (None, " four"),
        (None, ""),
    ]
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False, False, False, False, True]
    assert chunks[-1].chunk_position == "last"


async def test_a_stream_adds_up_to_what_a_call_gives():
    model, *_ = pair("one two", "three four")
    called, streamed = model.invoke("q"), whole([chunk async for chunk in model.astream("q")])
    assert (streamed.content, streamed.additional_kwargs, streamed.usage_metadata) == (
        called.content,
        called.additional_kwargs,
        called.usage_metadata,
    )
    kept = {**called.response_metadata, "id": None}
    assert {**streamed.response_metadata, "id": None} == kept


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_reasoning_and_a_tool_call_in_one_stream_stay_apart(version):
    model, *_ = pair("one two", calls("add", '{"a": 1}', text="I add."), output_version=version)
    streamed = whole(model.bind_tools([TOOL]).stream("q"))
    assert [{k: v for k, v in block.items() if k != "index"} for block in streamed.content_blocks] == [
        {"type": "reasoning", "reasoning": "one two"},
        {"type": "text", "text": "I add."},
        {"type": "tool_call", "name": "add", "args": {"a": 1}, "id": "c1"},
    ]


def test_the_signal_of_a_streamed_message_is_the_one_that_was_used():
    model, _, generator = pair("It is four. And th en", "Four.")
    streamed = whole(model.stream("q", budget=Budget(signal_tokens=5)))
    assert streamed.additional_kwargs["reasoning_content"] == "It is four. And th"
    assert streamed.response_metadata["signal"]["text"] == "It is four."
    assert "It is four." in generator.calls[0].messages[-1].text


def test_leaving_a_stream_early_ends_both_stages():
    reasoner, generator = Scripted("one"), Scripted(Script("two three four", stall_after=1))
    model = ChatDuet(reasoner=reasoner, generator=generator)
    for chunk in model.stream("q"):
        if chunk.content:
            break
    del chunk
    gc.collect()
    assert (generator.open_calls, generator.cancelled) == (0, 1)


async def test_leaving_an_async_stream_early_ends_both_stages():
    reasoner, generator = Scripted("one"), Scripted(Script("two three four", stall_after=1))
    stream = ChatDuet(reasoner=reasoner, generator=generator).astream("q")
    async for chunk in stream:
        if chunk.content:
            break
    await stream.aclose()
    async with asyncio.timeout(5):  # LangChain leaves the closing of what it wraps to the event loop
        while generator.open_calls:
            await asyncio.sleep(0)
    assert (generator.open_calls, generator.cancelled) == (0, 1)


def broken() -> Script:
    return Script("one two", error=StreamBroken("cut", backend="scripted", model="lines"), fail_after=1)


def test_an_answer_that_breaks_off_in_a_stream_is_an_error():
    model, *_ = pair("notes", broken(), "whole", retry=Retry(first_wait_s=0))
    seen = []
    with pytest.raises(StreamBroken):
        seen += (chunk.content for chunk in model.stream("q"))


def test_an_answer_that_starts_over_cannot_be_taken_back_from_a_stream():
    model, *_ = pair(
        "notes", broken(), "whole", retry=Retry(first_wait_s=0), on_failure=FailurePolicy(answer_broken="restart")
    )
    with pytest.raises(DuetError, match="cannot be retracted"):
        list(model.stream("q"))
    model, *_ = pair(
        "notes", broken(), "whole", retry=Retry(first_wait_s=0), on_failure=FailurePolicy(answer_broken="restart")
    )
    assert model.invoke("q").content == "whole"


async def test_events_tell_of_signal_and_answer():
    model, *_ = pair("one two", "three four")
    events = [event async for event in model.astream_events("q", version="v2")]
    chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert "".join(chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks) == "one two"
    assert "".join(chunk.text for chunk in chunks) == "three four"
    assert (events[0]["event"], events[-1]["event"]) == ("on_chat_model_start", "on_chat_model_end")


def test_the_third_version_of_events_has_a_stream_of_reasoning():
    model, *_ = pair("one two", "three four")
    stream = model.stream_events("q", version="v3")
    assert "".join(stream.reasoning) == "one two"
    assert "".join(stream.text) == "three four"
    assert stream.output.additional_kwargs["reasoning_content"] == "one two"
