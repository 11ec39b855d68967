"""vLLM's own spans hang under those of the attempts that it served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from conftest import PYTHON
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import server_process, vllm_servers
from support.collector import Received, grpc_collector

from duet_sdk import AsyncDuetClient, Budget

pytestmark = pytest.mark.vllm
EXPORTED_S = 20


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[vllm_servers.Server, Received]]:
    """A server of its own that exports its spans: the others must not wait for a collector."""
    if not PYTHON:
        pytest.skip("needs the environment with vLLM; run `make test-vllm`")
    log = tmp_path_factory.mktemp("traced") / "traced.log"
    with grpc_collector() as received:
        flags = ["--otlp-traces-endpoint", received.url]
        server = vllm_servers.launch(PYTHON, "plain", vllm_servers.models.embedded(), log, flags=flags)
        try:
            vllm_servers.wait_until_ready([server])
            yield server, received
        finally:
            server_process.stop([server])


async def test_the_server_s_spans_hang_under_the_attempts(traced, monkeypatch):
    server, received = traced
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    limits = Budget(signal_tokens=8, answer_tokens=8)
    async with AsyncDuetClient(server.model, server.model, budget=limits) as duet:
        reply = await duet.chat("What is the capital of France?")
    attempts = {span.context.span_id.to_bytes(8, "big"): span for span in exporter.get_finished_spans()}
    until = time.monotonic() + EXPORTED_S
    while len(theirs := [span for span in received.spans if span.parent_span_id in attempts]) < 2:
        assert time.monotonic() < until, "vLLM exported no span that hangs under an attempt"
        await asyncio.sleep(0.2)
    written = {}
    for span in theirs:
        assert span.name == "llm_request"
        told = {one.key: one.value.int_value for one in span.attributes}
        written[attempts[span.parent_span_id].attributes["duet.stage"]] = told["gen_ai.usage.completion_tokens"]
    assert written == {
        "reasoner": reply.usage.reasoner.output_tokens,
        "generator": reply.usage.generator.output_tokens,
    }
