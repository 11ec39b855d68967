"""CPU time that a LangChain chat model adds to the client beneath it: ChatDuet's and ChatOpenAI's.

    PYTHONPATH=.:integrations/langchain $(.ci/environment bench) benchmarks/langchain_overhead.py [--rounds 15]

The server answers at once (instant_server.py), in a process of its own. Model and client make the same requests in
turn, one at a time, in one process; what is printed is process time: the median over the rounds, and the medians of
the differences and ratios that each round gave. ChatDuet's requests have two stages and so twice the chunks.
"""

import argparse
import asyncio
import gc
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from callers import GENERATOR, QUESTION, REASONER
from instant_server import serve

from duet_sdk import AsyncDuetClient

Request = Callable[[], Awaitable[int]]
"""Makes one request and tells how many chunks came, 1 for a whole answer."""


def duet(url: str) -> dict[str, tuple[Request, Request]]:
    """For each way to call: the chat model and the client beneath it."""
    from langchain_duet import ChatDuet

    names = (f"vllm/{REASONER}@{url}", f"vllm/{GENERATOR}@{url}")
    model, client = ChatDuet(reasoner=names[0], generator=names[1]), AsyncDuetClient(*names)

    async def invoke() -> int:
        await model.ainvoke(QUESTION)
        return 1

    async def chat() -> int:
        await client.chat(QUESTION)
        return 1

    async def astream() -> int:
        return len([chunk async for chunk in model.astream(QUESTION)])

    async def stream() -> int:
        async with client.stream(QUESTION) as run:
            return len([event async for event in run])

    return {"call": (invoke, chat), "chunk": (astream, stream)}


def openai(url: str) -> dict[str, tuple[Request, Request]]:
    """The same for ChatOpenAI and the openai client."""
    from langchain_openai import ChatOpenAI
    from openai import AsyncOpenAI

    model = ChatOpenAI(model=GENERATOR, base_url=url, api_key="none", stream_usage=True)
    client = AsyncOpenAI(base_url=url, api_key="none")
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": GENERATOR, "messages": messages, "max_tokens": 1024}

    async def invoke() -> int:
        await model.ainvoke(QUESTION, max_tokens=1024)
        return 1

    async def create() -> int:
        await client.chat.completions.create(**body)
        return 1

    async def astream() -> int:
        return len([chunk async for chunk in model.astream(QUESTION, max_tokens=1024)])

    async def stream() -> int:
        events = await client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        return len([event async for event in events])

    return {"call": (invoke, create), "chunk": (astream, stream)}


async def cpu_s(request: Request, requests: int) -> tuple[float, int]:
    """Seconds of CPU for one request, and its chunks."""
    chunks = 0
    gc.collect()
    start = time.process_time()
    for _ in range(requests):
        chunks = await request()
    return (time.process_time() - start) / requests, chunks


async def measure(subject: Callable[[str], dict[str, tuple[Request, Request]]], *, rounds: int, requests: int) -> None:
    """Print the rows of one chat model."""
    with serve() as url:
        for what, (wrapped, bare) in subject(url).items():
            for request in (wrapped, bare):
                await cpu_s(request, requests)
            pairs, chunks = [], 1
            for _ in range(rounds):
                above, chunks = await cpu_s(wrapped, requests)
                below, _ = await cpu_s(bare, requests)
                pairs.append((above, below))
            above, below = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
            added = statistics.median(one - other for one, other in pairs) * 1e6 / chunks
            ratio = statistics.median(one / other for one, other in pairs)
            each = f"{added:8.0f} µs per {what}" + (f" ({chunks} of them)" if what == "chunk" else "")
            name = f"{subject.__name__:8} {'ainvoke' if what == 'call' else 'astream':8}"
            print(f"{name} {above:8.0f} µs, its client {below:8.0f} µs: {ratio:5.2f} ×, {each}", flush=True)


def main() -> None:
    """Measure both and print what they ran on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=60)
    given = parser.parse_args()
    packages = ("langchain-core", "langchain-openai", "openai")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for subject in (duet, openai):
        asyncio.run(measure(subject, rounds=given.rounds, requests=given.requests))


if __name__ == "__main__":
    main()
