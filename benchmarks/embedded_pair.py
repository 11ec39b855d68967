"""Our time over plain transformers' for the same numbers of tokens, on the embedded pair: interleaved runs, greedy.

    python benchmarks/embedded_pair.py [--runs 12] [--tokens 32]

Plain is `model.generate` called twice on the two prompts that the pair's stages had, for as many new tokens.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from duet_sdk import Budget, DuetClient
from duet_sdk.backends.local.transformers import TransformersBackend
from duet_sdk.models import embedded
from duet_sdk.reply import Reply

QUESTION = "Tell the story of the city of Paris, from its first settlers to the present day."


def plainly(model: torch.nn.Module, prompts: list[int], tokens: list[int]) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        for length, count in zip(prompts, tokens, strict=True):
            ids = torch.ones((1, length), dtype=torch.long)
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False
            )
    return time.perf_counter() - start


def with_duet(duet: DuetClient, budget: Budget) -> tuple[float, Reply]:
    start = time.perf_counter()
    reply = duet.chat(QUESTION, budget=budget, temperature=0)
    return time.perf_counter() - start, reply


def main(runs: int, tokens: int) -> None:
    plain = AutoModelForCausalLM.from_pretrained(embedded(), dtype=torch.bfloat16, local_files_only=True).eval()
    budget = Budget(signal_tokens=tokens, answer_tokens=tokens)
    pair = [TransformersBackend("embedded") for _ in range(2)]
    with DuetClient(*pair) as duet:
        _, reply = with_duet(duet, budget)
        stages = (reply.usage.reasoner, reply.usage.generator)
        sizes = [stage.input_tokens for stage in stages], [stage.output_tokens for stage in stages]
        plainly(plain, *sizes)
        ours, theirs = [], []
        for _ in range(runs):
            theirs.append(plainly(plain, *sizes))
            seconds, reply = with_duet(duet, budget)
            assert [stage.output_tokens for stage in (reply.usage.reasoner, reply.usage.generator)] == sizes[1]
            ours.append(seconds)
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"prompts of {sizes[0]} tokens, {sizes[1]} tokens written, {runs} interleaved runs")
    print(f"transformers  median {statistics.median(theirs):.3f} s")
    print(f"duet          median {statistics.median(ours):.3f} s")
    print(f"ratio         median {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32)
    given = parser.parse_args()
    main(given.runs, given.tokens)
