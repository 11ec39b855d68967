"""kill -9 at random moments: what is resumed ends where an uninterrupted run ends."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from duet_sdk.models.folder import sha256
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.journal import read_lines

PROGRAM = Path(__file__).with_name("kill.py")
KILLS = int(os.environ.get("DUET_TRAINING_KILLS", "3"))
"""Ten for a thorough run; each costs a start of some seconds."""


def start(config: TrainConfig, folder: Path) -> subprocess.Popen[bytes]:
    file = folder / f"{config.output.name}.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / f"{config.output.name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, str(PROGRAM), str(file)], env=environment, stderr=log, stdout=log)


def rounds(config: TrainConfig) -> list[dict[str, object]]:
    rows = read_lines(config.output / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "time_s"} for row in rows]


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    sections = {"training": {"rounds": 12, "save_every": 1, "validate_every": 4, "validation_questions": 4}}
    whole = configure(**sections, output=str(tmp_path / "whole"))
    assert start(whole, tmp_path).wait() == 0
    config = configure(**sections)
    rng, kills = random.Random(0), 0
    while True:
        process, seen = start(config, tmp_path), len(rounds(config))
        # From the first new round on, so that every start gets further.
        deadline = time.monotonic() + 300
        while process.poll() is None and len(rounds(config)) <= seen and time.monotonic() < deadline:
            time.sleep(0.02)
        if kills < KILLS and process.poll() is None:
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
            kills += process.wait() == -9
            continue
        assert process.wait() == 0, (tmp_path / "run.log").read_text()[-3000:]
        break
    assert kills >= 1
    assert rounds(config) == rounds(whole)
    for stage in ("reasoner", "generator"):
        name = Path("pair") / stage / "model.safetensors"
        assert sha256(config.output / name) == sha256(whole.output / name)
