"""Seconds to the first token of an answer through `duet serve`, on two real vLLM servers on the CPU, four ways.

    PYTHONPATH=tests python benchmarks/gateway_first_answer.py [--questions 8] [--signal 32] [--thought 256]

It starts two servers of the embedded model (135 million weights; `.ci/environment vllm` makes their environment), so M
and m are as fast as each other: where M is larger, its rows grow and m's does not. The model does not think: M's first
``--thought`` tokens stand for its thinking, and its next one is the answer's first. Both stages write to their limits
(``ignore_eos``), one request at a time; the ways take turns, and medians are printed.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from gateways import duet_serve
from support import vllm_servers

from duet_sdk import models

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = [
    f"Tell the story of {city}, from its first settlers to the present day."
    for city in ("Paris", "Rome", "Cairo", "Lima", "Oslo", "Delhi", "Kyoto", "Quito", "Dakar")
]
ANSWER = 16
CONFIG = """
[reasoner]
model = "{reasoner}"
[generator]
model = "{generator}"
[budget]
signal_tokens = {signal}
answer_tokens = {most}
[reasoner_params]
temperature = 0
extra_body = {{ ignore_eos = true }}
[generator_params]
temperature = 0
extra_body = {{ ignore_eos = true }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--signal", type=int, default=32, help="tokens of a signal")
    parser.add_argument("--thought", type=int, default=256, help="tokens that stand for M's thinking")
    given = parser.parse_args()
    made = subprocess.run([ROOT / ".ci" / "environment", "vllm"], stdout=subprocess.PIPE, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        servers = [
            vllm_servers.launch(made.stdout.strip(), "plain", models.embedded(), Path(folder) / f"{name}.log")
            for name in ("reasoner", "generator")
        ]
        try:
            vllm_servers.wait_until_ready(servers)
            config = CONFIG.format(
                reasoner=servers[0].model, generator=servers[1].model, signal=given.signal, most=given.thought + ANSWER
            )
            with duet_serve(config) as gateway:
                asyncio.run(measure(gateway.port, QUESTIONS[: given.questions], given.signal, given.thought))
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                server.process.wait(30)


async def measure(port: int, questions: list[str], signal: int, thought: int) -> None:
    ways = {
        f"the pair, a signal of {signal} tokens": ("duet", 1),
        f"M, after {thought} tokens of thought": ("duet/reasoner", thought + 1),
        "M, without a thought": ("duet/reasoner", 1),
        "m alone": ("duet/generator", 1),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for model, _ in ways.values():
            await first_answer_s(session, model, "Say hello.", 1)
        for question in questions:
            for way, (model, token) in ways.items():
                took[way].append(await first_answer_s(session, model, question, token))
    alone = statistics.median(took["m alone"])
    print(f"{'first token of the answer, s':44}{'median':>8}{'over m':>8}")
    for way, seconds in took.items():
        print(f"{way:44}{statistics.median(seconds):8.2f}{statistics.median(seconds) / alone:7.1f}×")


async def first_answer_s(session: aiohttp.ClientSession, model: str, question: str, token: int) -> float:
    """Seconds to the answer's token of that number: the first of a stream, or the end of one that has no more."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
    body["max_tokens"] = ANSWER if token == 1 else token
    began = time.perf_counter()
    first_s = None
    async with session.post("/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if first_s is None and line.startswith(b"data: {") and told(line):
                first_s = time.perf_counter() - began
    ended_s = time.perf_counter() - began
    assert first_s is not None, "the answer is empty"
    return first_s if token == 1 else ended_s


def told(line: bytes) -> bool:
    """Whether a chunk has a piece of the answer."""
    value = json.loads(line[6:])
    if "error" in value:
        sys.exit(f"the gateway says: {value['error']['message']}")
    return any(choice["delta"].get("content") for choice in value["choices"])


if __name__ == "__main__":
    main()
