"""Two stages through `duet serve`, one stage through LiteLLM's proxy: side by side, one core each, in one run.

    python benchmarks/against_litellm.py                 # some three minutes
    python benchmarks/against_litellm.py --rounds 7 --seconds 6 --at-once 32

Both gateways run on the first core and take turns; the models' server (`instant_server`) and the load, over raw
sockets, run on the second. Each turn goes on for some seconds, whole or streamed, and a ratio is the median of those
that the rounds gave. ``CPU ms`` is user and system time of the gateway for a request; ``of CPU`` is the ratio that it
gives, which other work on the machine touches less than the clock's.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field

from gateway import cpu_s, rss_mb
from gateways import Running, duet_serve, litellm_proxy, load_now
from instant_server import serve
from raw_load import load

CONFIG = """
[reasoner]
model = "vllm/m"
base_url = "{url}"

[generator]
model = "vllm/n"
base_url = "{url}"
"""
WANTED = {"whole": 8.0, "streamed": 12.0}
"""Times LiteLLM's rate."""
MOST_P99 = 0.2
"""Of LiteLLM's."""
MOST_RSS_MB = 80


@dataclass
class Turns:
    """What the rounds of one gateway gave in one of the two ways."""

    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    taken_s: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        return 1e3 * sorted(self.taken_s)[int(len(self.taken_s) * share)]


def main() -> int:
    given = parse()
    print(f"before: {load_now()}")
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})  # and the models' server, which is started from here
    with ExitStack() as stack:
        url = stack.enter_context(serve())
        deployed = {"model": f"{given.litellm_provider}/n", "api_base": url, "api_key": "none"}
        config = {"model_list": [{"model_name": "n", "litellm_params": deployed}]}
        gateways = {
            "duet": stack.enter_context(duet_serve(CONFIG.format(url=url), core=0)),
            "n": stack.enter_context(litellm_proxy(config, core=0)),
        }
        turns: dict[tuple[str, str], Turns] = defaultdict(Turns)
        for number in range(given.rounds + 1):
            for kind in WANTED:
                for model in gateways if number % 2 else reversed(gateways):
                    warming = number == 0
                    take(gateways[model], model, kind, given, Turns() if warming else turns[model, kind])
        resident = {model: rss_mb(running.pid) for model, running in gateways.items()}
    print(f"after: {load_now()}; {given.at_once} at once, {given.rounds} rounds of {given.seconds:g} s each\n")
    return report(turns, resident)


def take(running: Running, model: str, kind: str, given: argparse.Namespace, turns: Turns) -> None:
    """One turn of one gateway."""
    body = {"model": model, "stream": kind == "streamed", "messages": [{"role": "user", "content": "How many primes?"}]}
    end = time.monotonic() + given.seconds
    before, begin = cpu_s(running.pid), time.perf_counter()
    taken = asyncio.run(load(running.port, body, lambda: time.monotonic() < end, given.at_once))
    wall, cpu = time.perf_counter() - begin, cpu_s(running.pid) - before
    turns.rates.append(len(taken) / wall)
    turns.cpu_ms.append(1e3 * cpu / len(taken))
    turns.taken_s += taken


def report(turns: dict[tuple[str, str], Turns], resident: dict[str, float]) -> int:
    print(f"{'':32}{'requests/s':>12}{'CPU ms':>9}{'p50 ms':>9}{'p99 ms':>9}{'RSS MB':>9}")
    names = {"duet": "duet serve, both stages", "n": "LiteLLM's proxy, one stage"}
    for kind in WANTED:
        for model, name in names.items():
            ours = turns[model, kind]
            rate, cpu = statistics.median(ours.rates), statistics.median(ours.cpu_ms)
            p50, p99 = ours.percentile_ms(0.5), ours.percentile_ms(0.99)
            print(f"{name + ', ' + kind:32.40}{rate:12.0f}{cpu:9.2f}{p50:9.0f}{p99:9.0f}{resident[model]:9.0f}")
    print()
    good = [tell("resident memory, MB", resident["duet"], MOST_RSS_MB, at_most=True)]
    for kind, wanted in WANTED.items():
        ours, theirs = turns["duet", kind], turns["n", kind]
        rates = statistics.median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))
        cpu = statistics.median(b / a for a, b in zip(ours.cpu_ms, theirs.cpu_ms, strict=True))
        good.append(tell(f"rate over LiteLLM's, {kind}", rates, wanted))
        print(f"  {'the same of CPU':40}{cpu:8.2f}")
        p99 = ours.percentile_ms(0.99) / theirs.percentile_ms(0.99)
        good.append(tell(f"p99 over LiteLLM's, {kind}", p99, MOST_P99, at_most=True))
    return int(not all(good))


def tell(what: str, found: float, wanted: float, *, at_most: bool = False) -> bool:
    good = found <= wanted if at_most else found >= wanted
    print(f"  {what:40}{found:8.2f}  {'at most' if at_most else 'at least'} {wanted:g}  {'pass' if good else 'MISS'}")
    return good


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--litellm-provider", default="hosted_vllm", help="its provider: hosted_vllm or openai")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
