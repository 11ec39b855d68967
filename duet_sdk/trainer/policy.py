"""One policy: TRL's GRPOTrainer with rewards and advantages from outside."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from trl import GRPOTrainer

from duet_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_Value = TypeVar("_Value")

_CITATION = (
    "@misc{duet2026, title = {When Less is Enough: Efficient Inference via Collaborative Reasoning}, "
    "eprint = {2605.01111}, archivePrefix = {arXiv}, year = {2026}}"
)


class Side(Protocol):
    """A policy's side of the rounds: where its samples, rewards and advantages come from."""

    def rollout(self, prompts: list[str], policy: Policy) -> dict[str, Any]:
        """Samples of ``policy`` for the questions at these places in the data, as TRL's rollout functions give them."""

    def reward(self, prompts: list[str], **columns: Any) -> list[float]:
        """The samples' rewards, in TRL's reward signature."""

    def take_advantages(self) -> torch.Tensor | None:
        """(samples,) of the round that was just rewarded, once; None if there was none."""


class Policy(GRPOTrainer):  # type: ignore[misc]
    """A GRPOTrainer whose samples, rewards and advantages come from its side of the rounds.

    TRL computes advantages of its own as well, from the rewards, for its logs; what is trained on are those of
    `duet_sdk.trainer.objective`, which knows more forms.

    Args:
        side: see `Side`.
        given: as GRPOTrainer takes it.
    """

    _name = "DUET"
    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "duet"]
    _paper: ClassVar[dict[str, str]] = {
        "title": "When Less is Enough: Efficient Inference via Collaborative Reasoning",
        "id": "2605.01111",
        "citation": _CITATION,
    }

    log_prefix = ""
    """Before the names of its metrics, so that two policies can share a tracker."""
    sampled_at_once: int | None = None
    """Most sequences of one call of the engine; None leaves all to it."""

    def __init__(self, side: Side, **given: Any) -> None:
        self._side = side
        super().__init__(reward_funcs=side.reward, rollout_func=side.rollout, **given)

    def sample(self, prompts: Sequence[Sequence[int]], each: int) -> tuple[list[list[int]], list[list[float]] | None]:
        """Samples by this policy's engine, and their tokens' log-probabilities where the engine tells them.

        Args:
            prompts: token ids; each prompt stands ``each`` times in a row.
            each: how often.
        """
        ids = [list(prompt) for prompt in prompts]
        most = self.sampled_at_once or len(ids)
        sampled: list[list[int]] = []
        logprobs: list[list[float]] | None = None
        for first in range(0, len(ids), most):
            # The one door to all of TRL's engines (transformers, vLLM beside or behind a server), and private. Only
            # vLLM tells log-probabilities, and it gets all at once.
            written, logprobs = self._generate_single_turn(ids[first : first + most], None, {}, each)
            sampled += written
        return sampled, logprobs

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        advantages = self._side.take_advantages()
        if advantages is None or advantages.shape != output["advantages"].shape:
            raise TrainingError(
                f"a round of {len(inputs)} samples has no advantages; this version of TRL calls the reward "
                "function differently than DUET expects (docs/reference/training.md names the versions)"
            )
        output["advantages"] = advantages.to(output["advantages"])
        return output

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """As TRL's; a loss that is not finite ends the run before it reaches the weights."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        # All processes stop together: one that waits for another's gradients would hang.
        if not bool(self.accelerator.gather(torch.isfinite(loss.detach()).float()).min() > 0):
            raise TrainingError(
                f"the {self.log_prefix.rstrip('/') or 'policy'}'s loss is {float(loss.detach())} at step "
                f"{self.state.global_step}: lower its learning_rate, or take precision float32 or bf16; the last "
                "checkpoint is as it was"
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As TRL's; a full disk ends the run with an error that says so, and leaves no incomplete checkpoint."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as err:
            step = self.state.global_step
            shutil.rmtree(Path(self.args.output_dir, f"checkpoint-{step}"), ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {step} cannot be written to {self.args.output_dir}: {err}; make room there "
                "(training.keep says how many are kept) and resume: earlier checkpoints are as they were"
            ) from err
        # The first process declares the checkpoint complete by what is in it, so all must have written their part.
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As TRL's; the learning rate is the configured one, also where the checkpoint had another."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.lr_scheduler is None or self.optimizer is None:
            return
        scheduler, rate = self.lr_scheduler, self.args.learning_rate
        for group, old in zip(self.optimizer.param_groups, scheduler.base_lrs, strict=True):
            if old != rate:
                group["initial_lr"], group["lr"] = rate, group["lr"] * rate / old
        scheduler.base_lrs = [rate for _ in scheduler.base_lrs]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's, under this policy's prefix."""
        # TRL puts its own measures in after us, and empties what it took them from.
        mode = "train" if self.model.training else "eval"
        self._metrics[mode] = defaultdict(list, self._prefixed(self._metrics[mode]))
        super().log(self._prefixed(logs), start_time)

    def _prefixed(self, values: Mapping[str, _Value]) -> dict[str, _Value]:
        return {f"{self.log_prefix}{name}": value for name, value in values.items()}
