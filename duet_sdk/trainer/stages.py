"""The stages of a run on disk: warm-up, proposals, joint training."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from duet_sdk.errors import ConfigError
from duet_sdk.models.folder import read_json
from duet_sdk.trainer.boundary import as_training_errors
from duet_sdk.trainer.build import Start, adapter, load_model, load_tokenizer, passes_of, quiet
from duet_sdk.trainer.checkpoints import refuse_changes
from duet_sdk.trainer.engine import check_engine
from duet_sdk.trainer.joint import CONFIG, JointTrainer, Trained
from duet_sdk.trainer.journal import DECISIONS, write_whole
from duet_sdk.trainer.measure import PairModels
from duet_sdk.trainer.proposing.cycle import Cycle
from duet_sdk.trainer.proposing.silence import propose_silence
from duet_sdk.trainer.supervised import Example, Tuning, tune
from duet_sdk.trainer.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from duet_sdk.trainer.config import TrainConfig

_DONE = "done.json"
_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template.jinja", "LICENSE*", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Supervised:
    """Tunes one model of a pair for a stage, on a copy."""

    config: TrainConfig
    start: Start
    learning_rate: float
    batch: int

    def __call__(self, pair: PairModels, stage: str, rows: Sequence[Example], steps: int) -> PairModels:
        """Tune a copy of that stage's model on the rows, as `duet_sdk.trainer.proposing.cycle.Tuner` says."""
        model = copy.deepcopy(pair.reasoner if stage == "reasoner" else pair.generator)
        part = self.config.reasoner if stage == "reasoner" else self.config.generator
        batch = min(self.batch, len(rows))
        tuning = Tuning(
            learning_rate=self.learning_rate,
            batch=batch,
            steps=steps,
            passes=min(passes_of(part), batch),
            gradient_checkpointing=part.gradient_checkpointing,
            optimizer=part.optimizer,
            precision=self.config.training.precision,
            use_cpu=self.config.training.use_cpu,
            seed=self.config.seed,
        )
        folder = self.start.reasoner if stage == "reasoner" else self.start.generator
        scratch = self.config.output / ".tuning"
        tuned = tune(model, load_tokenizer(folder), rows, tuning, folder=scratch, adapter=adapter(part.lora))
        shutil.rmtree(scratch, ignore_errors=True)
        if part.lora is not None:
            tuned = tuned.merge_and_unload()  # type: ignore[operator]
        return replace(pair, reasoner=tuned) if stage == "reasoner" else replace(pair, generator=tuned)


def run_training(config: TrainConfig, *, resume: bool = False, trainer: JointTrainer | None = None) -> Trained:
    """Propose shorter forms where that is configured, then train jointly.

    Raises:
        TrainingError: as `JointTrainer.train`; nothing is held out or right to propose from; or proposals are there,
            made with another configuration.
        ConfigError: as `JointTrainer.train`, or proposals were asked for on several processes.
    """
    check_engine(config)
    trainer = trainer or JointTrainer(config)
    config = trainer.config
    if config.propose.cycles == 0 and not config.propose.empty:
        return trainer.train(resume=resume)
    if trainer.processes > 1:
        raise ConfigError(
            "propose runs on one process; run it alone first (training.rounds=1), then name OUTPUT/proposed's models"
        )
    if resume and not (config.output / CONFIG).exists():
        if not (config.output / DECISIONS).exists():
            return trainer.train(resume=True)  # which says that there is nothing to resume
        resume = False  # killed before joint training began: completed proposals are kept
    folder = config.output / "proposed"
    done = read_json(folder / _DONE)
    if done is not None:
        refuse_changes(done["config"], config.model_dump(mode="json"), run=folder)
    else:
        with as_training_errors():
            _propose(config, trainer, folder)
    return trainer.train(resume=resume, start=Start(folder / "reasoner", folder / "generator"))


def _propose(config: TrainConfig, trainer: JointTrainer, folder: Path) -> None:
    """Run the configured cycles, and save the pair that they end with."""
    pair, origin = _load(config, trainer)
    cycle = Cycle(
        config.propose,
        trainer.grader,
        Supervised(config, origin, config.propose.learning_rate, config.propose.batch),
        trainer.journal,
    )
    config.output.mkdir(parents=True, exist_ok=True)
    asked, held = trainer.questions, trainer.held
    for number in range(config.propose.cycles):
        first = number * config.propose.signals % max(1, len(asked) - config.propose.signals + 1)
        pair = cycle.run(pair, asked[first : first + config.propose.signals], held, number + 1)
    if config.propose.empty:
        pair = propose_silence(cycle, pair, asked[: config.propose.signals], held)
    _save(pair, origin, folder, {"config": config.model_dump(mode="json")})


def run_warmup(config: TrainConfig, *, trainer: JointTrainer | None = None) -> dict[str, JsonValue]:
    """Warm both models up into ``OUTPUT/warm``; returns what was kept.

    Raises:
        TrainingError: nothing could be kept.
        ConfigError: it was started on several processes.
    """
    trainer = trainer or JointTrainer(config)
    config = trainer.config
    if trainer.processes > 1:
        raise ConfigError("the warm-up runs on one process: start it without torchrun")
    pair, origin = _load(config, trainer)
    config.output.mkdir(parents=True, exist_ok=True)
    supervised = Supervised(config, origin, config.warmup.learning_rate, config.warmup.batch)
    with as_training_errors():
        tuned, report = warm_up(config, pair, trainer.questions, trainer.grader, supervised, trainer.journal)
    _save(tuned, origin, config.output / "warm", report)
    return report


def _load(config: TrainConfig, trainer: JointTrainer) -> tuple[PairModels, Start]:
    start = trainer.start
    device = "cuda" if torch.cuda.is_available() and not config.training.use_cpu else "cpu"
    with quiet():
        reasoner = load_model(start.reasoner, config.reasoner)
        generator = load_model(start.generator, config.generator)
    pair = PairModels(
        reasoner.to(device),  # type: ignore[arg-type]
        generator.to(device),  # type: ignore[arg-type]
        trainer.prompts,
        signal_tokens=config.reasoner.max_new_tokens,
        answer_tokens=config.generator.max_new_tokens,
        seed=config.seed,
    )
    return pair, start


def _save(pair: PairModels, origin: Start, folder: Path, report: dict[str, JsonValue]) -> None:
    """Both models, each with the tokenizer that it started with; the last file says that all is there."""
    for stage, model in (("reasoner", pair.reasoner), ("generator", pair.generator)):
        target = folder / stage
        shutil.rmtree(target, ignore_errors=True)
        with quiet():
            model.save_pretrained(target)
        source = origin.reasoner if stage == "reasoner" else origin.generator
        for pattern in _FILES:
            for file in source.glob(pattern):
                shutil.copyfile(file, target / file.name)
    write_whole(folder / _DONE, json.dumps(report))
