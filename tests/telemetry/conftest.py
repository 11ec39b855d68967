"""Providers as an application sets them, and what came out at their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@dataclass
class Spans:
    """Every ended span, in the order in which they ended."""

    exporter: InMemorySpanExporter
    provider: TracerProvider

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, start: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name.startswith(start)]

    @property
    def root(self) -> ReadableSpan:
        (root,) = self.named("invoke_workflow duet")
        return root

    @property
    def attempts(self) -> list[ReadableSpan]:
        return self.named("chat ")

    @property
    def gate(self) -> ReadableSpan:
        (gate,) = self.named("duet.gate")
        return gate

    def written(self) -> str:
        """All that an exporter would send, as text."""
        return "\n".join(span.to_json() for span in self.all)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """A provider is set, and its spans are kept."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process can set its provider once; each test is to have one of its own.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return Spans(exporter, provider)


class Numbers:
    """Every data point, by metric."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def __getitem__(self, name: str) -> list:
        return self.points().get(name, [])

    def points(self) -> dict[str, list]:
        data = self._reader.get_metrics_data()
        found: dict[str, list] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found.setdefault(metric.name, []).extend(metric.data.data_points)
        return found


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Numbers]:
    """A meter provider is set, and its data points are kept."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", provider)
    yield Numbers(reader)
    provider.shutdown()
