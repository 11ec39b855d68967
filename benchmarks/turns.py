"""Clients in processes of their own that make two-stage requests in turn, each on the source tree that it is given.

    python benchmarks/turns.py CALLER

The process reads a JSON line a turn from standard input, `Turn`, and prints one, `Taken`. wire.py lets the libraries
take turns, against_before.py two commits: what slows a round down slows all clients in it, so a ratio is taken within
a round.
"""

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from callers import CALLERS
from instant_server import pieces_of_a_stream, switched, text

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
WARM_UP = 64
# Below this share of the reads that a stream takes apart, pieces were read together and the figure is another one.
LEAST_APART = 0.95
TRIES = 4


@dataclass(frozen=True)
class Case:
    """One way to make requests: ``whole`` or ``streamed`` of callers.py."""

    method: str
    at_once: int
    apart: bool = False

    @property
    def reads(self) -> int:
        """What one request takes where each piece of a stream is read by itself."""
        return pieces_of_a_stream() * (2 if self.method == "streamed" else 1) + (self.method == "whole")


@dataclass(frozen=True)
class Turn:
    """Make that many requests."""

    url: str
    method: str
    at_once: int
    requests: int


@dataclass(frozen=True)
class Taken:
    """What one request of a turn took: milliseconds of CPU, and reads of aiohttp's connections."""

    cpu_ms: float
    reads: float


@dataclass(frozen=True)
class Installed:
    """An interpreter with the libraries, and the source tree from which it imports the SDK."""

    python: str = sys.executable
    tree: Path = ROOT

    def command(self, script: str, *arguments: str) -> dict[str, Any]:
        """What `subprocess` takes to run one of these scripts on that tree."""
        # The same hashes in all processes: the order of a set must not make a difference between two of them.
        more = {"PYTHONPATH": str(self.tree), "PYTHONHASHSEED": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [self.python, str(BENCHMARKS / script), *arguments]
        return {"args": command, "env": {**os.environ, **more}, "text": True}

    def figures(self, script: str, *arguments: str) -> Any:
        """What one of these scripts prints as JSON in its last line."""
        done = subprocess.run(**self.command(script, *arguments), stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout.splitlines()[-1])


class Client:
    """A process that takes turns."""

    def __init__(self, caller: str, installed: Installed) -> None:
        self.process = subprocess.Popen(
            **installed.command("turns.py", caller), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about: dict[str, str] = self._answer()
        home = self.about["duet_sdk"]
        if caller == "duet" and not Path(home).is_relative_to(installed.tree):
            raise RuntimeError(f"the SDK was imported from {home}, not from {installed.tree}")

    def take(self, url: str, case: Case, requests: int) -> Taken:
        turn = Turn(switched(url, apart=case.apart), case.method, case.at_once, requests)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(turn)) + "\n")
        self.process.stdin.flush()
        return Taken(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a client's process ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


@contextmanager
def clients(wanted: dict[str, tuple[str, Installed]]) -> Iterator[dict[str, Client]]:
    """Started processes by name, of a caller each."""
    started: dict[str, Client] = {}
    try:
        for name, (caller, installed) in wanted.items():
            started[name] = Client(caller, installed)
        yield started
    finally:
        for one in started.values():
            one.close()


def take_turns(url: str, case: Case, started: dict[str, Client], rounds: int, cpu_s: float) -> dict[str, list[Taken]]:
    """What each client took in each round; every other round goes the other way round."""
    names = list(started)
    requests = {name: _enough(cpu_s, started[name].take(url, case, WARM_UP).cpu_ms) for name in names}
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(_apart(started[name], url, case, requests[name]))
    return taken


def _apart(client: Client, url: str, case: Case, requests: int) -> Taken:
    """One turn; taken anew if pieces were read together, as they are when the system lets the client wait."""
    for _ in range(TRIES if case.apart else 1):
        taken = client.take(url, case, requests)
        if taken.reads >= LEAST_APART * case.reads:
            break
    return taken


def _enough(cpu_s: float, each_ms: float) -> int:
    return max(32, round(cpu_s * 1000 / each_ms / 16) * 16)


def ratio(one: Iterable[float], other: Iterable[float]) -> float:
    """The median of the rounds' ratios: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def ratio_of_cpu(one: Iterable[Taken], other: Iterable[Taken]) -> float:
    return ratio((taken.cpu_ms for taken in one), (taken.cpu_ms for taken in other))


def were_apart(case: Case, taken: dict[str, list[Taken]]) -> tuple[bool, str] | None:
    """Whether the clients read each piece by itself, and the figures; None for a case in which they are not to."""
    if not case.apart:
        return None
    shares = {name: statistics.median(turn.reads / case.reads for turn in turns) for name, turns in taken.items()}
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return min(shares.values()) >= LEAST_APART, f"pieces read by themselves: {told}; at least {LEAST_APART:.0%} wanted"


def main() -> None:
    caller = sys.argv[1]
    about = {"python": sys.version.split()[0]}
    for library in ("aiohttp", "httpx", "openai", "langchain-openai", "litellm"):
        try:
            about[library] = version(library)
        except PackageNotFoundError:
            continue
    import duet_sdk

    print(json.dumps({**about, "duet_sdk": str(duet_sdk.__file__)}), flush=True)
    asyncio.run(_client(caller))


async def _client(caller: str) -> None:
    reads = _Reads()
    callers: dict[str, Any] = {}
    try:
        while line := sys.stdin.readline():
            turn = Turn(**json.loads(line))
            if turn.url not in callers:
                callers[turn.url] = await CALLERS[caller](turn.url).__aenter__()
            call = getattr(callers[turn.url], turn.method)
            await make(call, turn.at_once, min(turn.requests, turn.at_once))  # connections that either side gave up
            gc.collect()
            reads.count, start = 0, time.process_time()
            await make(call, turn.at_once, turn.requests)
            cpu_s = time.process_time() - start
            taken = Taken(cpu_s / turn.requests * 1000, reads.count / turn.requests)
            print(json.dumps(asdict(taken)), flush=True)
    finally:
        for each in callers.values():
            await each.__aexit__(None, None, None)


class _Reads:
    """Counts how often aiohttp's connections are given data; it costs every client the same fraction of a µs a read."""

    def __init__(self) -> None:
        from aiohttp.client_proto import ResponseHandler

        self.count = 0
        plain = ResponseHandler.data_received

        def data_received(protocol: ResponseHandler, data: bytes) -> None:
            self.count += bool(data)  # aiohttp gives it none to go on with what it holds
            plain(protocol, data)

        ResponseHandler.data_received = data_received  # type: ignore[method-assign]


async def make(call: Callable[[], Awaitable[str]], at_once: int, requests: int) -> None:
    """That many requests, that many at once."""
    left = iter(range(requests))
    wanted = text().strip()

    async def work() -> None:
        for _ in left:
            got = await call()
            assert got.strip() == wanted, got

    await asyncio.gather(*(work() for _ in range(at_once)))


if __name__ == "__main__":
    main()
