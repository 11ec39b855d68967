"""The toy's joint run on a GPU, sampled by transformers or by vLLM: accuracy and tokens before and after.

    export PYTHONPATH=.:examples
    python benchmarks/training_gpu_toy.py [--sampled-by vllm] [--start build/science/terse-1] [--rounds 60]
    accelerate launch --config_file recipes/fsdp2.yaml --num_processes 1 benchmarks/training_gpu_toy.py

Needs the extra train, a GPU, and the pair that benchmarks/training.py taught. The run is its arm "gated", in bf16; what
is measured is the saved pair, greedily, on the same 400 held-out questions.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training import GATED, HELD, QUESTIONS, measure, pair_of

LIMITS = {"reasoner": 128, "generator": 160}
"""Tokens of prompt and output that the engines make room for."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sampled-by", choices=["transformers", "vllm"], default="transformers")
    options.add_argument("--start", type=Path, default=Path("build/science/terse-1"))
    options.add_argument("--rounds", type=int, default=60)
    given = options.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        row = train(Path(folder), given)
    if row is not None:
        print(json.dumps({"device": torch.cuda.get_device_name(0), "sampled by": given.sampled_by, **row}))
    return 0


def train(folder: Path, given: argparse.Namespace) -> dict[str, Any] | None:
    """What was measured; None on all processes but the first."""
    from toy_pair import family
    from toy_pair.demo import Scale, configure

    from duet_sdk.evaluation.grading import CountingGrader, Exact
    from duet_sdk.trainer.files import checked
    from duet_sdk.trainer.joint import JointTrainer

    values = configure(given.start, Scale(rounds=given.rounds)).model_dump(mode="json")
    values |= {"output": str(folder / "run"), "objective": GATED}
    values["training"] |= {"use_cpu": False, "precision": "bf16", "save_every": 0, "validate_every": 0}
    if given.sampled_by == "vllm":
        for stage, length in LIMITS.items():
            values[stage]["vllm"] = {"gpu_memory_utilization": 0.1, "max_model_length": length}
    lengths = sorted(set(Scale().lesson.lengths))
    chains = family.chains(5001, given.rounds * QUESTIONS, lengths=Scale().lesson.lengths)
    held = family.chains(9000, HELD, lengths=lengths, held_out=True)
    questions = [chain.question() for chain in chains]
    trainer = JointTrainer(checked(values, "the toy on a GPU"), questions=questions, grader=CountingGrader(Exact()))
    began = time.monotonic()
    trained = trainer.train()
    seconds = time.monotonic() - began
    if int(os.environ.get("RANK", "0")):
        return None
    if trained.pair is None:
        raise SystemExit(f"the run was stopped: {trained.stopped}")
    start, end = (measure(held, pair_of(place)) for place in (given.start / "start", folder / "run" / "pair"))
    return {"before": start, "after": end, "rounds": trained.rounds, "seconds": round(seconds)}


if __name__ == "__main__":
    sys.exit(main())
