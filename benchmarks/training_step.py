"""A joint round against one step each of two separate GRPO trainers of TRL with the same rollout sizes.

    PYTHONPATH=.:examples python benchmarks/training_step.py [--rounds 12]

Needs the extra train. Toy models of random weights, so that every sample is as long as it may be: 16 questions, 8
signals of 48 tokens for each, 2 answers of 3 tokens for each signal. Joint and separate run in processes of their own,
in turn, twice. Printed are the median time of a round (the sum of the two steps) and the peak of resident memory, and
the ratios, with what is wanted: at most 1.15 and 1.05. Exit code 1 where one is missed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

QUESTIONS, SIGNALS, ANSWERS = 16, 8, 2
SIGNAL_TOKENS, ANSWER_TOKENS = 48, 3
WARM = 2
"""Rounds that are not counted."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--mode", choices=["joint", "separate"], help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.mode:
        with tempfile.TemporaryDirectory() as folder:
            seconds = (joint if given.mode == "joint" else separate)(Path(folder), given.rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mib": peak}))
        return 0
    found: dict[str, list[dict[str, float]]] = {"joint": [], "separate": []}
    for mode in ("joint", "separate", "separate", "joint"):
        command = [sys.executable, __file__, "--rounds", str(given.rounds), "--mode", mode]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[mode].append(json.loads(said.splitlines()[-1]))
        print(f"{mode:9} {found[mode][-1]['seconds']:.3f} s a round, {found[mode][-1]['mib']:.0f} MiB", flush=True)
    missed = False
    for key, most in (("seconds", 1.15), ("mib", 1.05)):
        one, two = (min(run[key] for run in found[mode]) for mode in ("joint", "separate"))
        missed |= one > most * two
        print(f"{key}: joint is {one / two:.3f} x separate, at most {most} wanted")
    return int(missed)


def pair(folder: Path) -> Path:
    """Two models of random weights, of the sizes of the demonstration's."""
    from toy_pair import models

    models.save(folder / "start" / "reasoner", hidden=96, layers=3, seed=0)
    models.save(folder / "start" / "generator", hidden=48, layers=2, seed=1)
    return folder


def joint(folder: Path, rounds: int) -> float:
    """Seconds of a joint round."""
    import torch
    from toy_pair import family
    from toy_pair.demo import Scale, configure

    from duet_sdk.evaluation.grading import CountingGrader, Exact
    from duet_sdk.trainer.files import checked
    from duet_sdk.trainer.joint import JointTrainer

    torch.set_num_threads(1)
    values = configure(pair(folder), Scale(rounds=rounds)).model_dump(mode="json")
    values["training"].update(save_every=0, validate_every=0)
    values["guard"]["enabled"] = False
    questions = [chain.question() for chain in family.chains(0, QUESTIONS * rounds)]
    JointTrainer(checked(values, "a benchmark"), questions=questions, grader=CountingGrader(Exact())).train()
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = [row["time_s"] for row in map(json.loads, lines) if row["phase"] == "train"]
    return step_s(times)


def separate(folder: Path, rounds: int) -> float:
    """Seconds of a step of the one plus a step of the other, both trainers alive all the time."""
    import torch
    from datasets import Dataset
    from toy_pair import family
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from duet_sdk.trainer.build import load_tokenizer
    from duet_sdk.trainer.prompts import PairPrompts

    torch.set_num_threads(1)
    start = pair(folder) / "start"
    prompts, words = PairPrompts.of(start / "reasoner", start / "generator"), load_tokenizer(start / "reasoner")
    chains = family.chains(0, QUESTIONS * rounds)
    signal = " ".join(["monday seven"] * (SIGNAL_TOKENS // 2))
    asked = [prompts.ask_ids(chain.question().messages) for chain in chains]
    guided = [prompts.guided_ids(chain.question().messages, signal) for chain in chains for _ in range(SIGNALS)]

    class Timed(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.monotonic())

    def trainer(stage: str, ids: list[Any], group: int, tokens: int, timed: Timed) -> GRPOTrainer:
        config = GRPOConfig(
            output_dir=str(folder / stage), per_device_train_batch_size=len(ids) // rounds * group,
            num_generations=group, max_completion_length=tokens, max_steps=rounds, learning_rate=1e-4,
            lr_scheduler_type="constant", beta=0.0, use_cpu=True, bf16=False, report_to=[], save_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=False,
            gradient_checkpointing=False,  # as in the toy's configuration
        )  # fmt: skip
        made = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(start / stage),
            lambda completion_ids, **_: [float(len(set(one))) for one in completion_ids],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [words.decode(one) for one in ids]}),
            processing_class=words,
            callbacks=[timed],
        )
        made.remove_callback(PrinterCallback)
        return made

    one, two = Timed(), Timed()
    reasoner = trainer("reasoner", asked, SIGNALS, SIGNAL_TOKENS, one)
    generator = trainer("generator", guided, ANSWERS, ANSWER_TOKENS, two)
    reasoner.train()
    generator.train()
    return step_s(one.times) + step_s(two.times)


def step_s(ends: list[float]) -> float:
    """Median seconds between the ends of steps."""
    return statistics.median(after - before for before, after in pairwise(ends[WARM:]))


if __name__ == "__main__":
    sys.exit(main())
