"""Two trainers in one process, each trap on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Varied, weights
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from transformers import AutoModelForCausalLM

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.evaluation.question import Question
from duet_sdk.trainer import round as rounds
from duet_sdk.trainer import turns
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.joint import JointTrainer, Trained
from duet_sdk.trainer.journal import read_lines
from duet_sdk.trainer.policy import Policy

Configure = Callable[..., TrainConfig]
Make = Callable[[TrainConfig], JointTrainer]


def moved(trained: Trained, pair: Path) -> dict[str, bool]:
    """Which policies differ from what they started from."""
    found = {}
    for stage, model in (("reasoner", trained.reasoner), ("generator", trained.generator)):
        start = AutoModelForCausalLM.from_pretrained(pair / stage)
        found[stage] = not torch.equal(weights(start), weights(model))
    return found


def steps_of(config: TrainConfig) -> dict[str, int]:
    """Optimizer steps that each policy really took, by its optimizer's own count."""
    found = {}
    for stage in ("reasoner", "generator"):
        folder = sorted((config.output / stage).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-1]
        state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
        found[stage] = max((int(one["step"]) for one in state.values()), default=0)
    return found


def trained_rounds(config: TrainConfig) -> list[dict[str, object]]:
    """What was measured of each round of training."""
    return [row for row in read_lines(config.output / "metrics.jsonl") if row["phase"] == "train"]


