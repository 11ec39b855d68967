"""Many requests at once and one after another: failures, memory, and what is left open.

    python benchmarks/many.py [--streams 1000] [--requests 20000] [--rounds 5]

First, that many streams at once, by DUET and by hand on aiohttp: the server (instant_server.py) lets every reasoner
write at once and stops every generator after its first token, until all have come that far. Memory is what the process
has grown by since its client was connected and idle, over the number of streams. Then DUET alone, 16 at once: `chat()`,
streams, and streams that are left early. Every measurement has a process of its own.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import callers
from instant_server import HELD, allow_many_sockets, serve, text
from turns import Installed, ratio

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 16
EVERY = 50
MOST_GROWTH = 1.02
MOST_KIB = 30
MOST_FIRST_CHUNK = 1.8


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def open_sockets() -> int:
    return sum(os.readlink(link).startswith("socket:") for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


class FirstChunks:
    """When the first chunk of each stream came, in seconds since all began: by the clock, and of this process's CPU.

    Of CPU, because the client has work all the time until then, and on a machine that has other work the clock says
    more of that than of the client.
    """

    def __init__(self, streams: int) -> None:
        self.begin()
        self.taken: dict[str, list[float]] = {"signal": [], "answer": []}
        self.taken_cpu: dict[str, list[float]] = {"signal": [], "answer": []}
        self._streams = streams
        self.all_here = asyncio.Event()

    def begin(self) -> None:
        self._start, self._start_cpu = time.perf_counter(), time.process_time()

    def came(self, stage: str) -> None:
        self.taken[stage].append(time.perf_counter() - self._start)
        self.taken_cpu[stage].append(time.process_time() - self._start_cpu)
        if stage == "answer" and len(self.taken[stage]) == self._streams:
            self.all_here.set()


@asynccontextmanager
async def duet(url: str, first: FirstChunks) -> AsyncIterator[Any]:
    from duet_sdk import AsyncDuetClient
    from duet_sdk.events import AnswerDelta, SignalDelta

    async with AsyncDuetClient(f"vllm/{callers.REASONER}@{url}", f"vllm/{HELD}@{url}") as client:
        await client.chat(callers.QUESTION, mode="signal")  # connects

        async def one() -> str:
            seen = set()
            async with client.stream(callers.QUESTION) as run:
                async for event in run:
                    stage = {SignalDelta: "signal", AnswerDelta: "answer"}.get(type(event))
                    if stage and stage not in seen:
                        seen.add(stage)
                        first.came(stage)
            return run.reply.text

        yield one


@asynccontextmanager
async def by_hand(url: str, first: FirstChunks) -> AsyncIterator[Any]:
    async with callers.ByHand(url, HELD) as client:
        await client.ask(callers.REASONER, callers.first_messages())

        async def one() -> str:
            signal = await client.stream(
                callers.REASONER, callers.first_messages(), on_first=partial(first.came, "signal")
            )
            return await client.stream(HELD, callers.second_messages(signal), on_first=partial(first.came, "answer"))

        yield one


WAYS = {"duet": duet, "by hand": by_hand}


async def open_many(way: str, url: str, streams: int) -> dict[str, float]:
    """Figures of that many streams at once."""
    allow_many_sockets()
    first = FirstChunks(streams)
    async with WAYS[way](url, first) as one:
        gc.collect()
        before = resident_bytes()
        first.begin()
        tasks = [asyncio.create_task(one()) for _ in range(streams)]
        everything = asyncio.gather(*tasks, return_exceptions=True)
        here = asyncio.create_task(first.all_here.wait())
        await asyncio.wait([everything, here], return_when=asyncio.FIRST_COMPLETED)
        gc.collect()
        held = resident_bytes() - before
        await asyncio.to_thread(release, url)
        texts = await everything
        here.cancel()
        wrong = [got for got in texts if not isinstance(got, str) or got.strip() != text().strip()]
        if wrong:
            print(f"{way}: {wrong[0]!r}", file=sys.stderr)
    p99 = {f"{stage}_p99_s": percentile(taken, 0.99) for stage, taken in first.taken.items()}
    p99_cpu = {f"{stage}_p99_cpu_s": percentile(taken, 0.99) for stage, taken in first.taken_cpu.items()}
    return {"failures": len(wrong), "KiB": held / streams / 1024, **p99, **p99_cpu}


def release(url: str) -> None:
    with urlopen(Request(url.removesuffix("/v1") + "/release", data=b"")) as answer:
        answer.read()


def over_by_hand(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str) -> float:
    return ratio((row[key] for row in ours), (row[key] for row in theirs))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


async def make_many(url: str, requests: int) -> dict[str, Any]:
    """Memory over that many requests, and what is left open when the client is closed."""
    from duet_sdk import AsyncDuetClient

    sockets, samples, failures = open_sockets(), [], 0
    left = iter(range(requests))
    client = AsyncDuetClient(f"vllm/{callers.REASONER}@{url}", f"vllm/{callers.GENERATOR}@{url}")

    async def one(number: int) -> None:
        if number % 2:
            reply = await client.chat(callers.QUESTION)
        else:
            async with client.stream(callers.QUESTION) as run:
                async for _ in run:
                    if number % 10 == 0:
                        break
            reply = run.reply
        if reply.finish_reason != ("cancelled" if number % 10 == 0 else "stop"):
            raise AssertionError(reply.finish_reason)

    async def work() -> None:
        nonlocal failures
        for number in left:
            try:
                await one(number)
            except Exception as error:  # noqa: BLE001  # counted, whatever it is
                failures += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            if number % EVERY == 0:
                samples.append(resident_bytes())

    async with client:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    await asyncio.sleep(0.1)  # the transports' own callbacks
    return {
        "failures": failures,
        "samples": samples,
        "sockets": open_sockets() - sockets,
        "tasks": len(asyncio.all_tasks()) - 1,
    }


def in_turn(
    url: str, ways: dict[str, tuple[str, Installed]], streams: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """`open_many` by each way and in each round, in a fresh process: what one freed must not serve the next."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in ways if number % 2 == 0 else reversed(ways):
            way, installed = ways[name]
            found[name].append(installed.figures("many.py", "--open", way, "--url", url, "--streams", str(streams)))
    return found


