"""A real Phoenix, a real MLflow and a real Prometheus; `make test-observability` runs these tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import tools
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from support import server_process
from support.server_process import ServerProcess
from support.traffic import PRICES

PYTHONS = [os.environ.get(name, "") for name in ("DUET_PHOENIX_PYTHON", "DUET_MLFLOW_PYTHON")]
"""Of the environments `phoenix` and `mlflow` that .ci/environment makes."""

_running = pytest.StashKey[list[ServerProcess]]()


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    if not all(PYTHONS):
        pytest.skip("needs the environments with Phoenix and MLflow; run `make test-observability`")
    started: list[ServerProcess] = []
    try:
        started.append(tools.start_phoenix(PYTHONS[0], tmp_path_factory.mktemp("phoenix")))
        started.append(tools.start_mlflow(PYTHONS[1], tmp_path_factory.mktemp("mlflow")))
        request.config.stash[_running] = started
        for server, path in zip(started, ("/healthz", "/health"), strict=True):
            server_process.wait_until_healthy(server, path, within_s=tools.START_S)
        yield started
    finally:
        server_process.stop(started)


@pytest.fixture(scope="session")
def phoenix(running: list[ServerProcess]) -> tools.Phoenix:
    """Phoenix, which knows the prices."""
    tool = tools.Phoenix(running[0])
    for model, price in {**PRICES, "embedded": tools.EMBEDDED_PRICE}.items():
        tool.set_price(model, price)
    while True:  # prices are read anew every 5 s, and hold for spans that come afterwards
        probe = partial(tool.has_price_for, _ask_once(tool))
        if tools.wait_for(probe, "Phoenix worked out the cost of a probe") is True:
            return tool


@pytest.fixture(scope="session")
def mlflow(running: list[ServerProcess]) -> tools.MLflow:
    """MLflow, whose first spans take it many seconds."""
    tool = tools.MLflow(running[1])
    tools.read_back(tool, _ask_once(tool), lambda found: bool(found.spans))
    return tool


@pytest.fixture(params=["phoenix", "mlflow"])
def tool(request: pytest.FixtureRequest) -> tools.Tool:
    """Each of the tools."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def export_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TracerProvider]]:
    """Sets an application's provider, which sends all spans to these tools."""
    providers: list[TracerProvider] = []

    def export(*to: tools.Tool) -> TracerProvider:
        providers.append(_provider(*to))
        # A process can set its provider once; each test is to have one of its own.
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", providers[-1])
        return providers[-1]

    yield export
    for provider in providers:
        provider.shutdown()


@pytest.fixture
def exported(tool: tools.Tool, export_to: Callable[..., TracerProvider]) -> TracerProvider:
    """An application's provider, which sends all spans to the tool."""
    return export_to(tool)


def _provider(*to: tools.Tool) -> TracerProvider:
    provider = TracerProvider()
    for tool in to:
        exporter = OTLPSpanExporter(tool.traces_url, headers=dict(tool.headers), timeout=60)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _ask_once(tool: tools.Tool) -> str:
    """Send one span of an attempt, made by hand; gives its trace's id."""
    provider = _provider(tool)
    facts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "light-1",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
        "duet.stage": "generator",
    }
    with provider.get_tracer("tests").start_as_current_span("chat light-1", attributes=facts) as span:
        trace_id = format(span.get_span_context().trace_id, "032x")
    provider.shutdown()
    return trace_id


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the servers last said."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_running, []):
            report.sections.append((f"log of {server.name}", server_process.tail(server, 30)))
    return report