@pytest.mark.parametrize("passes", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_both_policies_take_every_step_whatever_their_gradient_accumulation(
    configure: Configure, trainer: Make, pair: Path, passes: tuple[int, int]
) -> None:
    config = configure(reasoner={"gradient_accumulation": passes[0]}, generator={"gradient_accumulation": passes[1]})
    assert moved(trainer(config).train(), pair) == {"reasoner": True, "generator": True}
    assert steps_of(config) == {"reasoner": 4, "generator": 4}


def test_samples_may_be_drawn_in_several_calls(configure: Configure, trainer: Make, pair: Path) -> None:
    config = configure(reasoner={"sampled_at_once": 3}, generator={"sampled_at_once": 5}, training={"rounds": 2})
    made = trainer(config)
    assert moved(made.train(), pair) == {"reasoner": True, "generator": True}
    assert [row["round"] for row in trained_rounds(config)] == [1, 2]


def test_what_is_left_to_auto_is_a_number_in_the_runs_folder(configure: Configure, trainer: Make) -> None:
    config = configure(training={"rounds": 1})
    assert config.reasoner.gradient_accumulation is None
    trainer(config).train()
    kept = json.loads((config.output / "config.json").read_text())
    assert {stage: kept[stage]["gradient_accumulation"] for stage in ("reasoner", "generator")} == {
        "reasoner": 1,
        "generator": 1,
    }
    assert (kept["reasoner"]["sampled_at_once"], kept["generator"]["sampled_at_once"]) == (8, 16)


def test_without_the_swap_of_gradient_state_steps_are_lost(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap itself: should accelerate mend it, the swap can go."""
    monkeypatch.setattr(turns, "_keeping_gradient_state", lambda switch: switch())
    config = configure(reasoner={"gradient_accumulation": 2}, generator={"gradient_accumulation": 1})
    trainer(config).train()
    assert steps_of(config) != {"reasoner": 4, "generator": 4}


def test_mini_batches_are_updates_of_both(configure: Configure, trainer: Make) -> None:
    config = configure(rollout={"mini_batches": 2})
    trainer(config).train()
    assert steps_of(config) == {"reasoner": 8, "generator": 8}


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_a_rounds_row_holds_the_logs_of_both_policies(configure: Configure, trainer: Make, mini_batches: int) -> None:
    config = configure(rollout={"mini_batches": mini_batches}, training={"rounds": 2, "save_every": 0})
    trainer(config).train()
    rows = trained_rounds(config)
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        for name in ("loss", "grad_norm", "entropy", "learning_rate"):
            assert {f"{name}_reasoner", f"{name}_generator"} <= row.keys()
    # Each round's own: norms of gradients are not alike by chance.
    assert len({row[f"grad_norm_{stage}"] for row in rows for stage in ("reasoner", "generator")}) == 4


def test_a_tracker_gets_both_policies_under_their_names_and_the_run_keeps_its_own_record(
    configure: Configure, trainer: Make
) -> None:
    config = configure(training={"rounds": 2, "save_every": 0, "log_to": ["tensorboard"]})
    trainer(config).train()
    assert [row["round"] for row in trained_rounds(config)] == [1, 2]
    for stage in ("reasoner", "generator"):
        file = next((config.output / stage).rglob("events.out.tfevents.*"))
        told = {
            value.tag
            for event in EventFileLoader(str(file)).Load()
            for value in event.summary.value
            if value.tag.startswith("train/")
        }
        # transformers counts steps and epochs after everyone.
        plain = {tag for tag in told if not tag.startswith(f"train/{stage}/")}
        assert {f"train/{stage}/loss", f"train/{stage}/reward", f"train/{stage}/entropy"} <= told
        assert plain <= {"train/epoch", "train/num_input_tokens_seen"}


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_learning_rates_rise_over_the_rounds_of_warm_up(configure: Configure, trainer: Make, schedule: str) -> None:
    config = configure(training={"save_every": 0, "warmup_rounds": 2, "lr_schedule": schedule})
    trainer(config).train()
    for stage in ("reasoner", "generator"):
        rates = [row[f"learning_rate_{stage}"] for row in trained_rounds(config)]
        assert rates[:2] == pytest.approx([0, 0.5e-3])
        assert rates[2] == pytest.approx(1e-3)


def test_policies_that_are_at_different_questions_are_refused(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = rounds.ReasonerSide.rollout

    def shifted(self: rounds.ReasonerSide, prompts: list[str], policy: Policy) -> object:
        return write(self, prompts[2:] + prompts[:2], policy)

    monkeypatch.setattr(rounds.ReasonerSide, "rollout", shifted)
    with pytest.raises(TrainingError, match="at different questions"):
        trainer(configure()).train()


def test_precision_that_another_trainer_won_is_refused(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    try:
        with pytest.raises(TrainingError, match="mixed precision 'no' and gets 'bf16'"):
            trainer(configure()).train()
    finally:
        monkeypatch.undo()
        AcceleratorState._reset_state()


def test_the_advantages_trained_on_are_ours(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    compute = Policy._compute_loss

    def spying(self: Policy, model: object, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(inputs["advantages"].clone())
        return compute(self, model, inputs)

    monkeypatch.setattr(Policy, "_compute_loss", spying)
    monkeypatch.setattr(rounds, "reasoner_advantages", lambda rewards, *_args, **_kw: torch.full_like(rewards, 0.125))
    monkeypatch.setattr(rounds, "generator_advantages", lambda grades, *_args, **_kw: torch.full_like(grades, -0.25))
    trainer(configure(training={"rounds": 1, "save_every": 0})).train()
    # The generator's update comes first.
    assert [sorted(set(advantages.tolist())) for advantages in seen] == [[-0.25], [0.125]]
    assert [len(advantages) for advantages in seen] == [16, 8]


def test_a_loss_that_is_no_number_ends_the_run_before_the_weights(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        rounds, "reasoner_advantages", lambda rewards, *_args, **_kw: torch.full_like(rewards, float("nan"))
    )
    with pytest.raises(TrainingError, match="reasoner's loss is nan at step 0"):
        trainer(configure()).train()


def test_an_error_in_the_generators_loop_ends_the_run_as_it_is(
    configure: Configure, questions: tuple[Question, ...]
) -> None:
    class Broken(Varied):
        def grade(self, *_: object) -> list[float]:
            raise TrainingError("the grader is gone")

    joint = JointTrainer(configure(), questions=questions, validation=(), grader=Broken())
    with pytest.raises(TrainingError, match="the grader is gone"):
        joint.train()


def test_the_generator_alone_is_sampled_for_the_baseline_and_trains_nothing(
    configure: Configure, questions: tuple[Question, ...]
) -> None:
    grader = Varied()
    config = configure(
        rollout={"unguided": 3}, objective={"marginal": "baseline"}, training={"rounds": 1, "save_every": 0}
    )
    JointTrainer(config, questions=questions, validation=(), grader=grader).train()
    assert grader.graded == 4 * 2 * 2 + 4 * 3
    row = json.loads((config.output / "metrics.jsonl").read_text().splitlines()[0])
    assert row["alone"] is not None
    assert row["utility"] == pytest.approx(row["guided"] - row["alone"])


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"rollout": {"questions": 128}}, "there are 64 questions and a round takes 128"),
        ({"reasoner": {"max_new_tokens": 9000}}, "window holds 512 tokens"),
        ({"reasoner": {"gradient_accumulation": 3}}, "do not divide"),
        ({"training": {"lr_schedule": "cosin"}}, "training.lr_schedule is 'cosin', and transformers knows constant, "),
        ({"generator": {"optimizer": "adam"}}, "generator.optimizer is 'adam', and transformers knows .*adamw_torch"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    configure: Configure, trainer: Make, sections: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        trainer(configure(**sections))


def test_every_row_of_measures_is_told_as_it_is_written(configure: Configure, questions: tuple[Question, ...]) -> None:
    told: list[object] = []
    config = configure(training={"rounds": 2, "validate_every": 2})
    JointTrainer(
        config,
        questions=questions,
        validation=questions[:8],
        grader=Varied(),
        tell=lambda row: told.append((row["round"], row["phase"])),
    ).train()
    assert told == [(0, "validation"), (1, "train"), (2, "train"), (2, "validation")]


def test_a_full_gpu_is_told_with_what_to_set(
    configure: Configure, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Policy, "training_step", full)
    with pytest.raises(TrainingError, match=r"memory is full \(updates in passes: reasoner 1, .*Set gradient_acc"):
        trainer(configure()).train()
