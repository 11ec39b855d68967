"""`configure` exports what requests tell; whatever the collector does, requests go on."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once
from support.collector import Received, grpc_collector, http_collector
from typer.testing import CliRunner

from duet_sdk import AsyncDuetClient, telemetry
from duet_sdk.cli.app import app
from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.pipeline.observer import SILENT
from duet_sdk.request import Request
from duet_sdk.telemetry.request import observer_of
from duet_sdk.types import Message

SPANS = ["chat a", "chat b", "duet.gate", "invoke_workflow duet"]


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process that has set no providers yet."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER_SET_ONCE", Once())
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture
def collector() -> Iterator[Received]:
    with http_collector() as received:
        yield received


async def ask(**options):
    async with AsyncDuetClient("scripted/a", "scripted/b") as duet:
        return await duet.chat("q", **options)


@pytest.mark.usefixtures("process")
async def test_spans_and_metrics_go_to_the_collector_over_http(collector):
    exporting = telemetry.configure(collector.url + "/", headers={"x-key": "k"}, resource={"team": "blue"})
    await ask()
    assert exporting.flush()
    assert collector.names() == SPANS
    assert "gen_ai.client.token.usage" in collector.metrics
    assert collector.headers[0]["x-key"] == "k"
    assert collector.resources[0]["service.name"] == "duet"
    assert collector.resources[0]["team"] == "blue"
    assert (exporting.spans.ended, exporting.spans.delivered, exporting.spans.undelivered) == (4, 4, 0)
    exporting.shutdown()


@pytest.mark.usefixtures("process")
async def test_spans_and_metrics_go_to_the_collector_over_grpc():
    with grpc_collector() as received:
        exporting = telemetry.configure(received.url, protocol="grpc", headers={"x-key": "k"})
        await ask()
        assert exporting.flush()
        assert received.names() == SPANS
        assert "duet.gate.decisions" in received.metrics
        assert received.headers[0]["x-key"] == "k"
        exporting.shutdown()


@pytest.mark.usefixtures("process")
async def test_the_standard_s_variables_hold_where_nothing_is_said(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,team=red")
    exporting = telemetry.configure()
    await ask()
    assert exporting.flush()
    assert collector.names() == SPANS
    assert (collector.resources[0]["service.name"], collector.resources[0]["team"]) == ("mine", "red")
    exporting.shutdown()


@pytest.mark.usefixtures("process")
async def test_a_tool_that_takes_traces_alone_is_sent_no_metrics(collector, monkeypatch):
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    exporting = telemetry.configure(collector.url)
    await ask()
    assert exporting.flush()
    exporting.shutdown()
    assert collector.names() == SPANS
    assert not collector.metrics


@pytest.mark.usefixtures("process")
async def test_only_a_share_of_traces_is_kept(collector):
    exporting = telemetry.configure(collector.url, sampled_share=0.0)
    await ask()
    assert exporting.flush()
    assert collector.spans == []
    assert exporting.spans.ended == 0
    exporting.shutdown()


@pytest.mark.usefixtures("process")
def test_a_provider_that_the_application_has_set_is_left_alone():
    trace.set_tracer_provider(TracerProvider())
    with pytest.raises(ConfigError, match="already"):
        telemetry.configure("http://127.0.0.1:9")


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(("options", "word"), [({"sampled_share": 1.5}, "sampled_share"), ({"protocol": "udp"}, "udp")])
def test_values_that_cannot_work_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        telemetry.configure("http://127.0.0.1:9", **options)
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


def test_without_the_extra_its_name_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    monkeypatch.delitem(sys.modules, "duet_sdk.telemetry.export", raising=False)
    with pytest.raises(MissingExtra, match=r"\[otel\]"):
        telemetry.configure()


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("fault", ["down", "slow", "rejecting", "overloaded"])
async def test_a_collector_s_faults_leave_requests_alone_and_what_is_lost_is_counted(collector, fault, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    url = collector.url if fault != "down" else "http://127.0.0.1:9"
    collector.status = {"rejecting": 400, "overloaded": 503}.get(fault, 200)
    if fault == "slow":
        collector.hold.clear()
    exporting = telemetry.configure(url)
    assert (await ask()).text == "b"
    assert not exporting.flush(timeout_s=2.5)
    assert (await ask()).text == "b"
    assert (exporting.spans.ended, exporting.spans.delivered, exporting.spans.undelivered) == (8, 0, 8)
    exporting.shutdown(timeout_s=0.1)


@pytest.mark.usefixtures("process")
async def test_a_full_queue_drops_and_counts(collector, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    collector.hold.clear()
    exporting = telemetry.configure(collector.url)
    for _ in range(5):
        await ask()
    collector.hold.set()
    assert not exporting.flush()
    assert exporting.spans.ended == 20
    assert exporting.spans.delivered == len(collector.spans) <= 12
    exporting.shutdown()


def test_what_is_left_is_flushed_when_the_program_ends(collector):
    program = f"""
        from duet_sdk import DuetClient, telemetry
        telemetry.configure({collector.url!r})
        with DuetClient("scripted/a", "scripted/b") as duet:
            duet.chat("q")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
    assert collector.names() == SPANS


def test_a_collector_that_never_answers_does_not_keep_the_program_from_ending(collector):
    collector.hold.clear()
    program = f"""
        import time
        from duet_sdk import DuetClient, telemetry
        telemetry.configure({collector.url!r})
        with DuetClient("scripted/a", "scripted/b") as duet:
            duet.chat("q")
        print(time.time())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, capture_output=True, text=True
    )
    assert time.time() - float(done.stdout) < 12


@pytest.mark.usefixtures("process")
def test_the_command_line_exports_where_it_is_told(collector):
    done = CliRunner().invoke(
        app, ["ask", "q", "--reasoner", "scripted/a", "--generator", "scripted/b", "--otlp", collector.url]
    )
    assert (done.exit_code, done.stdout) == (0, "b\n")
    assert collector.names() == SPANS


@pytest.mark.usefixtures("process")
def test_a_talk_is_exported_turn_by_turn(collector):
    options = ["--reasoner", "scripted/a", "--generator", "scripted/b", "--otlp", collector.url]
    assert CliRunner().invoke(app, ["chat", *options], input="one\ntwo\n\n").exit_code == 0
    assert collector.names() == sorted(SPANS * 2)


@pytest.mark.usefixtures("process")
def test_the_command_line_says_what_did_not_reach_the_collector(collector):
    collector.status = 400
    done = CliRunner().invoke(
        app, ["ask", "q", "--reasoner", "scripted/a", "--generator", "scripted/b", "--otlp", collector.url]
    )
    assert (done.exit_code, done.stdout) == (0, "b\n")
    assert f"4 spans did not reach {collector.url}" in done.stderr


@pytest.mark.usefixtures("process")
def test_where_nobody_could_hear_of_a_request_nobody_observes_it():
    assert observer_of(Request((Message("user", "q"),)), ()) is SILENT
    trace.set_tracer_provider(TracerProvider())
    assert observer_of(Request((Message("user", "q"),)), ()) is not SILENT


def test_with_the_api_package_alone_requests_work_and_no_sdk_is_loaded():
    program = """
        import sys
        from importlib.abc import MetaPathFinder

        class NoSdk(MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.semconv")):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NoSdk())
        from duet_sdk import DuetClient
        with DuetClient("scripted/a", "scripted/b") as duet:
            print(duet.chat("q").text)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert done.stdout == "b\n"
