"""No content by default; with it turned on, bounded and of any shape."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import _internal as logs_internal
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from duet_sdk import AsyncDuetClient, Message
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import BackendError, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.telemetry.content import LIMIT_CHARS, VARIABLE, as_attribute
from duet_sdk.types import ImagePart, TextPart, ToolCall

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
WORDS = ("squirrel", "walnut", "beech", "otter")


async def ask(question="squirrel", **options):
    reasoner = Scripted(Script("walnut", reasoning="otter"))
    async with AsyncDuetClient(reasoner, Scripted("beech"), **options) as duet:
        return await duet.chat(question)


def messages(span, which):
    return json.loads(span.attributes[f"gen_ai.{which}.messages"])


async def test_no_content_is_anywhere_by_default(spans, numbers):
    await ask()
    failed = Script(
        "walnut", error=StreamBroken("otter", backend="scripted", model="lines", partial="beech"), fail_after=1
    )
    async with AsyncDuetClient(Scripted(failed), Scripted(failed), retry=Retry(attempts=1)) as duet:
        with pytest.raises(BackendError):
            await duet.chat("squirrel", mode="generator")
    told = spans.written() + repr(numbers.points())
    assert not [word for word in WORDS if word in told]


@pytest.mark.parametrize("word", ["SPAN_ONLY", "span_and_event", " SPAN_ONLY "])
async def test_content_is_on_spans_where_it_is_asked_for(spans, monkeypatch, word):
    monkeypatch.setenv(VARIABLE, word)
    await ask()
    signal, answer = spans.attempts
    assert messages(signal, "input")[-1]["role"] == "user"
    assert "squirrel" in messages(signal, "input")[-1]["parts"][0]["content"]
    assert messages(signal, "output") == [
        {
            "role": "assistant",
            "parts": [{"type": "reasoning", "content": "otter"}, {"type": "text", "content": "walnut"}],
            "finish_reason": "stop",
        }
    ]
    assert "walnut" in json.dumps(messages(answer, "input"))
    assert messages(spans.root, "input") == [{"role": "user", "parts": [{"type": "text", "content": "squirrel"}]}]
    assert messages(spans.root, "output")[0]["parts"] == [{"type": "text", "content": "beech"}]


@pytest.mark.parametrize("word", ["", "NO_CONTENT"])
async def test_content_is_off_by_the_words_for_that(spans, monkeypatch, word):
    monkeypatch.setenv(VARIABLE, word)
    await ask()
    assert "squirrel" not in spans.written()


async def test_an_unknown_word_captures_nothing_and_is_warned_of(spans, monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "true")
    with caplog.at_level(logging.WARNING, "duet_sdk"):
        await ask()
    assert "squirrel" not in spans.written()
    assert "SPAN_ONLY" in caplog.text


async def test_events_hold_content_where_it_is_asked_for(spans, monkeypatch):
    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    monkeypatch.setattr(logs_internal, "_LOGGER_PROVIDER", provider)
    monkeypatch.setenv(VARIABLE, "EVENT_ONLY")
    await ask()
    assert "squirrel" not in spans.written()
    records = [found.log_record for found in exporter.get_finished_logs()]
    assert [record.event_name for record in records] == ["gen_ai.client.inference.operation.details"] * 2
    assert records[0].attributes["gen_ai.output.messages"][0]["parts"][1]["content"] == "walnut"
    assert [record.span_id for record in records] == [span.context.span_id for span in spans.attempts]
    provider.shutdown()


async def test_an_error_s_words_are_kept_only_with_content(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    failed = Script(error=BackendError("the otter is out", backend="scripted", model="lines"))
    async with AsyncDuetClient(Scripted(failed), "scripted/b", on_failure="raise") as duet:
        with pytest.raises(BackendError):
            await duet.chat("q")
    assert spans.root.status.description == "the otter is out"


async def test_tools_calls_and_results_are_written_as_the_conventions_write_them(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    call = ToolCall("1", "look_up", '{"of": "otter"}')
    talk = [
        Message("user", "q"),
        Message("assistant", "", (ToolCall("0", "look_up", "{}"),)),
        Message("tool", "found", tool_call_id="0"),
    ]
    async with AsyncDuetClient("scripted/a", Scripted(Script(tool_calls=(call,)))) as duet:
        await duet.chat(talk, tools=[TOOL], mode="generator")
    (attempt,) = spans.attempts
    assert messages(attempt, "input")[-2:] == [
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "0", "name": "look_up", "arguments": "{}"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "0", "response": "found"}]},
    ]
    asked = {"type": "tool_call", "id": "1", "name": "look_up", "arguments": '{"of": "otter"}'}
    assert messages(attempt, "output")[0]["parts"] == messages(spans.root, "output")[0]["parts"][1:] == [asked]
    assert json.loads(attempt.attributes["gen_ai.tool.definitions"])[0]["name"] == "look_up"


async def test_of_an_image_only_its_address_is_kept(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    content = (TextPart("see"), ImagePart("data:image/png;base64," + "A" * 5000), ImagePart("https://e.org/a.png"))
    await ask([Message("user", content)])
    assert "AAAA" not in spans.written()
    assert [part.get("uri") for part in messages(spans.root, "input")[0]["parts"]] == [
        None,
        "data:image/png;base64",
        "https://e.org/a.png",
    ]


HOSTILE = {
    "huge": "x" * 2_000_000,
    "many quotes": '"' * 100_000,
    "control characters": "\x00\x01\x1b[31m" * 10_000,
    "half a surrogate pair": "a \ud800 b " * 5000,
    "wide characters": "𝔘🦦" * 50_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_content_is_cut_to_the_limit_and_can_be_exported(spans, monkeypatch, text):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    words = text[:200_000].replace(" ", "_") or "x"
    async with AsyncDuetClient(
        Scripted(Script(words)), Scripted(Script(words)), trace_dialects=["openinference"]
    ) as duet:
        await duet.chat(
            [Message("system", text), *[Message("user", text)] * 3],
            session=text[:1000],
            user=text[:1000],
            metadata={text[:50]: text},
        )
    for span in spans.all:
        for name, value in span.attributes.items():
            if isinstance(value, str):
                assert len(value) <= LIMIT_CHARS, name
                value.encode()
            if name.endswith(".messages"):
                assert json.loads(value)
    assert encode_spans(spans.all).SerializeToString()


async def test_the_standard_s_limit_is_kept_and_the_json_stays_whole(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "300")
    await ask("squirrel " * 1000)
    written = spans.root.attributes["gen_ai.input.messages"]
    assert len(written) <= 300
    assert json.loads(written)[0]["parts"][0]["content"].startswith("squirrel ")


def test_the_last_messages_are_kept_where_not_all_fit():
    talk = [{"role": "user", "parts": [{"type": "text", "content": f"{number} " + "x" * 500}]} for number in range(9)]
    written = json.loads(as_attribute(talk, 1200))
    assert written[-1]["parts"][0]["content"].startswith("8 xxx")
    assert len(written[0]["parts"][0]["content"]) < 20


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=())), max_size=4), max_size=30),
    st.integers(min_value=64, max_value=2000),
)
def test_whatever_the_texts_their_attribute_is_json_within_the_limit(talk, limit):
    given_messages = [
        {"role": "user", "parts": [{"type": "text", "content": text} for text in texts]} for texts in talk
    ]
    written = as_attribute(given_messages, limit)
    assert len(written) <= limit
    assert isinstance(json.loads(written.encode()), list)


async def test_thinking_in_a_text_is_captured_as_thinking(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    async with AsyncDuetClient("scripted/a", "scripted/<think>walnut</think>beech") as duet:
        await duet.chat("q", mode="generator")
    (answer,) = spans.attempts
    assert messages(answer, "output")[0]["parts"] == [
        {"type": "reasoning", "content": "walnut"},
        {"type": "text", "content": "beech"},
    ]


@pytest.mark.parametrize("whole", [True, False])
async def test_what_a_provider_wants_back_is_no_content(spans, monkeypatch, whole):
    monkeypatch.setenv(VARIABLE, "SPAN_AND_EVENT")
    wants = {"message": {"encrypted_content": "otter"}, "calls": {}}
    generator = Scripted(Script("beech", provider_parts=wants))
    async with AsyncDuetClient(Scripted("walnut"), generator) as duet:
        first = await duet.chat("squirrel")
        if whole:
            await duet.chat([Message("user", "squirrel"), first.message, Message("user", "squirrel")])
        else:
            async with duet.stream([Message("user", "squirrel"), first.message, Message("user", "squirrel")]) as run:
                async for _ in run:
                    pass
    assert generator.calls[-1].messages[-2].provider_parts is not None
    assert "otter" not in spans.written()
