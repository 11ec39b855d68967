"""`JointTrainer`: a configured run from data to a trained pair."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.trainer.build import Functions, Start, build_policy, check_context, check_sizes, locate_models
from duet_sdk.trainer.checkpoints import Checkpoints, refuse_changes
from duet_sdk.trainer.coupling import Coupling, Setting
from duet_sdk.trainer.handover import Handover, check_precision
from duet_sdk.trainer.journal import Journal, write_whole
from duet_sdk.trainer.prompts import PairPrompts
from duet_sdk.trainer.quiet import quiet
from duet_sdk.trainer.validation import Validation
from duet_sdk.trainer.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from duet_sdk.trainer.config import Objective, TrainConfig
    from duet_sdk.trainer.question import Grader, Question

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run ended with."""

    reasoner: PreTrainedModel
    generator: PreTrainedModel
    rounds: int
    """Rounds done, those before a resumption included."""
    stopped: str | None
    """Why it ended before its last round: ``signal`` (SIGTERM) or what the guard saw; None where it did not."""


class JointTrainer:
    """Trains a pair as configured.

    Args:
        config: the run.
        questions: what to train on.
        validation: what to validate on.
        grader: grades answers.

    Raises:
        ConfigError: the batch, the windows or the templates do not allow it.
        ModelNotFound: a model is missing.
    """

    def __init__(
        self, config: TrainConfig, *, questions: Sequence[Question], validation: Sequence[Question], grader: Grader
    ) -> None:
        self._config, self._questions, self._grader = config, tuple(questions), grader
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        self._rank = int(os.environ.get("RANK", "0"))
        check_sizes(config, processes=processes)
        each = min(config.training.validation_questions, len(validation)) // processes
        self._validation = tuple(validation)[self._rank * each : (self._rank + 1) * each]
        self._models = locate_models(config)
        check_context(config, self._models)
        self._prompts = PairPrompts.of(self._models.reasoner, self._models.generator)
        self._rounds = config.training.rounds or int(
            config.training.epochs * (len(self._questions) // config.rollout.questions)
        )
        if self._rounds < 1 or len(self._questions) < config.rollout.questions:
            raise ConfigError(
                f"there are {len(self._questions)} questions and a round takes {config.rollout.questions}; give more "
                "data, or lower rollout.questions"
            )
        self._journal = Journal(config.output, writes=self._rank == 0)
        self._checkpoints = Checkpoints(config.output)

    def train(self, *, resume: bool = False, start: Start | None = None) -> Trained:
        """Train from the start, or go on from the last checkpoint that both policies have.

        Args:
            resume: go on with what is in the run's folder.
            start: folders of the models to start from, where stages before this one made new ones.

        Raises:
            TrainingError: the run cannot start or go on; the last checkpoint is as it was.
            ConfigError: the folder holds another run.
        """
        step, gentler = self._prepare(resume)
        origin = start or self._models
        while True:
            with quiet():
                watch, trained = self._leg(origin, step, gentler)
            if watch.collapsed is None or watch.stopped:
                return trained
            if gentler >= self._config.guard.retries:
                self._journal.decision("stop", f"collapsed after {gentler} retries: {watch.collapsed}", round=watch.round)
                return trained
            gentler += 1
            step = self._last_good()
            self._checkpoints.forget_after(step)
            back = f"step {step}" if step else "the start"
            factor = self._config.guard.gentler**gentler
            self._journal.decision(
                "back",
                f"back to {back} with alpha, lambda, its bounds and learning rates times {factor:g}: {watch.collapsed}",
                round=watch.round,
                step=step,
            )

    def _prepare(self, resume: bool) -> tuple[int | None, int]:
        """The step to start from and how gently, with the folder put in order."""
        folder = self._config.output
        values = self._config.model_dump(mode="json")
        if resume:
            step = self._checkpoints.last_common()
            state = self._checkpoints.state("reasoner", step)
            if state is None:
                raise TrainingError(f"the checkpoint at step {step} in {folder} changed while it was read; resume again")
            refuse_changes(state["config"], values, run=folder)
            if self._rank == 0:
                self._checkpoints.forget_after(step)
                self._journal.forget_after(int(state["round"]))
                self._journal.decision("resume", f"from step {step}", round=int(state["round"]), step=step)
            return step, int(state["gentler"])
        if any(folder.glob("*/checkpoint-*")) or (folder / "metrics.jsonl").exists():
            raise ConfigError(f"{folder} holds a run; resume it, or name another folder as output")
        folder.mkdir(parents=True, exist_ok=True)
        if self._rank == 0:
            write_whole(folder / CONFIG, json.dumps(values, indent=2, ensure_ascii=False))
        return None, 0

    def _last_good(self) -> int | None:
        """The last common checkpoint at which the guard had nothing to say."""
        for step in reversed(self._checkpoints.common()):
            state = self._checkpoints.state("reasoner", step)
            if state is not None and state["good"]:
                return step
        return None

    def _leg(self, origin: Start, step: int | None, gentler: int) -> tuple[Watch, Trained]:
        """Train from ``step`` until the end, a signal, or a collapse."""
        config = self._softened(gentler)
        setting = Setting(config.objective, config.objective.lam)
        watch = Watch(self._config, setting, self._journal, self._checkpoints, gentler=gentler)
        coupling = Coupling(
            self._prompts,
            self._questions,
            self._grader,
            config.rollout,
            setting,
            before_round=watch.before_round,
            on_round=watch.on_round,
        )
        reasoner = build_policy(
            "reasoner",
            config,
            origin,
            self._prompts,
            Functions(coupling.write, coupling.reward_signals, watch.callback("reasoner")),
            questions=len(self._questions),
            rounds=self._rounds,
        )
        generator = build_policy(
            "generator",
            config,
            origin,
            self._prompts,
            Functions(coupling.answer, coupling.reward_answers, watch.callback("generator")),
            questions=len(self._questions),
            rounds=self._rounds,
        )
        check_precision(reasoner, generator)
        coupling.reasoner, coupling.generator = reasoner, generator
        watch.attach(reasoner, generator)
        validation = Validation(coupling, self._validation, self._journal, config.training.log_samples)
        watch.validate = validation.run if self._validation else None
        folders: dict[str, str | None] = {"reasoner": None, "generator": None}
        if step is not None:
            state = self._checkpoints.state("reasoner", step)
            if state is None:
                raise TrainingError(f"the checkpoint at step {step} is not whole any more; resume once more")
            watch.restore(state)
            setting.lam *= config.guard.gentler**gentler
            folders = {stage: str(self._checkpoints.folder(stage, step)) for stage in folders}
        elif watch.validate is not None and config.training.validate_every:
            watch.validate(0)
        coupling.handover = Handover(lambda: generator.train(resume_from_checkpoint=folders["generator"]))
        with watch.listening():
            try:
                coupling.handover.advance()  # up to its first rollout
                reasoner.train(resume_from_checkpoint=folders["reasoner"])
            finally:
                coupling.handover.end()
        whole = [one.accelerator.unwrap_model(one.model) for one in (reasoner, generator)]
        return watch, Trained(*whole, rounds=watch.round, stopped="signal" if watch.stopped else watch.collapsed)

    def _softened(self, gentler: int) -> TrainConfig:
        """The configuration after going back so many times."""
        if gentler == 0:
            return self._config
        factor = self._config.guard.gentler**gentler
        objective: Objective = self._config.objective
        soft = objective.model_copy(
            update={
                "alpha": objective.alpha * factor,
                "lam": objective.lam * factor,
                "lam_max": objective.lam_max * factor,
                "cap": objective.cap * factor,
            }
        )
        models = {
            stage: part.model_copy(update={"learning_rate": part.learning_rate * factor})
            for stage, part in (("reasoner", self._config.reasoner), ("generator", self._config.generator))
        }
        return self._config.model_copy(update={"objective": soft, **models})