def main(streams: int, requests: int, rounds: int) -> None:
    here = Installed()
    with serve() as url:
        found = in_turn(url, {way: (way, here) for way in WAYS}, streams, rounds)
        long = here.figures("many.py", "--make", "--url", url, "--requests", str(requests))

    print(f"{streams} streams at once, both stages streamed; median of {rounds} rounds")
    print(f"{'':12}{'failures':>10}{'KiB/open stream':>17}{'p99 to first signal':>21}{'p99 to first answer':>21}")
    middle = {way: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for way, rows in found.items()}
    for way, row in middle.items():
        failures = sum(one["failures"] for one in found[way])
        signal, answer = row["signal_p99_s"] * 1000, row["answer_p99_s"] * 1000
        print(f"{way:12}{failures:10.0f}{row['KiB']:17.1f}{signal:18.0f} ms{answer:18.0f} ms")
    over = {key: over_by_hand(found["duet"], found["by hand"], key) for key in ("KiB", "signal_p99_s", "answer_p99_s")}
    print(f"{'ratio':12}{'':10}{over['KiB']:16.2f}x{over['signal_p99_s']:20.2f}x{over['answer_p99_s']:20.2f}x")
    cpu = [over_by_hand(found["duet"], found["by hand"], f"{stage}_p99_cpu_s") for stage in ("signal", "answer")]
    print(f"{'ratio of CPU':12}{'':27}{cpu[0]:20.2f}x{cpu[1]:20.2f}x")
    for name, unit, value, most in (
        ("memory of an open stream", " KiB", middle["duet"]["KiB"], MOST_KIB),
        ("first chunk p99 over by hand", " x", over["signal_p99_s"], MOST_FIRST_CHUNK),
    ):
        print(f"  {'pass' if value <= most else 'MISS'}: {name} {value:.1f}{unit}, at most {most:g} wanted")
    lost = sum(one["failures"] for one in found["duet"])
    print(f"  {'MISS' if lost else 'pass'}: {lost:.0f} of DUET's {streams * rounds} streams failed, none wanted")

    samples = long["samples"]
    tenth = max(1, len(samples) // 10)
    start, end = (statistics.median(part) / 2**20 for part in (samples[:tenth], samples[-tenth:]))
    growth, open_now = end / start, long["sockets"] + long["tasks"]
    print(f"\n{requests} requests, {AT_ONCE} at once: half chat(), a tenth left early, the rest streamed")
    print(f"  {'MISS' if long['failures'] else 'pass'}: {long['failures']} failed, none wanted")
    print(
        f"  {'pass' if growth <= MOST_GROWTH else 'MISS'}: resident memory {start:.1f} MiB over the first tenth, "
        f"{end:.1f} MiB over the last: {growth:.4f}, at most {MOST_GROWTH:g} wanted"
    )
    print(
        f"  {'MISS' if open_now else 'pass'}: {long['sockets']} sockets and {long['tasks']} tasks left open when the "
        "client was closed, none wanted"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", choices=WAYS, help="one measurement, in this process: print it as JSON")
    parser.add_argument("--make", action="store_true", help="one measurement, in this process: print it as JSON")
    parser.add_argument("--url", help="the server for it")
    given = parser.parse_args()
    if given.open:
        print(json.dumps(asyncio.run(open_many(given.open, given.url, given.streams))))
    elif given.make:
        print(json.dumps(asyncio.run(make_many(given.url, given.requests))))
    else:
        main(given.streams, given.requests, given.rounds)
