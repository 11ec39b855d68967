"""CPU time of a two-stage request: DUET's, and that of the same call written by hand on each library.

    python benchmarks/wire.py [--rounds 11] [--cpu-s 0.4]

The server answers at once (instant_server.py), in a process of its own; so is each client, and they take turns. What is
printed is process time per request, kernel time included: the median over the rounds, and the median of the ratios
that each round gave. Run it by `make bench`, which has the libraries.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection

from callers import CALLERS
from instant_server import TEXT, serve

WARM_UP = 64


@dataclass(frozen=True)
class Case:
    """One way to call.

    Attributes:
        targets: (library, least or most, what its ratio must reach): "most" is ours over its, "least" its over ours.
    """

    name: str
    method: str
    at_once: int
    targets: tuple[tuple[str, str, float], ...]


STREAMED = (("aiohttp", "most", 2.5), ("openai", "least", 4.0), ("litellm", "least", 12.0))
WHOLE = (("aiohttp", "most", 3.0), ("openai", "least", 2.0), ("litellm", "least", 4.0))
CASES = (
    Case("stream(), both stages streamed, 16 chunks a stage, 16 at once", "streamed", 16, STREAMED),
    Case("chat(), the reasoner streamed, against two whole calls, one at a time", "whole", 1, WHOLE),
    Case("chat(), the reasoner streamed, against two whole calls, 16 at once", "whole", 16, WHOLE),
)


def client(name: str, url: str, turns: Connection) -> None:
    """A process that makes requests when told to: (method, at once, how many) → seconds of CPU each."""
    asyncio.run(_client(name, url, turns))


async def _client(name: str, url: str, turns: Connection) -> None:
    async with CALLERS[name](url) as caller:
        while (turn := turns.recv()) is not None:
            method, at_once, requests = turn
            call = getattr(caller, method)
            await make(call, at_once, min(requests, at_once))  # connections that the server or the client gave up
            gc.collect()
            start = time.process_time()
            await make(call, at_once, requests)
            turns.send((time.process_time() - start) / requests)


async def make(call: Callable[[], Awaitable[str]], at_once: int, requests: int) -> None:
    """That many requests, that many at once."""
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            text = await call()
            assert text.strip() == TEXT.strip(), text

    await asyncio.gather(*(work() for _ in range(at_once)))


def measure(rounds: int, cpu_s: float) -> dict[Case, dict[str, list[float]]]:
    """Milliseconds of CPU per request, by case and client, one for each round."""
    context = multiprocessing.get_context("spawn")
    taken: dict[Case, dict[str, list[float]]] = {case: {name: [] for name in CALLERS} for case in CASES}
    with serve() as url:
        clients: dict[str, Connection] = {}
        for name in CALLERS:
            clients[name], theirs = context.Pipe()
            context.Process(target=client, args=(name, url, theirs), daemon=True).start()

        def turn(case: Case, name: str, requests: int) -> float:
            clients[name].send((case.method, case.at_once, requests))
            return clients[name].recv() * 1000

        for case in CASES:
            requests = {name: _enough(cpu_s, turn(case, name, WARM_UP)) for name in CALLERS}
            for _ in range(rounds):
                for name in CALLERS:
                    taken[case][name].append(turn(case, name, requests[name]))
        for pipe in clients.values():
            pipe.send(None)
    return taken


def _enough(cpu_s: float, each_ms: float) -> int:
    return max(32, round(cpu_s * 1000 / each_ms / 16) * 16)


def report(case: Case, taken: dict[str, list[float]]) -> None:
    """Print one case's table and what became of its targets."""
    print(f"\n{case.name}")
    print(f"{'':20}{'ms/request':>12}{'least':>8}{'over aiohttp':>14}{'over DUET':>11}")
    for name, each in taken.items():
        over = [ratio(each, taken[base]) for base in ("aiohttp", "duet")]
        print(f"{name:20}{statistics.median(each):12.3f}{min(each):8.3f}{over[0]:13.2f}x{over[1]:10.2f}x")
    for name, kind, bound in case.targets:
        if kind == "most":
            found = ratio(taken["duet"], taken[name])
            print(f"  {'pass' if found <= bound else 'MISS'}: DUET is {found:.2f} x {name}, at most {bound:g} wanted")
        else:
            found = ratio(taken[name], taken["duet"])
            print(f"  {'pass' if found >= bound else 'MISS'}: {name} is {found:.2f} x DUET, at least {bound:g} wanted")


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cpu-s", type=float, default=0.4, help="CPU seconds of each client's turn")
    given = parser.parse_args()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches its prices when it is imported
    taken = measure(given.rounds, given.cpu_s)
    versions = ", ".join(f"{name} {version(name)}" for name in CALLERS if name != "duet")
    print(f"Python {platform.python_version()} on {platform.machine()}, {versions}")
    print(f"CPU time of the client's process, median of {given.rounds} interleaved rounds")
    for case, by_client in taken.items():
        report(case, by_client)


if __name__ == "__main__":
    main()
