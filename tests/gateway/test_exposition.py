"""Prometheus' text form: names of tenants cannot break a line, and pages of several workers are one page."""

from __future__ import annotations

from pathlib import Path

from duet_sdk.gateway.exposition import Histogram, Lines
from duet_sdk.gateway.metrics import Metrics
from duet_sdk.gateway.worker_metrics import WorkerMetrics


def test_a_label_is_escaped() -> None:
    lines = Lines("x_", {})
    lines.counter("total", "About it", ("tenant",), [('a"b\\c\nd', 1)])
    assert str(lines) == '# HELP x_total About it\n# TYPE x_total counter\nx_total{tenant="a\\"b\\\\c\\nd"} 1\n'


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 7):
        histogram.add(value)
    lines = Lines("", {})
    lines.histogram("s", "Seconds", histogram)
    assert str(lines).splitlines()[2:] == [
        's_bucket{le="0.1"} 1',
        's_bucket{le="1"} 2',
        's_bucket{le="+Inf"} 3',
        "s_sum 7.600000",
        "s_count 3",
    ]


def test_any_worker_shows_those_of_all(tmp_path: Path) -> None:
    other, own = Metrics(), Metrics()
    other.running, own.running = 3, 5
    WorkerMetrics(tmp_path, 1).write(other)
    page = WorkerMetrics(tmp_path, 0).all(own)
    assert page.splitlines()[:4] == [
        "# HELP duet_gateway_requests_running Requests that are being answered",
        "# TYPE duet_gateway_requests_running gauge",
        'duet_gateway_requests_running{worker="0"} 5',
        'duet_gateway_requests_running{worker="1"} 3',
    ]
    assert page.count("# TYPE duet_gateway_requests_total counter") == 1
