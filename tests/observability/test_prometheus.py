"""A real Prometheus scrapes DUET's metrics, and answers every query of the dashboard and of the alert rules."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import promql_parser
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server
from support import queries, server_process
from support.server_process import ServerProcess
from support.traffic import ask_in_every_way
from tools import wait_for

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus")

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs: [{{job_name: duet, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
REQUESTS = "sum(gen_ai_invoke_workflow_duration_seconds_count)"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, server: ServerProcess) -> None:
        self._root = server.root

    def ask(self, query: str, *, at: float | None = None) -> list[float]:
        """The values of the result's series, by default those of now."""
        asked = urllib.parse.urlencode({"query": query} | ({} if at is None else {"time": at}))
        with urllib.request.urlopen(f"{self._root}/api/v1/query?{asked}", timeout=30) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]

    def wait_until_seen(self, requests: int) -> None:
        """Wait until so many requests have been scraped."""
        wait_for(lambda: self.ask(REQUESTS) == [requests] or None, f"Prometheus scraped {requests} requests")

    def rules(self) -> dict[str, str]:
        """Alert → how its last evaluation went."""
        with urllib.request.urlopen(f"{self._root}/api/v1/rules", timeout=30) as answer:
            return {
                rule["name"]: rule["health"] for group in json.load(answer)["data"]["groups"] for rule in group["rules"]
            }


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an application's exporter."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)])
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", provider)
    port = server_process.free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    yield port
    server.shutdown()
    server.server_close()
    thread.join()
    provider.shutdown()


@pytest.fixture
async def prometheus(exporter: int, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that has seen requests of every kind, and then more of them."""
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(port=exporter, rules=queries.RULES))
    port = server_process.free_port()
    command = [
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = tmp_path / "prometheus.log"
    server = server_process.start("prometheus", command, port=port, log=log, environment={"PATH": "/usr/bin:/bin"})
    try:
        server_process.wait_until_healthy(server, "/-/ready", within_s=60)
        running = Prometheus(server)
        for requests in (6, 12):  # a rate needs a series twice, with a change in between
            await ask_in_every_way()
            running.wait_until_seen(requests)
        yield running
    finally:
        server_process.stop([server])


async def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus) -> None:
    answers = {panel: prometheus.ask(query) for panel, query in queries.of_dashboard("1m").items()}
    assert {panel for panel, values in answers.items() if not values or any(map(math.isnan, values))} == set()


async def test_the_numbers_of_the_dashboard_are_those_of_the_requests(prometheus: Prometheus) -> None:
    now = time.time()
    answers = {panel: prometheus.ask(query, at=now) for panel, query in queries.of_dashboard("1m").items()}
    assert answers["Signals cut A"] == [pytest.approx(1 / 3)]
    assert answers["Failed requests A"] == [pytest.approx(2 / 6)]
    assert sum(answers["Cost by stage A"]) == pytest.approx(answers["Cost per hour A"][0])


async def test_every_alert_rule_is_evaluated_on_numbers(prometheus: Prometheus) -> None:
    judged = {alert: promql_parser.parse(rule).lhs.prettify() for alert, rule in queries.of_rules().items()}
    assert {alert for alert, query in judged.items() if not prometheus.ask(query)} == set()
    wait_for(partial(_all_evaluated, prometheus), "Prometheus evaluated every rule")


def test_the_alert_rules_are_valid() -> None:
    done = subprocess.run(["promtool", "check", "rules", queries.RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _all_evaluated(prometheus: Prometheus) -> bool | None:
    health = prometheus.rules()
    return (set(health) == set(queries.of_rules()) and set(health.values()) == {"ok"}) or None
