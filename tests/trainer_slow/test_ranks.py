"""Two processes on one CPU: the same policies on both, whatever their gradient accumulation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.journal import read_lines

PROGRAM = Path(__file__).with_name("ranks.py")


def launch(
    configs: list[TrainConfig], folder: Path, processes: int = 2, what: str = "main"
) -> list[list[dict[str, object]]]:
    """Train each by torchrun, one start for all, and give what each process says of its policies."""
    (folder / "runs.json").write_text(json.dumps([config.model_dump(mode="json") for config in configs]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [f"--master_port={port}", str(PROGRAM), what, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def test_both_processes_end_with_the_same_moved_policies_for_every_gradient_accumulation(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    configs = [
        configure(
            output=str(tmp_path / f"run{one}{two}"),
            reasoner={"gradient_accumulation": one},
            generator={"gradient_accumulation": two},
            training={"rounds": 3, "save_every": 0, "validate_every": 2, "validation_questions": 4},
        )
        for one, two in ((1, 1), (1, 2), (2, 1), (2, 2))
    ]
    first, second = launch(configs, tmp_path)
    assert first == second
    for config, found in zip(configs, first, strict=True):
        assert found["steps"] == [3, 3]  # saved at the end
        assert found["reasoner"] != found["reasoner_before"]
        assert found["generator"] != found["generator_before"]
        rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        assert [row["round"] for row in rows if row["phase"] == "train"] == [1, 2, 3]
        assert {row["questions"] for row in rows if row["phase"] == "validation"} == {4}


def test_two_processes_resume_from_a_checkpoint_that_one_of_them_was_slow_to_write(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    def run(name: str, rounds: int) -> TrainConfig:
        return configure(output=str(tmp_path / name), training={"rounds": rounds, "save_every": 2})

    first, second = launch([run("stopped", 2), run("stopped", 4), run("whole", 4)], tmp_path)
    assert first == second
    assert [found["rounds"] for found in first] == [2, 4, 4]
    assert first[1] == first[2]
    decisions = read_lines(tmp_path / "stopped" / "decisions.jsonl")
    assert [row["step"] for row in decisions if row["kind"] == "resume"] == [2]


def test_processes_with_other_questions_end_together_and_say_so(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    first, second = launch([configure(training={"rounds": 2})], tmp_path, what="differing")
    assert first == second
    assert "see different questions (rank 0 " in str(first[0])


def test_questions_that_do_not_divide_into_processes_are_refused(
    configure: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from duet_sdk.errors import ConfigError
    from duet_sdk.trainer.build import check_sizes

    with pytest.raises(ConfigError, match="must be a multiple of the number of processes"):
        check_sizes(configure(rollout={"questions": 4}), processes=3)
