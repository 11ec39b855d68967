"""An export of traces and metrics by OTLP: what `duet_sdk.telemetry.configure` starts. Import it on use only."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from duet_sdk.errors import ConfigError
from duet_sdk.telemetry.logs import add_trace_ids

Transport: TypeAlias = Literal["http/protobuf", "grpc"]
"""How traces and metrics travel."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Spans so far."""

    ended: int = 0
    """Recorded and sampled."""
    delivered: int = 0
    """Accepted by the collector."""

    @property
    def undelivered(self) -> int:
        """Waiting for the next batch; after a flush: dropped."""
        return self.ended - self.delivered


class Exporting:
    """A running export.

    Args:
        tracers: the provider that was set.
        meters: likewise.
        counting: counts what is delivered.
    """

    def __init__(self, tracers: TracerProvider, meters: MeterProvider, counting: _Counting) -> None:
        self._tracers = tracers
        self._meters = meters
        self._counting = counting

    @property
    def spans(self) -> Delivery:
        """What became of the spans so far."""
        return self._counting.so_far

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what is waiting, for at most ``timeout_s`` seconds; whether all spans so far are with the collector."""
        _within(timeout_s, self._tracers.force_flush, self._meters.force_flush)
        return self.spans.undelivered == 0

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Flush and end the export, in at most ``timeout_s`` seconds; done by itself when the program ends."""
        atexit.unregister(self.shutdown)
        _within(timeout_s, self._tracers.shutdown, self._meters.shutdown)


def _within(timeout_s: float, *works: Callable[[], object]) -> None:
    """Do these side by side, and leave those alone that take longer: the SDK waits as long as its exporters do."""
    until = time.monotonic() + timeout_s
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


class _Counting(SpanExporter):
    """An exporter that counts what the one below it delivers."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self.so_far = Delivery()

    def ended(self) -> None:
        """One more span waits."""
        with self._lock:
            self.so_far = Delivery(self.so_far.ended + 1, self.so_far.delivered)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            with self._lock:
                self.so_far = Delivery(self.so_far.ended, self.so_far.delivered + len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Batches(BatchSpanProcessor):
    """The standard's batches, with a count of what goes in: what a full queue drops appears only in its own log."""

    def __init__(self, counting: _Counting) -> None:
        super().__init__(counting)
        self._counting = counting

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._counting.ended()
        super().on_end(span)


def start(
    endpoint: str | None,
    *,
    protocol: Transport | None,
    headers: Mapping[str, str],
    resource: Mapping[str, str],
    sampled_share: float | None,
) -> Exporting:
    """Set the global providers and begin to export.

    Raises:
        ConfigError: a provider is set already, the protocol is unknown, or the endpoint is no URL.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        raise ConfigError(
            "a tracer provider is set already, and DUET's spans go to it: leave telemetry.configure() out"
        )
    named = protocol or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if named not in ("http/protobuf", "grpc"):
        raise ConfigError(f"the OTLP protocol must be http/protobuf or grpc, got {named!r}")
    exporters = _grpc if named == "grpc" else _http
    spans, numbers = exporters(endpoint, dict(headers) or None)
    about = _resource(resource)
    counting = _Counting(spans)
    sampler = None if sampled_share is None else ParentBasedTraceIdRatio(sampled_share)
    tracers = TracerProvider(resource=about, sampler=sampler, shutdown_on_exit=False)
    tracers.add_span_processor(_Batches(counting))
    # Tools for traces alone refuse metrics: the standard's variable leaves them out.
    wants_metrics = os.environ.get("OTEL_METRICS_EXPORTER", "otlp").strip() != "none"
    readers = [PeriodicExportingMetricReader(numbers)] if wants_metrics else []
    meters = MeterProvider(readers, resource=about, shutdown_on_exit=False)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    add_trace_ids()
    exporting = Exporting(tracers, meters, counting)
    atexit.register(exporting.shutdown)
    return exporting


def _resource(given: Mapping[str, str]) -> Resource:
    from_environment = OTELResourceDetector().detect().attributes
    name = {} if SERVICE_NAME in from_environment else {SERVICE_NAME: "duet"}
    return Resource.create({**name, **given})


def _http(endpoint: str | None, headers: dict[str, str] | None) -> tuple[SpanExporter, MetricExporter]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    root = None if endpoint is None else _url(endpoint).rstrip("/")
    to = {signal: None if root is None else f"{root}/v1/{signal}" for signal in ("traces", "metrics")}
    return OTLPSpanExporter(to["traces"], headers=headers), OTLPMetricExporter(to["metrics"], headers=headers)


def _url(endpoint: str) -> str:
    """The address, unless nothing could be sent to it: the exporter would say so only after the first request.

    Raises:
        ConfigError: it is no URL with a host; the message does not quote it, as it may hold a password.
    """
    try:
        parts = urlsplit(endpoint)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(
            "the collector's address must be a URL such as http://127.0.0.1:4318; one that takes gRPC, as on port "
            "4317, needs OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        )
    return endpoint


def _grpc(endpoint: str | None, headers: dict[str, str] | None) -> tuple[SpanExporter, MetricExporter]:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint, headers=headers), OTLPMetricExporter(endpoint, headers=headers)
