"""The PromQL of the Grafana dashboard and of the alert rules, and what it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets" / "grafana"
DASHBOARD = ASSETS / "duet-dashboard.json"
RULES = ASSETS / "duet-alerts.yml"

Series = Mapping[str, list[dict[str, str]]]
"""Metric, as Prometheus calls it → the labels of each of its series."""


def of_dashboard(interval: str = "5m") -> dict[str, str]:
    """Panel and target → query, with that interval in place of Grafana's."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", interval)
        for panel in panels
        for target in panel["targets"]
    }


def legends() -> dict[str, str]:
    """Panel and target → the legend of its series."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return {f"{p['title']} {target['refId']}": target["legendFormat"] for p in panels for target in p["targets"]}


def of_rules() -> dict[str, str]:
    """Alert → query."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def series_in(scraped: str) -> Series:
    """What an exporter's text offers."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def missing(query: str, series: Series) -> list[str]:
    """Each metric, label and value that a query names and no series has."""
    return [*dict.fromkeys(_missing(promql_parser.parse(query), series))]


def _missing(node: promql_parser.Expr, series: Series) -> Iterator[str]:
    names: list[str] = []
    for selector in _nodes(node, promql_parser.VectorSelector):
        names.append(selector.name)
        if selector.name not in series:
            yield f"metric {selector.name}"
            continue
        for matcher in selector.matchers.matchers:
            values = [labels.get(matcher.name) for labels in series[selector.name]]
            if all(value is None for value in values):
                yield f"label {matcher.name} of {selector.name}"
            elif not any(_matches(matcher, value or "") for value in values):
                yield f"value {matcher.value} of label {matcher.name} of {selector.name}"
    for aggregate in _nodes(node, promql_parser.AggregateExpr):
        if aggregate.modifier is None:
            continue
        below = [selector.name for selector in _nodes(aggregate.expr, promql_parser.VectorSelector)]
        for label in aggregate.modifier.labels:
            for name in below:
                if name in series and not any(label in labels for labels in series[name]):
                    yield f"label {label} of {name}"


def labels_of(query: str) -> set[str]:
    """The labels that a query's result has."""
    aggregates = _nodes(promql_parser.parse(query), promql_parser.AggregateExpr)
    return {label for one in aggregates if one.modifier is not None for label in one.modifier.labels}


def _nodes(node: promql_parser.Expr, kind: type) -> list:
    found: list = []
    promql_parser.walk(node, lambda one: found.append(one) if isinstance(one, kind) else None)
    return found


def _matches(matcher: promql_parser.Matcher, value: str) -> bool:
    op = promql_parser.MatchOp
    if matcher.op in (op.Re, op.NotRe):
        return bool(re.fullmatch(matcher.value, value)) is (matcher.op == op.Re)
    return (value == matcher.value) is (matcher.op == op.Equal)
