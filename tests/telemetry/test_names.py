"""The names in spans and metrics are those of the published packages."""

from __future__ import annotations

import json

from opentelemetry.metrics import get_meter_provider
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    session_attributes,
    user_attributes,
)
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.util.genai import _instruments as published
from opentelemetry.util.genai.environment_variables import OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.types import ContentCapturingMode, Error, InputMessage, OutputMessage, TextPart

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.telemetry import content, metrics, names
from duet_sdk.telemetry.attributes import PROVIDERS

PUBLISHED = {
    value
    for module in (
        gen_ai,
        error_attributes,
        http_attributes,
        server_attributes,
        session_attributes,
        user_attributes,
        gen_ai_metrics,
    )
    for value in vars(module).values()
    if isinstance(value, str)
}
OURS = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "." in value} - {
    names.SCHEMA_URL
}


def test_every_name_that_is_not_duet_s_own_is_published():
    # The workflow's duration and the event are published by opentelemetry-util-genai alone; see the tests below.
    from_util = {"gen_ai.invoke_workflow.duration", "gen_ai.client.inference.operation.details"}
    standard = {name for name in OURS if not name.startswith("duet.")}
    assert len(standard) > 30
    assert standard - PUBLISHED == from_util


def test_operations_and_providers_are_published():
    operations = {value.value for value in gen_ai.GenAiOperationNameValues}
    assert {names.CHAT, names.INVOKE_WORKFLOW} <= operations
    assert set(PROVIDERS.values()) <= {value.value for value in gen_ai.GenAiProviderNameValues}


def test_the_schema_is_that_of_the_published_instrumentation():
    assert Schemas.V1_37_0.value == names.SCHEMA_URL


def test_histograms_have_the_published_names_units_and_buckets():
    assert list(metrics.SECONDS) == published._GEN_AI_CLIENT_OPERATION_DURATION_BUCKETS
    assert list(metrics.TOKENS) == published._GEN_AI_CLIENT_TOKEN_USAGE_BUCKETS
    assert list(metrics.WORKFLOW_SECONDS) == published._GEN_AI_INVOKE_WORKFLOW_DURATION_BUCKETS
    assert names.WORKFLOW_DURATION_METRIC == published._GEN_AI_INVOKE_WORKFLOW_DURATION


def test_the_variable_for_content_and_its_values_are_the_published_ones():
    assert content.VARIABLE == OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
    assert set(content.Capture.__members__) == set(ContentCapturingMode.__members__)


async def test_spans_say_what_the_published_instrumentation_says(spans, numbers, monkeypatch):
    monkeypatch.setenv(content.VARIABLE, "SPAN_ONLY")
    handler = TelemetryHandler(tracer_provider=spans.provider)
    with handler.workflow("duet"), handler.inference("scripted", request_model="lines") as call:
        call.input_tokens, call.output_tokens, call.max_tokens = 1, 1, 64
        call.request_stream, call.finish_reasons, call.ttfc_seconds = True, ["stop"], 0.1
        call.input_messages = [InputMessage("user", [TextPart("q")])]
        call.output_messages = [OutputMessage("assistant", [TextPart("a")], "stop")]
    theirs = {span.name: span for span in spans.all}
    spans.exporter.clear()
    async with AsyncDuetClient(Scripted("a"), Scripted("a")) as duet:
        await duet.chat("q", mode="generator")
    ours = {span.name: span for span in spans.all}
    assert set(ours) == set(theirs) == {"invoke_workflow duet", "chat lines"}
    for name, span in theirs.items():
        assert set(span.attributes) <= set(ours[name].attributes)
        assert ours[name].instrumentation_scope.schema_url == span.instrumentation_scope.schema_url
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        (theirs_message,) = json.loads(theirs["chat lines"].attributes[name])
        assert theirs_message.pop("name") is None
        assert json.loads(ours["chat lines"].attributes[name]) == [theirs_message]


def test_a_failed_inference_is_told_apart_by_the_published_attribute(spans):
    handler = TelemetryHandler(tracer_provider=spans.provider)
    handler.inference("p", request_model="m").fail(Error(None, "X"))
    (failed,) = spans.all
    assert failed.attributes[names.ERROR_TYPE] == "X"


async def test_metrics_have_the_attributes_of_the_published_instrumentation(numbers, monkeypatch):
    handler = TelemetryHandler(meter_provider=get_meter_provider())
    with handler.workflow("duet"), handler.inference("scripted", request_model="lines") as call:
        call.input_tokens, call.output_tokens = 1, 1
        call.record_stream_chunk()
    theirs = {name: [set(point.attributes) for point in points] for name, points in numbers.points().items()}
    async with AsyncDuetClient(Scripted("a"), Scripted("a")) as duet:
        await duet.chat("q", mode="generator")
    ours = {
        name: [
            set(point.attributes)
            for point in points
            if "duet.stage" in point.attributes or "duet.mode" in point.attributes
        ]
        for name, points in numbers.points().items()
    }
    for name, found in theirs.items():
        assert ours[name]
        assert all(any(keys <= mine for mine in ours[name]) for keys in found), name
