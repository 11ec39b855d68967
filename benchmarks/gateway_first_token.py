"""What the gateway adds to the time to the first answer token, over asking the two engines by hand.

    python benchmarks/gateway_first_token.py                     # 32 at once, 20 ms a token, 10 rounds of 64
    python benchmarks/gateway_first_token.py --every-ms 4 --at-once 16

By hand: the reasoner's stream is read to its end, then the generator's up to its first text, by the client that also
asks the gateway, with the JSON of each event read. Through the gateway:
one stream up to its first text. Both take turns, with the same server behind (`instant_server`), which writes a token
every so many milliseconds, as an engine does; clients of a round begin spread over the time of one request. Where
other work runs on the machine, it tells more of that than of the gateway: start it by `chrt -f 5`.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from against_litellm import CONFIG, tell
from gateways import duet_serve, load_now
from instant_server import serve, switched

WANTED_MS = {0.5: 2.0, 0.99: 8.0}
"""Share of requests → what may be added at most."""
QUESTION = [{"role": "user", "content": "How many primes are below 60?"}]


class Line:
    """A connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._port, self._path = parts.port, f"{parts.path}/chat/completions"

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        self._writer.close()

    async def texts(self, model: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        """Texts of a streamed answer, read to its end."""
        body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
        head = f"POST {self._path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        while size := int(await self._reader.readline(), 16):
            for line in (await self._reader.readexactly(size + 2)).split(b"\n"):
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        if text := choice["delta"].get("content"):
                            yield text
        await self._reader.readline()


async def by_hand(line: Line) -> float:
    """Seconds to the first text of the answer."""
    begin = time.perf_counter()
    signal = "".join([text async for text in line.texts("m", QUESTION)])
    asked = [{"role": "user", "content": f"{QUESTION[0]['content']}\n\nNotes:\n{signal}"}]
    return await first(line, "n", asked, begin)


async def through_gateway(line: Line) -> float:
    return await first(line, "duet", QUESTION, time.perf_counter())


async def first(line: Line, model: str, messages: list[dict[str, str]], begin: float) -> float:
    taken = None
    async for _ in line.texts(model, messages):
        taken = taken or time.perf_counter() - begin
    assert taken is not None
    return taken


async def turn(way: str, url: str, given: argparse.Namespace, each_s: float) -> list[float]:
    """Seconds of each request of a round."""
    call = by_hand if way == "by hand" else through_gateway

    async def client(number: int) -> list[float]:
        line = Line(url)
        await line.open()
        await asyncio.sleep(each_s * number / given.at_once)
        taken = [await call(line) for _ in range(given.requests // given.at_once)]
        line.close()
        return taken

    rows = await asyncio.gather(*(client(number) for number in range(given.at_once)))
    return [taken for row in rows for taken in row]


def main() -> int:
    given = parse()
    print(f"before: {load_now()}")
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    taken: dict[str, list[float]] = {"by hand": [], "duet serve": []}
    added: dict[float, list[float]] = {share: [] for share in WANTED_MS}
    with serve() as engines:
        paced = switched(engines, every_ms=given.every_ms)
        each_s = 2 * 20 * given.every_ms / 1000
        with duet_serve(CONFIG.format(url=paced), core=0) as running:
            urls = {"by hand": paced, "duet serve": f"http://127.0.0.1:{running.port}/v1"}
            for number in range(given.rounds + 1):
                row = {way: asyncio.run(turn(way, urls[way], given, each_s)) for way in _turned(urls, number)}
                if number == 0:
                    continue  # connections and caches
                for way, one in row.items():
                    taken[way] += one
                for share, values in added.items():
                    values.append(at(row["duet serve"], share) - at(row["by hand"], share))
    print(f"after: {load_now()}; {given.at_once} at once, {given.every_ms} ms a token, {len(taken['by hand'])} each\n")
    for way, values in taken.items():
        print(f"  {way:14} p50 {1e3 * at(values, 0.5):8.2f} ms   p99 {1e3 * at(values, 0.99):8.2f} ms")
    good = []
    for share, most in WANTED_MS.items():
        name = f"added to p{100 * share:g}, ms, median of rounds"
        good.append(tell(name, 1e3 * statistics.median(added[share]), most, at_most=True))
        overall_ms = 1e3 * (at(taken["duet serve"], share) - at(taken["by hand"], share))
        print(f"  {'the same over all requests':40}{overall_ms:8.2f}")
    return int(not all(good))


def _turned(ways: dict[str, str], number: int) -> list[str]:
    return list(ways) if number % 2 else list(reversed(ways))


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64, help="in a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--every-ms", type=int, default=20, help="from token to token")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
