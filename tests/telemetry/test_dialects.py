"""Tools that do not read the standard's names, or not money, get their own beside them, when asked."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from google.protobuf.json_format import MessageToDict
from openinference.semconv.trace import OpenInferenceSpanKindValues, SpanAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from duet_sdk import AsyncDuetClient, Settings
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError
from duet_sdk.pricing import TokenPrice
from duet_sdk.telemetry.content import VARIABLE

PRICES = {
    "scripted/big": TokenPrice(Decimal("1"), Decimal("10")),
    "scripted/small": TokenPrice(Decimal("0.1"), Decimal("1")),
}


async def ask(*dialects, signal="a b c"):
    reasoner, generator = Scripted(signal, model="big", price=None), Scripted("d e", model="small", price=None)
    async with AsyncDuetClient(reasoner, generator, prices=PRICES, trace_dialects=dialects) as duet:
        return await duet.chat("one two", session="7", user="ann")


async def test_without_a_dialect_only_the_standard_s_names_and_duet_s_are_used(spans):
    await ask()
    own = ("gen_ai.", "duet.", "session.id", "user.id", "server.", "error.type")
    assert not [name for span in spans.all for name in span.attributes if not name.startswith(own)]


async def test_an_unknown_dialect_is_refused():
    with pytest.raises(ConfigError, match="'zipkin' is unknown; known: openinference, langfuse, mlflow"):
        AsyncDuetClient("scripted/a", "scripted/b", trace_dialects=["zipkin"])


async def test_a_dialect_can_be_set_in_the_environment(spans, monkeypatch):
    monkeypatch.setenv("DUET_TRACE_DIALECTS", '["openinference"]')
    async with AsyncDuetClient(settings=Settings(reasoner="scripted/a", generator="scripted/b")) as duet:
        await duet.chat("q")
    assert spans.root.attributes["openinference.span.kind"] == "CHAIN"


async def test_openinference_names_model_tokens_and_cost(spans):
    reply = await ask("openinference")
    signal, answer = (span.attributes for span in spans.attempts)
    assert signal["openinference.span.kind"] == "LLM"
    assert (signal["llm.model_name"], signal["llm.provider"]) == ("big", "scripted")
    assert signal["llm.token_count.prompt"] == reply.usage.reasoner.input_tokens
    assert answer["llm.token_count.completion"] == 2
    assert answer["llm.token_count.total"] == reply.usage.generator.total_tokens
    assert Decimal(str(signal["llm.cost.total"])) == reply.cost.reasoner_usd
    assert json.loads(signal["llm.invocation_parameters"])["max_tokens"] == 512
    assert (
        spans.root.attributes["openinference.span.kind"] == spans.gate.attributes["openinference.span.kind"] == "CHAIN"
    )
    assert not [name for name in spans.root.attributes if name.startswith("llm.")]


async def test_openinference_names_are_those_of_its_package(spans, monkeypatch):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    await ask("openinference")
    known = {value for value in vars(SpanAttributes).values() if isinstance(value, str)}
    ours = ("llm.", "input.", "output.", "openinference.")
    used = {name for span in spans.all for name in span.attributes if name.startswith(ours)}
    assert len(used) == 12
    assert used <= known
    kinds = {span.attributes["openinference.span.kind"] for span in spans.all}
    assert kinds <= {kind.value for kind in OpenInferenceSpanKindValues}


async def test_openinference_has_input_and_output_only_with_content(spans, monkeypatch):
    await ask("openinference")
    assert "one two" not in spans.written()
    spans.exporter.clear()
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    await ask("openinference")
    assert "one two" in spans.root.attributes["input.value"]
    assert json.loads(spans.root.attributes["output.value"])[0]["parts"][0]["content"] == "d e"


async def test_mlflow_is_told_what_an_attempt_cost(spans):
    reply = await ask("mlflow")
    told = [json.loads(span.attributes["mlflow.llm.cost"]) for span in spans.attempts]
    assert {tuple(cost) for cost in told} == {("input_cost", "output_cost", "total_cost")}
    costs = [cost["total_cost"] for cost in told]
    assert [Decimal(str(cost)) for cost in costs] == [reply.cost.reasoner_usd, reply.cost.generator_usd]
    assert "mlflow.llm.cost" not in spans.root.attributes


def as_langfuse_reads(spans):
    """A recorded export by Langfuse's documented mapping of OTLP spans to a trace and its observations.

    Source: https://langfuse.com/integrations/native/opentelemetry#property-mapping
    """
    sent = MessageToDict(encode_spans(spans.all))
    found, trace = [], {}
    for span in (s for r in sent["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]):
        values = {one["key"]: _value(one["value"]) for one in span["attributes"]}
        trace.setdefault("user", values.get("langfuse.user.id", values.get("user.id")))
        trace.setdefault("session", values.get("langfuse.session.id", values.get("session.id")))
        if "parentSpanId" not in span:
            trace["name"] = values.get("langfuse.trace.name", span["name"])
        is_generation = values.get("gen_ai.operation.name") == "chat" or "gen_ai.request.model" in values
        seen = {"name": span["name"], "type": "generation" if is_generation else "span", "usage": {}, "cost": {}}
        if is_generation:
            renamed = {"input_tokens": "input", "output_tokens": "output"}
            standard = {
                renamed.get(key, key): int(value)
                for name, value in values.items()
                if name.startswith("gen_ai.usage.") and (key := name.removeprefix("gen_ai.usage."))
            }
            details = values.get("langfuse.observation.usage_details")
            seen["usage"] = json.loads(details) if details else standard
            seen["cost"] = json.loads(values.get("langfuse.observation.cost_details", "{}"))
        found.append(seen)
    return trace, found


def _value(value):
    ((kind, content),) = value.items()
    return int(content) if kind == "intValue" else content


async def test_langfuse_reads_name_session_user_usage_and_cost(spans):
    reply = await ask("langfuse")
    trace, found = as_langfuse_reads(spans)
    assert trace == {"name": "duet", "session": "7", "user": "ann"}
    generations = [one for one in found if one["type"] == "generation"]
    assert [one["name"] for one in generations] == ["chat big", "chat small"]
    usage = [reply.usage.reasoner, reply.usage.generator]
    assert [one["usage"] for one in generations] == [
        {"input": used.input_tokens, "output": used.output_tokens, "total": used.total_tokens} for used in usage
    ]
    assert sum(Decimal(str(one["cost"]["total"])) for one in generations) == reply.cost.usd


async def test_langfuse_does_not_add_the_root_to_its_attempts(spans):
    await ask("langfuse")
    _, found = as_langfuse_reads(spans)
    others = [one for one in found if one["type"] != "generation"]
    assert [one["name"] for one in others] == ["duet.gate", "invoke_workflow duet"]
    assert [(one["usage"], one["cost"]) for one in others] == [({}, {})] * 2


async def test_langfuse_counts_reasoning_as_a_part_of_the_output(spans):
    reply = await ask("langfuse", signal=Script("a b c", reasoning="x y"))
    assert reply.usage.reasoner.output_tokens == 5
    _, found = as_langfuse_reads(spans)
    (signal,) = [one for one in found if one["name"] == "chat big"]
    assert signal["usage"]["output"] == 5
    assert set(signal["usage"]) == {"input", "output", "total"}


async def test_without_its_dialect_langfuse_reads_the_standard_s_usage(spans):
    reply = await ask()
    trace, found = as_langfuse_reads(spans)
    assert trace == {"name": "invoke_workflow duet", "session": "7", "user": "ann"}
    (signal,) = [one for one in found if one["name"] == "chat big"]
    assert signal["usage"] == {"input": reply.usage.reasoner.input_tokens, "output": 3}
    assert signal["cost"] == {}
