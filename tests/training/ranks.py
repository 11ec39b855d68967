"""What each process of `test_ranks` runs: trains, and writes down the hashes of its policies."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.files import checked
from duet_sdk.trainer.joint import JointTrainer
from duet_sdk.trainer.question import Question
from duet_sdk.trainer.toy import family


class Varied:
    """As in conftest.py."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [float(zlib.crc32(answer.encode()) % 2) for answer in answers]


def digest(model: torch.nn.Module) -> str:
    values = (value.detach().numpy().tobytes() for _, value in sorted(model.state_dict().items()))
    return hashlib.sha256(b"".join(values)).hexdigest()


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
    questions = [one.question() for one in family.chains(3, 64, lengths=[0, 1])]
    found = []
    for values in json.loads((folder / "runs.json").read_text()):
        config = checked(values, "runs.json")
        trained = JointTrainer(config, questions=questions, validation=questions[:8], grader=Varied()).train()
        found.append(
            {
                "rounds": trained.rounds,
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
