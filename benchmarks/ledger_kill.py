"""Processes hold and settle on one scope while one of them is killed (-9) every second: is anything lost or overspent?

    python benchmarks/ledger_kill.py                              # both stores, 100,000 holds from 8 processes
    python benchmarks/ledger_kill.py --store sqlite --holds 5000 --processes 4 --kill-every 0.3 --json

At the end, once what the dead held has expired: overspend, sum of entries against the balance, and every settle that
was acknowledged to a worker against the entries. Exit code 1 where one of them is wrong. Then the other side: which
share of a limit 64 concurrent requests can spend, and how many are refused though money is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from duet_sdk.budget import Amount, BaseLedger, Limit, MemoryLedger, connect_ledger
from duet_sdk.budget.report import read
from duet_sdk.errors import BudgetExceeded, LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

SCOPE = "tenant:kill-test"
NANO = Decimal("1e-9")
TTL_S = 3.0
AT_WORK = 200
"""Lines in its log from which on a worker may be killed."""
FORKS = multiprocessing.get_context("forkserver")


def main() -> int:
    arguments = parse()
    # Workers are forked from a process that has read all modules, so that what is killed was at work, not starting.
    FORKS.set_forkserver_preload(["duet_sdk.budget", "duet_sdk.budget.report", "redis.asyncio"])
    stores = ["sqlite", "redis"] if arguments.store == "both" else [arguments.store]
    wrong = False
    for store in stores:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = f"sqlite:///{folder}/ledger.db" if store == "sqlite" else stack.enter_context(redis_server(folder))
            found = asyncio.run(kill_test(arguments, url, folder))
        wrong |= bool(found["overspent_nano_usd"] or found["moments_above_limit"] or found["lost_settles"])
        wrong |= bool(found["sum_of_entries_minus_balance"] or found["held_at_end"] or found["booked_above_hold"])
        tell(f"kill test, {store}", found, as_json=arguments.json)
    for wait_s in (0.0, 30.0):
        found = asyncio.run(share(64, wait_s))
        wrong |= wait_s > 0 and found["share_of_limit_spent"] < 0.95
        tell(f"64 concurrent requests, wait_s={wait_s:g}", found, as_json=arguments.json)
    return int(wrong)


async def kill_test(arguments: argparse.Namespace, url: str, folder: Path) -> dict[str, float]:
    """Run the workers, kill one now and then, and compare what they were told with what is booked."""
    quota = arguments.holds // arguments.processes
    # Below what all of them would spend: the last fifth is refused.
    limit = int(0.8 * 135 * arguments.holds)
    start = time.monotonic()
    async with connect_ledger(url) as ledger:
        await ledger.set_limit(SCOPE, Limit(usd=limit * NANO))
        kills, above = await run_workers(arguments, url, folder, ledger, quota)
        running_s = time.monotonic() - start
        await asyncio.sleep(TTL_S + 0.5)  # what the dead held expires
        balance = await ledger.balance(SCOPE)
        booked: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        async for entry in read(ledger):
            booked[entry.hold] += int((entry.usd or 0) / NANO)
            statuses[entry.status] += 1
    told: dict[str, int] = {}
    outcomes: Counter[str] = Counter()
    held: dict[str, int] = {}
    for line in written(folder, "worker-*.log"):
        kind, *rest = line.split()
        outcomes[kind] += 1
        if kind == "settled":
            told[rest[0]] = int(rest[1])
        elif kind == "held":
            held[rest[0]] = int(rest[1])
    spent, overrun, left = (int((amount.usd or 0) / NANO) for amount in (balance.spent, balance.overrun, balance.held))
    return {
        "holds_asked": outcomes["held"] + outcomes["refused"] + outcomes["waited"],
        "granted": outcomes["held"],
        "refused_as_spent": outcomes["refused"],
        "refused_by_held_alone": outcomes["waited"],
        "store_errors": outcomes["failed"],
        "processes_killed": kills,
        "settles_acknowledged": len(told),
        "entries_settled": statuses["settled"],
        "entries_expired": statuses["expired"],
        "entries_corrected": statuses["corrected"],
        "limit_nano_usd": limit,
        "spent_nano_usd": spent,
        "overspent_nano_usd": max(0, spent - limit),
        "overrun_nano_usd": overrun,
        "moments_above_limit": above,
        "sum_of_entries_minus_balance": sum(booked.values()) - spent,
        "lost_settles": sum(booked.get(hold) != amount for hold, amount in told.items()),
        "booked_above_hold": sum(amount > held.get(hold, 1 << 62) for hold, amount in booked.items()),
        "held_at_end": left,
        "seconds": round(running_s, 1),
        "holds_per_second": round(outcomes["held"] / running_s),
    }


async def run_workers(
    arguments: argparse.Namespace, url: str, folder: Path, ledger: BaseLedger, quota: int
) -> tuple[int, int]:
    """(processes killed, moments at which the balance was above the limit)."""
    dice = random.Random(arguments.seed)
    running: dict[int, BaseProcess] = {}
    lives: Counter[int] = Counter()

    def start(number: int, count: int) -> None:
        lives[number] += 1
        log = folder / f"worker-{number}-{lives[number]}.log"
        seed = arguments.seed * 1000 + number * 100 + lives[number]
        running[number] = FORKS.Process(target=work, args=(url, str(log), count, arguments.concurrent, seed))
        running[number].start()

    def done(number: int) -> int:
        return sum(not line.startswith("settled") for line in written(folder, f"worker-{number}-*.log"))

    for number in range(arguments.processes):
        start(number, quota)
    kills, above, next_kill = 0, 0, time.monotonic() + arguments.kill_every
    while running:
        await asyncio.sleep(0.05)
        balance = await ledger.balance(SCOPE)
        total = [amount.usd or 0 for amount in (balance.spent, balance.overrun, balance.held)]
        above += balance.limit is not None and total[0] - total[1] + total[2] > (balance.limit.usd or 0)
        for number, process in list(running.items()):
            if process.exitcode is not None:
                if process.exitcode != 0:
                    raise SystemExit(f"a worker failed ({process.exitcode})")
                del running[number]
        # One that has just started has little to lose, and on a slow machine none would ever come to an end.
        logs = {number: f"worker-{number}-{lives[number]}.log" for number in sorted(running)}
        at_work = [number for number, log in logs.items() if len(written(folder, log)) >= AT_WORK]
        if at_work and time.monotonic() >= next_kill:
            number = dice.choice(at_work)
            running[number].kill()
            running.pop(number).join()
            kills += 1
            if (left := quota - done(number)) > 0:
                start(number, left)
            next_kill = time.monotonic() + arguments.kill_every
    return kills, above


def written(folder: Path, logs: str) -> list[str]:
    """The whole lines of these logs; a killed worker may leave one half."""
    return [line for log in folder.glob(logs) for line in log.read_text().split("\n")[:-1]]


def work(url: str, log: str, count: int, concurrent: int, seed: int) -> None:
    """One worker."""
    asyncio.run(hold_and_settle(url, log, count, concurrent, random.Random(seed)))


async def hold_and_settle(url: str, path: str, count: int, concurrent: int, dice: random.Random) -> None:
    """Hold and settle, and write down at once what the ledger said. The page cache outlives a kill."""
    log, left = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), count

    def note(*words: object) -> None:
        os.write(log, (" ".join(map(str, words)) + "\n").encode())

    async with connect_ledger(url) as ledger:

        async def attempts() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                asked = dice.randint(50, 400)
                try:
                    hold = await ledger.hold([SCOPE], Amount(asked * NANO), ttl_s=TTL_S)
                except BudgetExceeded as error:
                    note("waited" if (error.spent or 0) + (error.asked or 0) <= (error.limit or 0) else "refused")
                    continue
                except LedgerError:
                    note("failed")
                    continue
                note("held", hold.id, asked)
                await asyncio.sleep(0)
                if dice.random() < 0.05:
                    await hold.release()
                    continue
                real = dice.randint(asked // 5, asked)
                await hold.settle(Amount(real * NANO))
                note("settled", hold.id, real)

        await asyncio.gather(*(attempts() for _ in range(concurrent)))


async def share(concurrent: int, wait_s: float) -> dict[str, float]:
    """Spend a limit of ten rounds of holds; each attempt costs a fifth to three fifths of its hold."""
    dice, ledger, asked = random.Random(7), MemoryLedger(), 1000
    limit = 10 * concurrent * asked
    await ledger.set_limit(SCOPE, Limit(usd=limit * NANO))
    counts: Counter[str] = Counter()

    async def caller() -> None:
        while counts["spent"] == 0 and counts["asked"] < 100 * limit // asked:
            counts["asked"] += 1
            try:
                hold = await ledger.hold([SCOPE], Amount(asked * NANO), wait_s=wait_s)
            except BudgetExceeded as error:
                only_held = (error.spent or 0) + (error.asked or 0) <= (error.limit or 0)
                counts["waited" if only_held else "spent"] += 1
                await asyncio.sleep(0.001)
                continue
            await asyncio.sleep(dice.uniform(0.0005, 0.005))
            await hold.settle(Amount(dice.randint(asked // 5, 3 * asked // 5) * NANO))
            counts["settled"] += 1

    await asyncio.gather(*(caller() for _ in range(concurrent)))
    spent = int(((await ledger.balance(SCOPE)).spent.usd or 0) / NANO)
    return {
        "settled": counts["settled"],
        "refused_by_held_alone": counts["waited"],
        "share_of_limit_spent": round(spent / limit, 4),
    }


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of this script's own, on a free port."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server was not found: apt-get install redis-server, or --store sqlite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def tell(title: str, found: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": title, **found}), flush=True)
        return
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name.replace('_', ' '):30} {value:>14,}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["sqlite", "redis", "both"], default="both")
    parser.add_argument("--holds", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--concurrent", type=int, default=64, help="holds at once in each process")
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object for each run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
