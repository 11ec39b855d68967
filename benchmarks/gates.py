"""What each gate and the progressive signal save and cost, on scripted models and on the embedded pair.

    python benchmarks/gates.py [--models scripted|embedded|both] [--requests 64]

Means over the requests: the reasoner's output tokens, how many ``always`` would have paid more (saved), the
generator's tokens that were paid in vain (input and output of probes that were not adopted), the reasoner's tokens
written when they were no longer needed (overlap), and the time to the first token of the answer; then the time of all
requests together, and how many answers were right. At 1 and at 64 requests at once.

The scripted pair: a reasoner of 100 tokens a second, a generator of 400. Half of the questions are easy: the generator
alone is right and sure of its words. Of the others it is in doubt, and right only with the first third of the signal.
The embedded pair is one small model in both roles, so that it shows mechanics and time, and no quality.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

from duet_sdk import AsyncDuetClient, Budget, Reply
from duet_sdk.backends import Call
from duet_sdk.backends.local.transformers import TransformersBackend
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gate import Confidence, Race
from duet_sdk.options import ClientOptions
from duet_sdk.policies import Progressive

KEY = "The key is seven."
PLAN = "We look for it here. " * 5 + f"{KEY} " + "This is one more sentence of it. " * 9
ANSWER = " ".join(f"w{number}" for number in range(64))
SURE, DOUBT = -0.02, -1.2
QUESTIONS = ("What is the capital of France?", "How many days has a week?", "Name three fruits.", "What is 17 + 25?")


def scripted() -> tuple[Scripted, Scripted]:
    def answer(call: Call) -> Script:
        text = call.messages[-1].text
        knows = KEY in text or "easy" in text
        return Script(
            f"right {ANSWER}" if knows else f"wrong {ANSWER}", token_s=1 / 400, logprob=SURE if knows else DOUBT
        )

    return Scripted(Script(PLAN, token_s=1 / 100), model="big"), Scripted(answer, model="small")


def embedded() -> tuple[TransformersBackend, TransformersBackend]:
    return TransformersBackend("embedded"), TransformersBackend("embedded")


HEAD = f"{'':18}{'M tokens':>9}{'saved':>9}{'m in vain':>11}{'overlap':>9}{'first, s':>11}{'all, s':>9}   right"

TRIED = {"scripted": (0.2, 8), "embedded": (0.5, 6)}
"""Threshold and first tokens of the gates by tokens: the small model is never as sure as the scripted one."""
PROBED = {
    "scripted": Progressive(slice_tokens=16, threshold=0.2, probe_tokens=8),
    "embedded": Progressive(slice_tokens=8, threshold=0.5, probe_tokens=4),
}


def ways(models: str) -> dict[str, ClientOptions]:
    threshold, tokens = TRIED[models]
    race = Race(threshold, tokens)
    return {
        "always": {},
        "never": {"gate": "never"},
        "confidence": {"gate": Confidence(threshold, tokens)},
        "race": {"gate": race},
        "progressive": {"progressive": PROBED[models]},
        "race, progressive": {"gate": race, "progressive": PROBED[models]},
    }


async def asked(
    make: Callable[[], tuple[object, object]],
    options: ClientOptions,
    questions: Sequence[str],
    at_once: int,
    budget: Budget,
) -> tuple[list[Reply], float]:
    turns = asyncio.Semaphore(at_once)
    reasoner, generator = make()
    async with AsyncDuetClient(reasoner, generator, budget=budget, **options) as duet:
        await duet.chat("Hello", mode="generator", budget=Budget(answer_tokens=1))  # the model is loaded

        async def ask(question: str) -> Reply:
            async with turns:
                return await duet.chat(question, temperature=0)

        start = time.perf_counter()
        replies = await asyncio.gather(*map(ask, questions))
        return replies, time.perf_counter() - start


def row(name: str, replies: Sequence[Reply], base: Sequence[Reply], seconds: float) -> str:
    receipts = [reply.receipt for reply in replies]
    big = statistics.fmean(reply.usage.reasoner.output_tokens for reply in replies)
    saved = statistics.fmean(reply.usage.reasoner.output_tokens for reply in base) - big
    vain = statistics.fmean(receipt.discarded.usage.generator.total_tokens for receipt in receipts)
    overlap = statistics.fmean(receipt.overlap_tokens for receipt in receipts)
    first_s = statistics.fmean(receipt.first_answer_s or 0.0 for receipt in receipts)
    graded = [reply.text.startswith("right") for reply in replies if reply.text.startswith(("right", "wrong"))]
    right = f"{statistics.fmean(graded):8.0%}" if graded else ""
    return f"{name:18}{big:9.1f}{saved:9.1f}{vain:11.1f}{overlap:9.1f}{first_s:11.3f}{seconds:9.2f}{right}"


async def measure(models: str, requests: int) -> None:
    for name, make in (("scripted", scripted), ("embedded", embedded)):
        if models not in (name, "both"):
            continue
        texts = [f"{'easy' if number % 2 else 'hard'} {number}" for number in range(requests)]
        budget = Budget(signal_tokens=128, answer_tokens=80)
        if name == "embedded":
            texts = [QUESTIONS[number % len(QUESTIONS)] for number in range(requests)]
            budget = Budget(signal_tokens=24, answer_tokens=8)
        for at_once in (1, 64):
            count = min(requests, 4) if at_once == 1 else requests  # one at a time is slow
            print(f"{name}, {count} requests, {at_once} at once")
            print(HEAD)
            base: Sequence[Reply] = ()
            for way, options in ways(name).items():
                replies, seconds = await asked(make, options, texts[:count], at_once, budget)
                base = base or replies
                print(row(way, replies, base, seconds), flush=True)
            print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", choices=["scripted", "embedded", "both"], default="both")
    parser.add_argument("--requests", type=int, default=64)
    given = parser.parse_args()
    asyncio.run(measure(given.models, given.requests))
