"""Runs that are stopped in all ways and go on: to the last bit, or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Varied, weights

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.coupling import Coupling
from duet_sdk.trainer.joint import JointTrainer, Trained
from duet_sdk.trainer.journal import read_lines
from duet_sdk.trainer.question import Question

Configure = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], JointTrainer]

ADDITIVE = {"reward": "additive", "schedule": "dual", "budget_tokens": 2.0, "eta": 0.1, "lam": 0.05}


class Killed(BaseException):
    """Ends a run as suddenly as a signal would, inside this process."""


def curve(config: TrainConfig) -> list[dict[str, object]]:
    """What was measured, without the time of day."""
    rows = read_lines(config.output / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "time_s"} for row in rows]


def same(one: Trained, other: Trained) -> bool:
    pairs = ((one.reasoner, other.reasoner), (one.generator, other.generator))
    return all(torch.equal(weights(a), weights(b)) for a, b in pairs)


def kill_in_round(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    score, seen = Coupling._score, []

    def dying(self: Coupling, *given: object) -> object:
        seen.append(1)
        if len(seen) == number:
            raise Killed
        return score(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Coupling, "_score", dying)


@pytest.mark.parametrize("mini_batches", [1, 2])
@pytest.mark.parametrize("round_killed", [3, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    configure: Configure,
    trainer: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mini_batches: int,
    round_killed: int,
) -> None:
    sections = {
        "objective": ADDITIVE,
        "rollout": {"mini_batches": mini_batches},
        "training": {"rounds": 6, "validate_every": 2, "validation_questions": 4},
    }
    whole = configure(**sections, output=str(tmp_path / "whole"))
    wanted = trainer(whole).train()
    config = configure(**sections)
    with monkeypatch.context() as patch:
        kill_in_round(patch, round_killed)
        with pytest.raises(Killed):
            trainer(config).train()
    found = trainer(config).train(resume=True)
    assert found.rounds == 6
    assert same(found, wanted)
    assert curve(config) == curve(whole)


def test_sigterm_saves_both_policies_after_the_next_round_and_the_run_goes_on_from_there(
    configure: Configure, questions: tuple[Question, ...], trainer: Make, tmp_path: Path
) -> None:
    class Signalling(Varied):
        def grade(self, *given: object) -> list[float]:
            grades = super().grade(*given)  # type: ignore[arg-type]
            if self.graded == 3 * 16:  # in the third round
                os.kill(os.getpid(), signal.SIGTERM)
            return grades

    sections = {"training": {"rounds": 6, "save_every": 0}}
    config = configure(**sections)
    stopped = JointTrainer(config, questions=questions, validation=(), grader=Signalling()).train()
    assert (stopped.stopped, stopped.rounds) == ("signal", 4)
    assert (config.output / "reasoner" / "checkpoint-4" / "duet.json").is_file()
    assert (config.output / "generator" / "checkpoint-4" / "duet.json").is_file()
    found = trainer(config).train(resume=True)
    whole = configure(**sections, output=str(tmp_path / "whole"))
    assert same(found, trainer(whole).train())


def test_a_checkpoint_of_one_policy_alone_is_not_resumed_from(configure: Configure, trainer: Make) -> None:
    config = configure(training={"rounds": 4, "save_every": 2})
    trainer(config).train()
    shutil.rmtree(config.output / "generator" / "checkpoint-4")
    longer = configure(training={"rounds": 5, "save_every": 2})
    trainer(longer).train(resume=True)
    assert [row["step"] for row in read_lines(config.output / "decisions.jsonl") if row["kind"] == "resume"] == [2]
    shutil.rmtree(config.output / "reasoner")
    with pytest.raises(TrainingError, match="reasoner has none"):
        trainer(longer).train(resume=True)


def test_a_changed_configuration_is_refused_and_a_finished_run_is_not_overwritten(
    configure: Configure, trainer: Make
) -> None:
    config = configure()
    trainer(config).train()
    with pytest.raises(TrainingError, match=r"objective.alpha: 0.3 → 0.4"):
        trainer(configure(objective={"alpha": 0.4})).train(resume=True)
    with pytest.raises(ConfigError, match="holds a run; resume it"):
        trainer(config).train()


def test_a_run_is_not_resumed_with_other_questions_under_the_same_name(
    configure: Configure, questions: tuple[Question, ...], trainer: Make
) -> None:
    trainer(configure(training={"rounds": 2})).train()
    other = JointTrainer(configure(training={"rounds": 3}), questions=questions[::-1], grader=Varied())
    with pytest.raises(TrainingError, match="was started with other questions"):
        other.train(resume=True)


def test_a_full_disk_ends_the_run_in_words_and_leaves_no_half_checkpoint(configure: Configure, trainer: Make) -> None:
    config = configure(training={"rounds": 4, "save_every": 2})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(TrainingError, match="checkpoint of step 2 cannot be written"):
            trainer(config).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(config.output.glob("*/checkpoint-*"))


def test_a_collapse_goes_back_to_the_last_good_checkpoint_more_gently_and_then_stops(
    configure: Configure, questions: tuple[Question, ...]
) -> None:
    class Falling(Varied):
        def grade(self, asked: object, answers: list[str]) -> list[float]:
            self.graded += len(answers)
            return [float(self.graded <= 8 * 16) for _ in answers]

    config = configure(
        training={"rounds": 20, "save_every": 2, "keep": 5},
        guard={"enabled": True, "patience": 3, "retries": 2, "gentler": 0.5},
    )
    trained = JointTrainer(config, questions=questions, validation=(), grader=Falling()).train()
    assert trained.stopped is not None
    assert trained.pair is None
    assert "accuracy is 0.000 for 3 rounds, 1.000 was reached" in trained.stopped
    decisions = [row for row in read_lines(config.output / "decisions.jsonl") if row["kind"] in ("back", "stop")]
    assert [row["kind"] for row in decisions] == ["back", "back", "stop"]
    assert [row.get("step") for row in decisions[:2]] == [8, 8]
    rates = [row["learning_rate_reasoner"] for row in read_lines(config.output / "metrics.jsonl")]
    assert [rates[0], rates[-1]] == pytest.approx([1e-3, 2.5e-4])
