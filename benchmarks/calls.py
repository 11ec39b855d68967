"""Python calls of one warm `chat()`, and what one chunk in the middle of a stream passes.

    python benchmarks/calls.py [--list] [--json]

*Calls of a chat*: one `chat()` of 16 chunks a stage, joined, by cProfile, less those of the same two calls by hand
(callers.py). cProfile counts built-in functions too. Of these calls, those of functions of duet_sdk are counted apart,
and so is how many different functions they are.

*A chunk's way*: the same request with 16 and with 48 chunks, each read by itself, and the difference for each of the
32 chunks more. Three figures, from narrow to wide:

- frames: the coroutines and generators of duet_sdk that a chunk resumes, each of which hands it to the next, from the
  one that reads the socket to the one that the reader awaits;
- functions: the different functions of duet_sdk that are entered or resumed, those included that look at a chunk and
  return;
- calls: how often all of these are entered or resumed.

A function belongs to a chunk's way if it runs for at least half of the chunks. Only one stage gets more chunks at a
time: the signal's and the answer's chunks of `stream()` and the signal's of `chat()` are told apart. `--list` names the
functions.

Figures are the medians of several requests: how often the event loop wakes up differs a little from one to the next.
"""

import argparse
import asyncio
import cProfile
import inspect
import json
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from callers import ByHand, Duet
from instant_server import CHUNKS, serve, switched

import duet_sdk

HOME = str(Path(duet_sdk.__file__).resolve().parent)
WARM_UP = 5
REQUESTS = 7
MORE = 32
Call = Callable[[], Awaitable[str]]


def _name(code: CodeType) -> str:
    return f"{Path(code.co_filename).relative_to(HOME)}:{code.co_firstlineno} {code.co_qualname}"


def _is_resumed(code: CodeType) -> bool:
    return bool(code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR))


async def calls_of(call: Call) -> list[int]:
    """All Python calls of a request by cProfile, one figure for each request."""
    for _ in range(WARM_UP):
        await call()
    counts = []
    for _ in range(REQUESTS):
        profile = cProfile.Profile()
        profile.enable()
        await call()
        profile.disable()
        counts.append(sum(entry.callcount for entry in profile.getstats()))
    return counts


async def functions_of(call: Call) -> Counter[CodeType]:
    """How often a request enters or resumes each function of duet_sdk: medians."""
    for _ in range(WARM_UP):
        await call()
    counts = []
    for _ in range(REQUESTS):
        count: Counter[CodeType] = Counter()

        def see(frame: FrameType, event: str, _: object, count: Counter[CodeType] = count) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(HOME):
                count[frame.f_code] += 1

        sys.setprofile(see)
        await call()
        sys.setprofile(None)
        counts.append(count)
    seen = {code for count in counts for code in count}
    return Counter({code: round(statistics.median(count[code] for count in counts)) for code in seen})


async def of_a_chat(url: str) -> dict[str, Any]:
    """What one `chat()` calls, beyond the same by hand."""
    async with Duet(url) as duet, ByHand(url) as by_hand:
        ours, theirs = await calls_of(duet.whole), await calls_of(by_hand.whole)
        functions = await functions_of(duet.whole)
    found = {"duet": statistics.median(ours), "by_hand": statistics.median(theirs)}
    return {
        **found,
        "beyond": found["duet"] - found["by_hand"],
        "of_duet_sdk": functions.total(),
        "functions_of_duet_sdk": sum(count > 0 for count in functions.values()),
    }


async def of_a_chunk(url: str, method: str, stage: str) -> dict[str, Any]:
    """What each further chunk of that stage passes."""
    counts = []
    for chunks in (CHUNKS, CHUNKS + MORE):
        longer, plain = switched(url, apart=True, chunks=chunks), switched(url, apart=True)
        caller = Duet(longer if stage == "signal" else plain)
        caller.generator_url = longer if stage == "answer" else plain
        async with caller as duet:
            counts.append(await functions_of(getattr(duet, method)))
    short, long = counts
    each = {code: (long[code] - short[code]) / MORE for code in long | short}
    passed = {code: times for code, times in each.items() if times >= 0.5}
    return {
        "frames": sum(map(_is_resumed, passed)),
        "functions": len(passed),
        "calls": sum(each.values()),
        "passed": {
            f"{'frame' if _is_resumed(code) else '     '} {_name(code)}": times
            for code, times in sorted(passed.items(), key=lambda item: (not _is_resumed(item[0]), _name(item[0])))
        },
    }


async def measure(url: str) -> dict[str, Any]:
    return {
        "chat": await of_a_chat(url),
        "chunk": {
            "stream(), signal": await of_a_chunk(url, "streamed", "signal"),
            "stream(), answer": await of_a_chunk(url, "streamed", "answer"),
            "chat(), signal": await of_a_chunk(url, "whole", "signal"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the functions that a chunk passes")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    with serve() as url:
        found = asyncio.run(measure(url))
    if given.json:
        print(json.dumps(found))
        return
    chat = found["chat"]
    print(f"one chat(), {CHUNKS} chunks a stage, median of {REQUESTS}")
    print(f"  Python calls: DUET {chat['duet']:,.0f}, by hand {chat['by_hand']:,.0f}, beyond {chat['beyond']:,.0f}")
    print(f"  of duet_sdk: {chat['of_duet_sdk']} calls of {chat['functions_of_duet_sdk']} functions")
    print("one chunk from the middle, read by itself: what it passes of duet_sdk")
    for name, chunk in found["chunk"].items():
        print(f"  {name:18}{chunk['frames']:4} frames{chunk['functions']:5} functions{chunk['calls']:7.1f} calls")
        if given.list:
            for function, times in chunk["passed"].items():
                print(f"      {times:5.2f}  {function}")


if __name__ == "__main__":
    main()
