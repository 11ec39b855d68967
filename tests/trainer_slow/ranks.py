"""What each process of `test_ranks` runs: trains, and writes down the hashes of its policies."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from toy_pair import family
from transformers import AutoModelForCausalLM

from duet_sdk.errors import TrainingError
from duet_sdk.evaluation.question import Question
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.files import checked
from duet_sdk.trainer.joint import JointTrainer
from duet_sdk.trainer.policy import Policy


class Varied:
    """As in conftest.py."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [float(zlib.crc32(answer.encode()) % 2) for answer in answers]


def digest(model: torch.nn.Module) -> str:
    values = (value.detach().numpy().tobytes() for _, value in sorted(model.state_dict().items()))
    return hashlib.sha256(b"".join(values)).hexdigest()


def save_late(self: Policy, folder: str, save: Callable[[Policy, str], None] = Policy._save_rng_state) -> None:
    """The second process is slow to write its part of a checkpoint."""
    time.sleep(0.3 * int(os.environ["RANK"]))
    save(self, folder)


def steps(config: TrainConfig, stage: str) -> int | None:
    """Updates in the optimizer of a policy's last checkpoint, None if there is none."""
    saved = sorted((config.output / stage).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    if not saved:
        return None
    state = torch.load(saved[-1] / "optimizer.pt", weights_only=True)["state"]
    return max(int(one["step"]) for one in state.values())


def differing(folder: Path) -> None:
    """The second process misses a question; what each of them says of it."""
    questions = [one.question() for one in family.chains(3, 64, lengths=[0, 1])]
    rank = int(os.environ["RANK"])
    config = checked(json.loads((folder / "runs.json").read_text())[0], "runs.json")
    try:
        JointTrainer(config, questions=questions[rank:], grader=Varied()).train()
    except TrainingError as error:
        (folder / f"rank{rank}.json").write_text(json.dumps([str(error)]))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    Policy._save_rng_state = save_late
    questions = [one.question() for one in family.chains(3, 64, lengths=[0, 1])]
    found = []
    for values in json.loads((folder / "runs.json").read_text()):
        config = checked(values, "runs.json")
        resume = (config.output / "config.json").is_file()
        joint = JointTrainer(config, questions=questions, validation=questions[:8], grader=Varied())
        trained = joint.train(resume=resume)
        found.append(
            {
                "rounds": trained.rounds,
                "steps": [steps(config, stage) for stage in ("reasoner", "generator")],
                "reasoner": digest(trained.reasoner),
                "generator": digest(trained.generator),
                "reasoner_before": digest(AutoModelForCausalLM.from_pretrained(config.reasoner.model)),
                "generator_before": digest(AutoModelForCausalLM.from_pretrained(config.generator.model)),
            }
        )
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"main": main, "differing": differing}[sys.argv[1]](Path(sys.argv[2]))
    PartialState().destroy_process_group()  # left open, it can abort the process at its exit
