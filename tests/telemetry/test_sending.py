"""What is sent belongs to the attempt's span, and no other instrumentation counts it again."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI
from opentelemetry import context, trace
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, TraceFlags
from pydantic import SecretStr
from support.fault_server import Answer
from support.served import served

from duet_sdk import AsyncDuetClient
from duet_sdk.backends import Chunk
from duet_sdk.backends.litellm.backend import LiteLLMBackend
from duet_sdk.backends.scripted import Scripted
from duet_sdk.reply import StageUsage


def sent(server):
    """The header of each call; what was asked to find out about the server is none."""
    return [seen.headers.get("traceparent") for seen in server.seen if seen.path == "/v1/chat/completions"]


def traceparent(span):
    at = span.context
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"


@pytest.mark.parametrize("whole", [True, False])
async def test_the_server_receives_the_id_of_the_attempt_s_span(spans, whole):
    async with served(Answer("one two")) as (server, backend), AsyncDuetClient(backend, backend) as duet:
        if whole:
            await duet.chat("q")
        else:
            async with duet.stream("q") as run:
                async for _ in run:
                    pass
        received = sent(server)
        assert received == [traceparent(span) for span in spans.attempts]
        signal, _ = spans.attempts
        assert signal.kind == SpanKind.CLIENT
        assert signal.attributes["server.address"] == "127.0.0.1"
        assert f":{signal.attributes['server.port']}/v1" in server.url


async def test_without_a_provider_no_trace_is_sent():
    async with served(Answer("one two")) as (server, backend), AsyncDuetClient(backend, backend) as duet:
        await duet.chat("q")
        assert not [seen for seen in server.seen if "traceparent" in seen.headers]


async def test_a_trace_that_is_not_kept_is_sent_as_such(monkeypatch):
    """A server that heard nothing would begin a trace of its own."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    async with served(Answer("one two")) as (server, backend), AsyncDuetClient(backend, backend) as duet:
        await duet.chat("q")
        received = sent(server)
    assert [int(header[-2:], 16) & TraceFlags.SAMPLED for header in received] == [0, 0]


async def test_the_application_s_baggage_is_not_sent_to_a_model(spans):
    from opentelemetry.baggage import set_baggage

    attached = context.attach(set_baggage("account", "secret"))
    try:
        async with served(Answer("one two")) as (server, backend), AsyncDuetClient(backend, backend) as duet:
            await duet.chat("q")
            assert not [seen for seen in server.seen if "baggage" in seen.headers]
    finally:
        context.detach(attached)


async def test_calls_at_the_same_time_send_spans_of_their_own(spans):
    async with served(Answer("one two")) as (server, backend), AsyncDuetClient(backend, backend) as duet:
        await asyncio.gather(*(duet.chat("q", mode="generator") for _ in range(8)))
        received = sent(server)
    assert sorted(received) == sorted(traceparent(span) for span in spans.attempts)


class ByOpenAI(Scripted):
    """A backend on the OpenAI client, as an application may bring its own."""

    def __init__(self, url):
        super().__init__(model="m")
        self._client = AsyncOpenAI(base_url=url, api_key="k")

    async def stream(self, call):
        asked = [{"role": "user", "content": "q"}]
        answer = await self._client.chat.completions.create(model="m", messages=asked, max_tokens=call.max_tokens)
        usage = StageUsage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
        yield Chunk(text=answer.choices[0].message.content, usage=usage, finish_reason="stop")

    async def aclose(self):
        await self._client.close()


@pytest.fixture
def instrumented(spans):
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield
    instrumentor.uninstrument()


@pytest.mark.usefixtures("instrumented")
async def test_an_instrumented_client_does_not_count_an_attempt_again(spans):
    async with served(Answer("one two")) as (server, _):
        backend = ByOpenAI(server.url)
        async with AsyncDuetClient(backend, backend) as duet:
            await duet.chat("q")
            assert [span.name for span in spans.attempts] == ["chat m", "chat m"]
            assert {span.instrumentation_scope.name for span in spans.all} == {"duet_sdk"}
            spans.exporter.clear()
            await backend._client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "q"}], max_tokens=4
            )
    # The application's own call is told as ever.
    (own,) = spans.all
    assert own.instrumentation_scope.name != "duet_sdk"


@pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning")  # LiteLLM's own, both
@pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute:DeprecationWarning")
@pytest.mark.usefixtures("instrumented")
async def test_litellm_s_instrumented_client_does_not_count_an_attempt_again(spans):
    async with served(Answer("one two")) as (server, _):
        backend = LiteLLMBackend("openai/m", base_url=server.url, api_key=SecretStr("k"))
        async with AsyncDuetClient(backend, backend) as duet:
            await duet.chat("q")
    assert [span.name for span in spans.attempts] == ["chat m", "chat m"]
    assert [span.attributes["gen_ai.provider.name"] for span in spans.attempts] == ["openai", "openai"]
    assert {span.instrumentation_scope.name for span in spans.all} == {"duet_sdk"}


async def test_instrumentation_by_openllmetry_is_told_to_leave_an_attempt_alone(spans):
    told = []

    class Looking(Scripted):
        async def stream(self, call):
            told.append(context.get_value("suppress_language_model_instrumentation"))
            yield Chunk(text="a", finish_reason="stop")
            told.append(trace.get_current_span())

    async with AsyncDuetClient("scripted/a", Looking()) as duet:
        await duet.chat("q", mode="generator")
    assert told[0] is True
    assert context.get_value("suppress_language_model_instrumentation") is None
