"""Wall time on a real server: DUET's over that of the same two calls by hand on aiohttp, in interleaved pairs.

    python benchmarks/against_vllm.py http://127.0.0.1:8101/v1 [MODEL] [--pairs 24] [--tokens 32]

Both send the same requests, greedily, and both stages of both write exactly that many tokens (vLLM's ``ignore_eos``),
so that they ask the same work of the server. Which goes first alternates. Printed is the median of the pairs' ratios
with its bootstrap interval of 95 %.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp

from duet_sdk import AsyncDuetClient, Budget, Sampling
from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.backends.server.wire import Dialect, request_body

QUESTION = "Tell the story of the city of Paris, from its first settlers to the present day."
MOST = 1.05
LEAST_PAIRS = 20
WARM_UPS = 2
RESAMPLES = 10_000


class Recorded(VllmBackend):
    """Keeps the calls it is given."""

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        self.calls = [*getattr(self, "calls", []), call]
        async with aclosing(super().stream(call)) as chunks:
            async for chunk in chunks:
                yield chunk


class ByHand:
    """The two requests that DUET sends, on aiohttp."""

    def __init__(self, session: aiohttp.ClientSession, url: str, bodies: list[dict[str, Any]], signal: str) -> None:
        self._session = session
        self._url = f"{url}/chat/completions"
        self._first, second = bodies
        self._before, self._after = json.dumps(second).split(json.dumps(signal)[1:-1], 1)

    async def ask(self) -> tuple[int, int]:
        """Output tokens of both stages."""
        signal, signal_tokens = await self._call(self._first)
        second = json.loads(self._before + json.dumps(signal.strip())[1:-1] + self._after)
        return signal_tokens, (await self._call(second))[1]

    async def _call(self, body: dict[str, Any]) -> tuple[str, int]:
        texts, tokens = [], 0
        async with self._session.post(self._url, json=body) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                value = json.loads(line[6:])
                if value["choices"]:
                    texts.append(value["choices"][0]["delta"].get("content") or "")
                if value.get("usage"):
                    tokens = value["usage"]["completion_tokens"]
        return "".join(texts), tokens


def client_of(backend: VllmBackend, tokens: int) -> AsyncDuetClient:
    exact = Sampling(temperature=0, extra_body={"ignore_eos": True})
    return AsyncDuetClient(
        backend,
        backend,
        budget=Budget(signal_tokens=tokens, answer_tokens=tokens),
        on_cut="keep",
        reasoner_params=exact,
        generator_params=exact,
    )


async def ask_duet(client: AsyncDuetClient) -> tuple[int, int]:
    """Output tokens of both stages."""
    async with client.stream(QUESTION) as run:
        async for _ in run:
            pass
    return run.reply.usage.reasoner.output_tokens, run.reply.usage.generator.output_tokens


async def recorded(url: str, model: str, tokens: int) -> tuple[list[dict[str, Any]], str]:
    """The bodies of both requests, and the signal in the second."""
    backend = Recorded(model, base_url=url)
    async with client_of(backend, tokens) as client:
        reply = await client.chat(QUESTION)
        switches = (await backend.connect()).switch_thinking
    bodies = [request_body(call, model=model, dialect=Dialect(switch_thinking=switches)) for call in backend.calls]
    for body in bodies:
        body.update(stream=True, stream_options={"include_usage": True})
    return bodies, reply.signal.text


async def measure(url: str, model: str | None, pairs: int, tokens: int) -> tuple[str, list[float], list[float]]:
    """The model, and seconds of each request: ours, by hand."""
    async with aiohttp.ClientSession() as session:
        if model is None:
            async with session.get(f"{url}/models") as answer:
                model = str((await answer.json())["data"][0]["id"])
        by_hand = ByHand(session, url, *await recorded(url, model, tokens))
        async with client_of(VllmBackend(model, base_url=url), tokens) as client:
            ways = {"duet": lambda: ask_duet(client), "by hand": by_hand.ask}
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for pair in range(-WARM_UPS, pairs):
                for way in sorted(ways, reverse=bool(pair % 2)):
                    start = time.perf_counter()
                    written = await ways[way]()
                    if pair >= 0:
                        taken[way].append(time.perf_counter() - start)
                    if written != (tokens, tokens):
                        sys.exit(f"{way} had {written} tokens written, not {tokens} a stage: is this a vLLM server?")
    return model, taken["duet"], taken["by hand"]


def interval(ratios: list[float]) -> tuple[float, float]:
    """Where 95 % of the medians lie when the pairs are drawn again and again."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the API's base, /v1 included")
    parser.add_argument("model", nargs="?", help="by default the first that the server lists")
    parser.add_argument("--pairs", type=int, default=24, help=f"at least {LEAST_PAIRS}")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that each stage writes")
    given = parser.parse_args()
    if given.pairs < LEAST_PAIRS:
        parser.error(f"--pairs must be at least {LEAST_PAIRS}, got {given.pairs}")
    model, ours, theirs = asyncio.run(measure(given.url.rstrip("/"), given.model, given.pairs, given.tokens))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, high = interval(ratios)
    print(f"{model}: two stages of {given.tokens} tokens, streamed, {given.pairs} interleaved pairs")
    print(f"by hand  median {statistics.median(theirs):.3f} s, least {min(theirs):.3f}")
    print(f"duet     median {statistics.median(ours):.3f} s, least {min(ours):.3f}")
    print(f"ratio    median {statistics.median(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}")
    print(f"  {'pass' if high <= MOST else 'MISS'}: the interval's upper end is {high:.3f}, at most {MOST:g} wanted")


if __name__ == "__main__":
    main()
