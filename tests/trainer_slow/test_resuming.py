"""Runs that are stopped in all ways and go on: to the last bit, or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Varied, weights

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.evaluation.question import Question
from duet_sdk.trainer import joint
from duet_sdk.trainer.build import order_of
from duet_sdk.trainer.checkpoints import Checkpoints
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.joint import JointTrainer, Trained
from duet_sdk.trainer.journal import read_lines
from duet_sdk.trainer.round import ReasonerSide
from duet_sdk.trainer.trial import softened

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
    score, seen = ReasonerSide._score, []

    def dying(self: ReasonerSide, *given: object) -> object:
        seen.append(1)
        if len(seen) == number:
            raise Killed
        return score(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ReasonerSide, "_score", dying)


@pytest.mark.parametrize("mini_batches", [1, 2])
@pytest.mark.parametrize("round_killed", [2, 3, 5])
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


def test_a_run_resumed_past_its_first_pass_over_the_questions_goes_on_in_order(
    configure: Configure, questions: tuple[Question, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine questions, four a round: two rounds a pass, and one question left out of each."""

    def make(config: TrainConfig) -> JointTrainer:
        return JointTrainer(config, questions=questions[:9], validation=(), grader=Varied())

    sections = {"training": {"rounds": 6, "save_every": 1}}
    whole = configure(**sections, output=str(tmp_path / "whole"))
    wanted = make(whole).train()
    config = configure(**sections)
    with monkeypatch.context() as patch:
        kill_in_round(patch, 5)
        with pytest.raises(Killed):
            make(config).train()
    assert same(make(config).train(resume=True), wanted)
    assert curve(config) == curve(whole)


def test_every_pass_over_the_questions_has_an_order_of_its_own() -> None:
    places = order_of(9, each=4, rounds=5, seed=0)
    passes = [places[:8], places[8:16]]
    assert len(places) == 20
    assert [len(set(one)) for one in passes] == [8, 8]
    assert passes[0] != passes[1]
    assert order_of(9, each=4, rounds=7, seed=0)[:20] == places
    assert order_of(9, each=4, rounds=5, seed=1) != places


def test_a_finished_run_that_is_resumed_trains_no_round_more(
    configure: Configure, trainer: Make, tmp_path: Path
) -> None:
    config = configure(training={"rounds": 4, "save_every": 2})
    wanted = trainer(config).train()
    before = curve(config)
    found = trainer(config).train(resume=True)
    assert same(found, wanted)
    assert found.rounds == 4
    assert found.pair is not None
    assert curve(config) == before


def test_a_run_saves_and_validates_once_after_its_last_round(configure: Configure, trainer: Make) -> None:
    config = configure(training={"rounds": 3, "save_every": 0, "validate_every": 3, "validation_questions": 4})
    trainer(config).train()
    assert [row["round"] for row in curve(config) if row["phase"] == "validation"] == [0, 3]
    assert Checkpoints(config.output).common() == [3]
    whole = curve(config)
    # As if it had been killed while it validated: it is made again, and stands where it stood.
    trainer(config).train(resume=True)
    assert curve(config) == whole


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


def test_what_holds_no_run_is_not_resumed(configure: Configure, trainer: Make) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume; start it"):
        trainer(configure()).train(resume=True)


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


def test_a_run_that_went_back_takes_less_weight_on_length_and_smaller_steps(configure: Configure) -> None:
    config = configure(
        reasoner={"learning_rate": 8e-6},
        generator={"learning_rate": 4e-6},
        objective={"alpha": 0.4, "lam": 0.2, "lam_max": 0.8, "cap": 0.6, "eta": 0.03},
        guard={"gentler": 0.5},
    )
    assert softened(config, 0) == config
    soft = softened(config, 2)
    objective = soft.objective
    assert (objective.alpha, objective.lam, objective.lam_max, objective.cap) == pytest.approx((0.1, 0.05, 0.2, 0.15))
    assert objective.eta == 0.03
    assert (soft.reasoner.learning_rate, soft.generator.learning_rate) == pytest.approx((2e-6, 1e-6))


class Falling(Varied):
    """Grades all right for ten rounds, then all wrong."""

    def grade(self, asked: object, answers: list[str]) -> list[float]:
        self.graded += len(answers)
        return [float(self.graded <= 10 * 16) for _ in answers]


def test_a_collapse_goes_back_to_the_last_good_checkpoint_more_gently_and_then_stops(
    configure: Configure, questions: tuple[Question, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        training={"rounds": 20, "save_every": 2, "keep": 5},
        guard={"enabled": True, "patience": 3, "retries": 2, "gentler": 0.5},
    )
    prepare, before = joint.prepare_trial, []

    def alone(*given: object, **named: object) -> object:
        assert all(policy() is None for policy in before), "a trial's policies are still there when the next is built"
        trial = prepare(*given, **named)
        before.extend([weakref.ref(trial.reasoner), weakref.ref(trial.generator)])
        return trial

    monkeypatch.setattr(joint, "prepare_trial", alone)
    trained = JointTrainer(config, questions=questions, validation=(), grader=Falling()).train()
    assert len(before) == 6
    assert trained.stopped is not None
    assert trained.pair is None
    assert "accuracy is 0.000 and has been far below the 1.000 reached before for 3 rounds" in trained.stopped
    decisions = [row for row in read_lines(config.output / "decisions.jsonl") if row["kind"] in ("back", "stop")]
    assert [row["kind"] for row in decisions] == ["back", "back", "stop"]
    # The update of round 10 made what round 11 grades as lost; that of round 8 is the last saved before it.
    assert [row.get("step") for row in decisions[:2]] == [8, 6]
    rates = [row["learning_rate_reasoner"] for row in read_lines(config.output / "metrics.jsonl")]
    assert [rates[0], rates[-1]] == pytest.approx([1e-3, 2.5e-4])


def test_a_run_that_is_killed_after_it_went_back_goes_on_as_gently(
    configure: Configure, questions: tuple[Question, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        training={"rounds": 20, "save_every": 2, "keep": 5},
        guard={"enabled": True, "patience": 3, "retries": 1, "gentler": 0.5},
    )
    with monkeypatch.context() as patch:
        kill_in_round(patch, 14)  # the first after going back
        with pytest.raises(Killed):
            JointTrainer(config, questions=questions, validation=(), grader=Falling()).train()
    shorter = configure(training={"rounds": 10, "save_every": 2, "keep": 5}, guard={"gentler": 0.5})
    JointTrainer(shorter, questions=questions, validation=(), grader=Varied()).train(resume=True)
    # transformers tells a rate one round late after loading.
    rates = {row["round"]: row["learning_rate_reasoner"] for row in curve(config) if row["phase"] == "train"}
    assert [rates[8], rates[10]] == pytest.approx([1e-3, 0.5e-3])
