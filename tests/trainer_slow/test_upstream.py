"""The names of TRL and accelerate that are not theirs to keep: one test each, that says what broke."""

from __future__ import annotations

import inspect

from accelerate.state import GradientState
from transformers import Trainer
from trl import GRPOTrainer


def test_trl_samples_through_generate_single_turn() -> None:
    names = list(inspect.signature(GRPOTrainer._generate_single_turn).parameters)
    assert names[:5] == ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"], (
        "TRL changed GRPOTrainer._generate_single_turn, through which Policy.sample reaches its engines"
    )


def test_trl_makes_a_round_in_generate_and_score_completions() -> None:
    assert "inputs" in inspect.signature(GRPOTrainer._generate_and_score_completions).parameters
    assert "self._generate_and_score_completions(" in inspect.getsource(GRPOTrainer._prepare_inputs), (
        "TRL no longer makes its rounds where Policy puts in advantages"
    )
    assert '"advantages": advantages' in inspect.getsource(GRPOTrainer._generate_and_score_completions), (
        "TRL no longer gives advantages as an entry of the round, which Policy replaces"
    )


def test_trl_still_takes_a_rollout_function_with_prompts_and_trainer() -> None:
    assert "rollout_func" in inspect.signature(GRPOTrainer.__init__).parameters
    assert "self.rollout_func(prompts, self)" in inspect.getsource(GRPOTrainer._generate)


def test_trl_keeps_its_measures_by_mode_and_name_until_it_logs_them() -> None:
    assert "self._metrics[mode].items()" in inspect.getsource(GRPOTrainer.log), (
        "TRL no longer keeps its measures in _metrics, whose names Policy.log puts a prefix before"
    )


def test_accelerate_keeps_its_gradient_state_in_one_shared_dictionary() -> None:
    assert isinstance(GradientState._shared_state, dict), "Turns swaps GradientState._shared_state"
    assert GradientState().__dict__ is GradientState._shared_state


def test_transformers_writes_checkpoints_in_save_checkpoint() -> None:
    assert list(inspect.signature(Trainer._save_checkpoint).parameters) == ["self", "model", "trial"], (
        "Policy turns a full disk into a TrainingError there"
    )
