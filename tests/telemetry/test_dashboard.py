"""The dashboard and the alert rules ask for nothing that DUET does not export."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from support import queries
from support.traffic import ask_in_every_way


@pytest.fixture
async def series(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[queries.Series]:
    """What is scraped after requests of every kind."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)])
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", provider)
    await ask_in_every_way()
    yield queries.series_in(generate_latest(registry).decode())
    provider.shutdown()


async def test_every_name_in_the_dashboard_is_exported(series: queries.Series) -> None:
    wrong = {
        panel: found for panel, query in queries.of_dashboard().items() if (found := queries.missing(query, series))
    }
    assert wrong == {}


async def test_every_name_in_the_alert_rules_is_exported(series: queries.Series) -> None:
    wrong = {alert: found for alert, query in queries.of_rules().items() if (found := queries.missing(query, series))}
    assert wrong == {}


async def test_every_metric_that_duet_exports_is_on_the_dashboard(series: queries.Series) -> None:
    shown = " ".join(queries.of_dashboard().values())
    exported = {re.sub("_(total|count|sum|bucket|created)$", "", name) for name in series} - {"target_info"}
    assert {name for name in exported if name not in shown} == set()


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("sum(rate(duet_cost_total[5m]))", ["metric duet_cost_total"]),
        ("sum by (stage) (rate(duet_cost_USD_total[5m]))", ["label stage of duet_cost_USD_total"]),
        ('duet_cost_USD_total{stage="reasoner"}', ["label stage of duet_cost_USD_total"]),
        ('duet_cost_USD_total{duet_stage="judge"}', ["value judge of label duet_stage of duet_cost_USD_total"]),
        (
            'duet_fallbacks_total{duet_served_by=~"none.*"}',
            ["value none.* of label duet_served_by of duet_fallbacks_total"],
        ),
        ("1 - (duet_retries_total or vector(0)) / duet_cut_total", ["metric duet_cut_total"]),
    ],
)
async def test_a_wrong_name_is_found(series: queries.Series, query: str, wrong: list[str]) -> None:
    assert queries.missing(query, series) == wrong


def test_every_legend_names_labels_of_its_query() -> None:
    asked = queries.of_dashboard()
    for panel, legend in queries.legends().items():
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= queries.labels_of(asked[panel]), panel
