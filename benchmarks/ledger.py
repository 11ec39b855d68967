"""What a ledger costs a request: one hold and one settle in two scopes, one of them limited by day.

    python benchmarks/ledger.py

Prints the best of several rounds, in microseconds of wall time and of this process's CPU time, for one caller and for
64 at once; for Redis also the commands that the server saw for each request. Exit code 1 where an aim is missed: memory
30 µs of CPU, SQLite 1,500 µs, Redis one command each for hold and settle. On a busy machine wall times say little.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from ledger_kill import redis_server

from duet_sdk.budget import Amount, BaseLedger, Limit, MemoryLedger, RedisLedger, SqliteLedger

SCOPES = ("tenant:a", "session:7")
UPPER = Amount(Decimal("0.031"), 840, 0, 1)
REAL = Amount(Decimal("0.012"), 310, 0, 1)


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with MemoryLedger() as ledger:
            _, memory = await measure("memory", ledger, 640)
        async with SqliteLedger(Path(folder) / "ledger.db") as ledger:
            sqlite, _ = await measure("sqlite", ledger, 128)
        with redis_server(Path(folder)) as url:
            async with RedisLedger(url) as ledger:
                await measure("redis", ledger, 128)
                commands = await commands_per_request(url, ledger)
    print(f"redis    commands for a hold and a settle: {' '.join(commands)}")
    return int(memory > 30 or sqlite > 1500 or commands != ["EVALSHA", "EVALSHA"])


async def measure(name: str, ledger: BaseLedger, count: int) -> tuple[float, float]:
    """Print the cost; gives wall and CPU time in microseconds of a request among no others."""
    await ledger.set_limit(SCOPES[0], Limit(usd=Decimal(1_000_000), window="day"))
    alone = 0.0, 0.0
    for callers in (1, 64):
        rounds = [await one_round(ledger, count, callers) for _ in range(40)]
        wall, cpu = (min(values) for values in zip(*rounds, strict=True))
        alone = alone if any(alone) else (wall, cpu)
        print(f"{name:8} {callers:3} at once: {wall:8.1f} µs wall, {cpu:8.1f} µs CPU", flush=True)
    return alone


async def one_round(ledger: BaseLedger, count: int, callers: int) -> tuple[float, float]:
    """Microseconds of wall and CPU time for each request."""

    async def caller() -> None:
        for _ in range(count // callers):
            hold = await ledger.hold(SCOPES, UPPER)
            await hold.settle(REAL)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    done = count // callers * callers
    return (time.perf_counter() - wall) / done * 1e6, (time.process_time() - cpu) / done * 1e6


async def commands_per_request(url: str, ledger: BaseLedger) -> list[str]:
    """The commands that the server sees, those within the script left out."""
    from redis.asyncio import Redis

    seen: list[str] = []
    async with Redis.from_url(url, decode_responses=True) as admin, Redis.from_url(url) as marker:
        await marker.ping()
        async with admin.monitor() as monitor:
            await (await ledger.hold(SCOPES, UPPER)).settle(REAL)
            await marker.echo("end")
            async for line in monitor.listen():
                if "ECHO" in line["command"]:
                    return seen
                if line["client_type"] != "lua":
                    seen.append(line["command"].split()[0])
    return seen


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
