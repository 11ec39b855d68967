"""The pipeline's own CPU time per request and per event, on scripted models: 32 signal and 32 answer tokens, streamed.

    python benchmarks/pipeline.py [--requests 2000]

Beside it, in the same run, the two scripted streams consumed bare: what is left is the pipeline's.
"""

import argparse
import asyncio
import statistics
import time

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends import Call
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.types import Message

WORDS = " ".join(f"w{number}" for number in range(32))
CALL = Call(max_tokens=64, messages=(Message("user", "q"),))


async def bare(reasoner: Scripted, generator: Scripted) -> int:
    chunks = 0
    for backend in (reasoner, generator):
        async for _ in backend.stream(CALL):
            chunks += 1
    return chunks


async def streamed(duet: AsyncDuetClient) -> int:
    events = 0
    async with duet.stream("q") as run:
        async for _ in run:
            events += 1
    return events


async def whole(duet: AsyncDuetClient) -> int:
    await duet.chat("q")
    return 0


async def measure(requests: int, rounds: int) -> None:
    reasoner, generator = (Scripted(Script(WORDS, token_ids=True)) for _ in range(2))
    plain = AsyncDuetClient(reasoner, generator)
    limited = AsyncDuetClient(
        reasoner, generator, budget=Budget(total_tokens=100_000, cost_usd="1", deadline_s=60, signal_tokens=64)
    )
    ways = {
        "bare streams": lambda: bare(reasoner, generator),
        "stream()": lambda: streamed(plain),
        "chat()": lambda: whole(plain),
        "stream(), every limit set": lambda: streamed(limited),
    }
    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, ask in ways.items():
        counts[name] = await ask()
    for _ in range(rounds):
        for name, ask in ways.items():
            start = time.process_time()
            for _ in range(requests // rounds):
                await ask()
            times[name].append((time.process_time() - start) / (requests // rounds) * 1e6)
            reasoner.calls.clear()
            generator.calls.clear()
    base = statistics.median(times["bare streams"])
    print(f"{requests} requests each, interleaved in {rounds} rounds; median CPU time")
    print(f"{'':28}{'µs/request':>12}{'less bare':>12}{'events':>8}{'µs/event':>10}")
    for name, spent in times.items():
        middle = statistics.median(spent)
        events = counts[name]
        own = "" if name == "bare streams" else f"{middle - base:12.0f}"
        each = f"{(middle - base) / events:10.2f}" if events and name != "bare streams" else ""
        print(f"{name:28}{middle:12.0f}{own:>12}{events or '':>8}{each}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    asyncio.run(measure(given.requests, given.rounds))
