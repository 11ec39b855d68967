"""What telemetry costs: CPU time of a request by what the application has set up, and latency with a faulty collector.

    PYTHONPATH=. python benchmarks/telemetry.py [--requests 2000]

A request is a two-stage call over HTTP to a server that answers at once (benchmarks/instant_server.py); all ways run in
rounds, in an order that changes, so that a busy machine slows all alike. Then the same on scripted models, where less
else is in the way; streams of them, long and short: what is spent on each token; and requests while the collector is
down, slow or refuses.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from instant_server import serve
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import _internal as metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.pipeline.observer import SILENT

SHORT, LONG = 32, 288
Way = tuple[Any, Any, bool]
"""Tracer provider, meter provider, and whether DUET observes at all."""


@contextmanager
def collector(*, status: int = 200, wait_s: float = 0.0) -> Iterator[str]:
    """A collector in a process of its own, which reads what it gets and throws it away."""
    program = [sys.executable, __file__, "--collect", str(status), str(wait_s)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/traces"
        finally:
            process.terminate()


def collect(status: int, wait_s: float) -> None:
    """Be that collector."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(wait_s)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def batches(url: str) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=2)))
    return provider


def in_memory() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def enter(duet: AsyncDuetClient, way: Way) -> None:
    # A process sets its providers once; here they change from round to round.
    trace._TRACER_PROVIDER, metrics._METER_PROVIDER, observes = way  # noqa: SLF001
    observed = duet.__dict__.setdefault("observed", duet._observer_of)  # noqa: SLF001
    duet._observer_of = observed if observes else lambda request: SILENT  # noqa: SLF001


async def cpu_us(work: Callable[[], Awaitable[object]], times: int) -> float:
    """Of all threads, and with what is left in batches sent."""
    start = time.process_time()
    for _ in range(times):
        await work()
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        provider.force_flush()
    return (time.process_time() - start) / times * 1e6


async def cost_of_a_request(url: str, requests: int, rounds: int) -> None:
    sdk, exporter = in_memory()
    meters = MeterProvider([InMemoryMetricReader()])
    with collector() as sink:
        batch = batches(sink)
        ways: dict[str, Way] = {
            "no telemetry at all": (None, None, False),
            "API only": (None, None, True),
            "metrics of the SDK": (None, meters, True),
            "spans, in memory": (sdk, None, True),
            "spans, OTLP in batches": (batch, None, True),
            "spans in batches, metrics": (batch, meters, True),
        }
        model = f"vllm/m@{url}"
        taken: dict[str, list[float]] = {name: [] for name in ways}
        async with AsyncDuetClient(model, model) as duet:
            for _ in range(50):
                await duet.chat("q")
            for _ in range(rounds):
                for name in random.sample(list(ways), len(ways)):
                    enter(duet, ways[name])
                    taken[name].append(await cpu_us(lambda: duet.chat("q"), requests // rounds))
                    exporter.clear()
            enter(duet, ways["no telemetry at all"])
        batch.shutdown()
    bare = taken["no telemetry at all"]
    print(f"\n{'CPU µs of a two-stage chat() over HTTP':36}{'median':>10}{'on top':>10}{'share':>9}")
    for name, values in taken.items():
        # Of the differences within a round: what slows the machine slows both.
        extra = statistics.median(value - base for value, base in zip(values, bare, strict=True))
        print(f"{name:36}{statistics.median(values):10.0f}{extra:10.0f}{extra / statistics.median(bare):9.1%}")


async def cost_without_http(requests: int, rounds: int) -> None:
    sdk, exporter = in_memory()
    ways: dict[str, Way] = {
        "no telemetry at all": (None, None, False),
        "API only": (None, None, True),
        "spans, in memory": (sdk, None, True),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    duet = AsyncDuetClient(Scripted("a"), Scripted("b"))
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            enter(duet, ways[name])
            taken[name].append(await cpu_us(lambda: duet.chat("q"), requests // rounds))
            exporter.clear()
    # The least of the rounds: what a busy machine adds is never less than nothing.
    base = min(taken["no telemetry at all"])
    print(f"\n{'CPU µs of chat() on scripted models':36}{'least':>10}{'on top':>10}")
    for name, values in taken.items():
        print(f"{name:36}{min(values):10.0f}{min(values) - base:10.0f}")


async def cost_of_a_token(requests: int, rounds: int) -> None:
    sdk, exporter = in_memory()
    ways: dict[str, Way] = {
        "no telemetry at all": (None, None, False),
        "API only": (None, None, True),
        "spans, in memory": (sdk, None, True),
    }
    taken: dict[tuple[str, int], list[float]] = {(name, size): [] for name in ways for size in (SHORT, LONG)}
    for _ in range(rounds):
        for size in (SHORT, LONG):
            words = Script(" ".join(f"w{number}" for number in range(size)), token_ids=True)
            duet = AsyncDuetClient(Scripted("a"), Scripted(words))

            async def stream(duet: AsyncDuetClient = duet) -> None:
                async with duet.stream("q") as run:
                    async for _ in run:
                        pass

            for name in random.sample(list(ways), len(ways)):
                enter(duet, ways[name])
                taken[name, size].append(await cpu_us(stream, max(1, requests // rounds // 4)))
                exporter.clear()
    print(f"\n{'CPU µs of each token of a stream()':36}{'least':>10}")
    for name in ways:
        print(f"{name:36}{(min(taken[name, LONG]) - min(taken[name, SHORT])) / (LONG - SHORT):10.2f}")


async def latency_with_faults(url: str, requests: int, rounds: int) -> None:
    model = f"vllm/m@{url}"
    with collector(status=400) as refusing, collector(wait_s=30) as slow, collector() as fine:
        providers = {
            "takes": batches(fine),
            "down": batches("http://127.0.0.1:9/v1/traces"),
            "slow (30 s)": batches(slow),
            "rejecting": batches(refusing),
        }
        taken: dict[str, list[float]] = {name: [] for name in providers}
        async with AsyncDuetClient(model, model) as duet:
            await duet.chat("q")
            for _ in range(rounds):
                for name, provider in providers.items():
                    enter(duet, (provider, None, True))
                    for _ in range(max(1, requests // rounds // 4)):
                        start = time.perf_counter()
                        await duet.chat("q")
                        taken[name].append((time.perf_counter() - start) * 1e3)
            enter(duet, (None, None, False))
    base = statistics.median(taken["takes"])
    print(f"\n{'latency of chat(), the collector':36}{'ms':>10}{'p99':>10}{'ratio':>9}")
    for name, values in taken.items():
        middle, late = statistics.median(values), statistics.quantiles(values, n=100)[98]
        print(f"{name:36}{middle:10.2f}{late:10.2f}{middle / base:9.2f}")


async def measure(requests: int, rounds: int) -> None:
    with serve() as url:
        await cost_of_a_request(url, requests, rounds)
        await cost_without_http(requests, rounds)
        await cost_of_a_token(requests, rounds)
        await latency_with_faults(url, requests, rounds)


if __name__ == "__main__":
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the collectors' faults are on purpose
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--collect", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect:
        collect(int(given.collect[0]), float(given.collect[1]))
    random.seed(0)
    asyncio.run(measure(given.requests, given.rounds))
