"""Open streams for minutes, some of whose clients vanish, or an hour of mixed load: memory, failures, what is left.

    python benchmarks/gateway_soak.py                              # 500 streams for five minutes, 5 % vanish
    python benchmarks/gateway_soak.py --streams 0 --minutes 60     # mixed load alone

Streams: each lasts for that time, half of it the signal, two tokens a second; 5 % of the clients close their socket
midway, at moments spread over that time. Mixed: 8 clients ask for whole answers and streams in turn, each tenth request
is left early, each twentieth is one that is refused. Every few seconds the gateway's resident memory is printed, with
the requests that it and the models' server work on. At the end both must work on nothing. Exit code 1 where something
failed.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter

from against_litellm import CONFIG
from gateway import rss_mb
from gateways import Running, duet_serve, load_now
from instant_server import allow_many_sockets, serve, switched

FAILED = "FAILED"
MIXED_AT_ONCE = 8
PAUSE_S = 0.2
"""Between a client's requests: the machine has more to do for an hour."""
BEGIN_S = 10
"""In which streams begin one after the other, as they would come."""
TOKEN_MS = 500
LEFT, REFUSED = 10, 20
MOST_GROWTH = 1.01
SETTLED = 0.2
"""Share of the time after which memory counts as settled: caches and the allocator's pools are full by then."""
CONFIG_OF_MANY = CONFIG + "\n[budget]\nsignal_tokens = 4096\nanswer_tokens = 4096\n"


class Watch:
    """Prints memory and what runs, and keeps it."""

    def __init__(self, running: Running, engines: str, every_s: float) -> None:
        self._running = running
        self._engines = engines.removesuffix("/v1")
        self._every_s = every_s
        self._begin = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.memory: list[tuple[float, float]] = []

    async def look(self) -> tuple[int, int]:
        """(requests that the gateway works on, streams that the models' server writes)."""
        inside, behind = await asyncio.to_thread(self._read)
        seconds, memory = time.monotonic() - self._begin, rss_mb(self._running.pid)
        self.memory.append((seconds, memory))
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        print(f"{seconds:7.0f} s {memory:8.2f} MB   gateway {inside:4}  models {behind:4}   {told}", flush=True)
        return inside, behind

    async def go_on(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def until_nothing_runs(self) -> bool:
        for _ in range(50):
            if await self.look() == (0, 0):
                return True
            await asyncio.sleep(0.2)
        return False

    def growth(self) -> float:
        """Memory at the end over memory once it had settled: medians of a fifth of the time each."""
        end = self.memory[-1][0]
        early = [memory for at, memory in self.memory if SETTLED * end <= at < 2 * SETTLED * end]
        late = [memory for at, memory in self.memory if at >= (1 - SETTLED) * end]
        return statistics.median(late) / statistics.median(early)

    def _read(self) -> tuple[int, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._running.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        with urllib.request.urlopen(f"{self._engines}/running", timeout=60) as answer:
            behind = int(json.load(answer)["running"])
        return int(text.partition("\nduet_gateway_requests_running ")[2].split()[0]) - 1, behind


async def ask(
    port: int, counts: Counter[str], *, stream: bool, model: str = "duet", leave_s: float | None = None
) -> None:
    """One request on a connection of its own; left after that time."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "How many primes?"}]}
    sent = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}connection: close\r\ncontent-length: {len(sent)}\r\n\r\n".encode() + sent)
        async with asyncio.timeout(leave_s):
            answer = await reader.read()
        counts[_verdict(answer, stream=stream)] += 1
    except TimeoutError:
        writer.transport.abort()
        counts["left"] += 1
    except OSError:
        counts[FAILED] += 1
    finally:
        writer.close()


def _verdict(answer: bytes, *, stream: bool) -> str:
    if answer.startswith(b"HTTP/1.1 404"):
        return "refused"
    if not answer.startswith(b"HTTP/1.1 200"):
        return FAILED
    if stream:
        return "streamed" if b"data: [DONE]" in answer else FAILED
    return "whole" if b'"usage"' in answer else FAILED


async def streams(running: Running, watch: Watch, count: int, vanish: float, minutes: float) -> None:
    dice = random.Random(7)
    leavers = set(dice.sample(range(count), round(count * vanish)))

    async def one(number: int) -> None:
        await asyncio.sleep(number * BEGIN_S / count)
        leave_s = dice.uniform(0.1, 0.9) * 60 * minutes if number in leavers else None
        await ask(running.port, watch.counts, stream=True, leave_s=leave_s)

    await asyncio.gather(*(one(number) for number in range(count)))


async def mixed(running: Running, watch: Watch, minutes: float) -> None:
    end, numbers = time.monotonic() + 60 * minutes, iter(range(1 << 62))

    async def client() -> None:
        while time.monotonic() < end:
            number = next(numbers)
            left = 0.05 if number % LEFT == 0 else None
            model = "no-such-model" if number % REFUSED == 1 else "duet"
            await ask(running.port, watch.counts, stream=number % 2 == 0, model=model, leave_s=left)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(client() for _ in range(MIXED_AT_ONCE)))


async def run(running: Running, engines: str, given: argparse.Namespace) -> bool:
    watch = Watch(running, engines, given.every_s)
    looking = asyncio.create_task(watch.go_on())
    if given.streams:
        await streams(running, watch, given.streams, given.vanish, given.minutes)
    else:
        await mixed(running, watch, given.minutes)
    looking.cancel()
    growth = watch.growth()
    ended = await watch.until_nothing_runs()
    limit = "" if given.streams else f", at most {MOST_GROWTH}"
    print(f"\nmemory at the end over that once it had settled: {growth:.4f}{limit}")
    print(f"failures: {watch.counts['FAILED']}; both work on nothing at the end: {'yes' if ended else 'NO'}")
    return ended and not watch.counts[FAILED] and (bool(given.streams) or abs(growth - 1) <= MOST_GROWTH - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=500, help="open at once; 0 for mixed load")
    parser.add_argument("--vanish", type=float, default=0.05, help="share of clients that leave")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--every-s", type=float, default=10, help="seconds between looks")
    given = parser.parse_args()
    allow_many_sockets()
    print(f"before: {load_now()}")
    with serve() as engines:
        paced = switched(engines, every_ms=2)
        if given.streams:
            # Both stages write as many tokens, each in half of the time.
            tokens = max(1, round((60 * given.minutes - BEGIN_S) * 1000 / TOKEN_MS / 2))
            paced = switched(engines, every_ms=TOKEN_MS, chunks=tokens)
        with duet_serve(CONFIG_OF_MANY.format(url=paced)) as running:
            good = asyncio.run(run(running, engines, given))
    print(f"after: {load_now()}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
