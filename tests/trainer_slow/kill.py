"""What `test_killed` starts and kills: a run of the demonstration's kind, resumed where there is something to resume."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from toy_pair import family

from duet_sdk.evaluation.question import Question
from duet_sdk.trainer.files import checked
from duet_sdk.trainer.joint import JointTrainer


class Varied:
    """As in conftest.py."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [float(zlib.crc32(answer.encode()) % 2) for answer in answers]


def main(file: Path) -> None:
    torch.set_num_threads(1)
    config = checked(json.loads(file.read_text()), str(file))
    questions = [one.question() for one in family.chains(3, 64, lengths=[0, 1])]
    trainer = JointTrainer(config, questions=questions, validation=questions[:8], grader=Varied())
    trainer.train(resume=(config.output / "config.json").is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
