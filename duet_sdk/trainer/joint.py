"""`JointTrainer`: a configured run from data to a trained pair."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.evaluation.grading import CountingGrader, find_grader
from duet_sdk.evaluation.rows import fingerprint
from duet_sdk.models.folder import read_json
from duet_sdk.trainer.boundary import as_training_errors
from duet_sdk.trainer.build import Start, check_context, check_names, check_sizes, locate_models
from duet_sdk.trainer.checkpoints import Checkpoints, refuse_changes
from duet_sdk.trainer.data import check_same_on_all_ranks, prepare
from duet_sdk.trainer.engine import check_engine
from duet_sdk.trainer.journal import Journal, write_whole
from duet_sdk.trainer.machine import for_this_machine
from duet_sdk.trainer.prompts import PairPrompts
from duet_sdk.trainer.report.lines import batches_line
from duet_sdk.trainer.result import Outcome, save_pair
from duet_sdk.trainer.trial import RunContext, Trial, prepare_trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import JsonValue
    from transformers import PreTrainedModel

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.pair import Pair
    from duet_sdk.trainer.callbacks import Monitor
    from duet_sdk.trainer.config import TrainConfig

CONFIG, DATA, RESULT = "config.json", "data.json", "result.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run ended with."""

    reasoner: PreTrainedModel
    generator: PreTrainedModel
    rounds: int
    """Rounds done, those before a resumption included."""
    stopped: str | None
    """Why it ended before its last round: ``signal`` (SIGTERM) or what the guard saw; None where it did not."""
    pair: Pair | None
    """The trained pair on disk; None where the run ended early, and on all processes but the first."""


class JointTrainer:
    """Trains a pair as configured.

    Args:
        config: the run.
        questions: what to train on, in place of ``config.data.train``.
        validation: what to validate on, in place of what the data section says; needs ``questions``.
        grader: grades answers, in place of ``config.data.grading``.
        beside: folder in which a grader's module is looked for first; None takes the working directory.
        tell: called with each row of measures and decisions, in the process that writes them.

    Raises:
        ConfigError: the batch, the windows or the templates do not allow it.
        TrainingError: the data or the grader cannot be used.
        ModelNotFound: a model is missing.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        questions: Sequence[Question] | None = None,
        validation: Sequence[Question] = (),
        grader: QuestionGrader | None = None,
        beside: Path | None = None,
        tell: Callable[[Mapping[str, JsonValue]], None] | None = None,
    ) -> None:
        self.processes, self._rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        check_names(config)
        check_sizes(config, processes=self.processes)
        # Before the models are fetched: a name that is wrong should not cost a download.
        self._own_grader = None if grader is not None else _grader_of(config, beside or Path.cwd())
        self.start = locate_models(config)
        check_context(config, self.start)
        self.config = config = for_this_machine(config, self.start, processes=self.processes)
        """The run, with numbers in place of ``auto``."""
        self.prompts = prompts = PairPrompts.of(self.start.reasoner, self.start.generator)
        self.data: dict[str, JsonValue] = {}
        """What became of the data's rows."""
        if questions is None:
            prepared = prepare(
                config.data,
                seed=config.seed,
                grader=self._own_grader,
                count_tokens=lambda question: len(prompts.ask_ids(question.messages)),
            )
            questions, validation, self.data = prepared.train, prepared.validation, prepared.report.facts()
        rounds = config.training.rounds or int(config.training.epochs * (len(questions) // config.rollout.questions))
        if rounds < 1 or len(questions) < config.rollout.questions:
            raise ConfigError(
                f"there are {len(questions)} questions and a round takes {config.rollout.questions}; give more data, "
                "or lower rollout.questions"
            )
        self._held = tuple(validation)
        self._fingerprint, self._all_questions = fingerprint(questions), fingerprint([*questions, *validation])
        each = min(config.training.validation_questions, len(validation)) // self.processes
        self._context = RunContext(
            config=config,
            prompts=prompts,
            questions=tuple(questions),
            validation=self._held[self._rank * each : (self._rank + 1) * each],
            grader=self._own_grader or cast("QuestionGrader", grader),
            rounds=rounds,
            journal=Journal(config.output, writes=self._rank == 0, tell=tell),
            checkpoints=Checkpoints(config.output),
        )

    @property
    def questions(self) -> Sequence[Question]:
        """What is trained on, in order."""
        return self._context.questions

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        return self._context.rounds

    @property
    def held(self) -> Sequence[Question]:
        """All that is held out, also what no validation asks."""
        return self._held

    @property
    def grader(self) -> QuestionGrader:
        """What grades answers."""
        return self._context.grader

    @property
    def journal(self) -> Journal:
        """The files of the run."""
        return self._context.journal

    def train(self, *, resume: bool = False, start: Start | None = None) -> Trained:
        """Train from the start, or go on from the last checkpoint that both policies have.

        Args:
            resume: go on with what is in the run's folder.
            start: folders of the models to start from, where stages before this one made new ones.

        Raises:
            TrainingError: the run cannot start or go on; the last checkpoint is as it was.
            ConfigError: the folder holds another run, or vLLM is asked for and missing.
        """
        check_engine(self.config)
        try:
            with as_training_errors():
                return self._train(resume, start)
        except torch.OutOfMemoryError as err:
            raise TrainingError(
                f"the GPU's memory is full ({batches_line(self.config)}): the estimate behind auto was too low, or "
                "other programs use the card. Set gradient_accumulation to twice its number for both models, "
                "sampled_at_once to half, and output to another folder"
            ) from err
        finally:
            self.close()

    def close(self) -> None:
        """End the processes that grade; training does it at its end."""
        if self._own_grader is not None:
            self._own_grader.close()

    def _train(self, resume: bool, start: Start | None) -> Trained:
        step, gentler = self._prepare(resume)
        origin = start or self.start
        while True:
            trial = prepare_trial(self._context, origin, gentler=gentler)
            check_same_on_all_ranks(self._all_questions, _gathered)
            trial.run(self._context, step)
            if not self._goes_back(trial.monitor, gentler):
                return self._finish(trial, origin)
            gentler += 1
            step = self._go_back(trial.monitor, gentler)
            # Policies and callbacks know each other; two new models need the memory of these.
            del trial
            gc.collect()

    def _goes_back(self, monitor: Monitor, gentler: int) -> bool:
        """Whether a trial that was so gentle collapsed and may be tried again."""
        if monitor.collapsed is None or monitor.stopped:
            return False
        if gentler < self.config.guard.retries:
            return True
        what = f"collapsed after {gentler} retries: {monitor.collapsed}"
        self._context.journal.decision("stop", what, round=monitor.round)
        return False

    def _go_back(self, monitor: Monitor, gentler: int) -> int | None:
        """The step from which to go on so gently, with all later checkpoints removed; None for the start."""
        step = self._last_good(monitor.fell_after)
        if self._rank == 0:
            self._context.checkpoints.forget_after(step)
        self._context.journal.decision(
            "back",
            f"back to {f'step {step}' if step else 'the start'} with alpha, lambda, its bounds and learning rates "
            f"times {self.config.guard.gentler**gentler:g}: {monitor.collapsed}",
            round=monitor.round,
            step=step,
        )
        return step

    def _finish(self, trial: Trial, origin: Start) -> Trained:
        """Measure and save what was trained; a run that was stopped or collapsed leaves only its checkpoints."""
        monitor = trial.monitor
        stopped = "signal" if monitor.stopped else monitor.collapsed
        pair = None
        if stopped is None:
            outcome = Outcome(self.config, origin, self.start, self.data, monitor.round, trial.validate(monitor.round))
            pair = save_pair(trial.reasoner, trial.generator, outcome, writes=self._rank == 0)
            if self._rank == 0:
                write_whole(self.config.output / RESULT, json.dumps(outcome.to_json(), indent=2, ensure_ascii=False))
        reasoner, generator = (one.accelerator.unwrap_model(one.model) for one in (trial.reasoner, trial.generator))
        return Trained(reasoner, generator, monitor.round, stopped, pair)

    def _prepare(self, resume: bool) -> tuple[int | None, int]:
        """The step to start from and how gently, with the folder put in order."""
        folder, checkpoints, journal = self.config.output, self._context.checkpoints, self._context.journal
        values = self.config.model_dump(mode="json")
        if resume:
            step = checkpoints.last_common()
            begun = read_json(folder / CONFIG) if step is None else self._state(step)["config"]
            if begun is None:
                raise TrainingError(f"{folder} holds no run to resume; start it")
            refuse_changes(begun, values, run=folder)
            self._refuse_other_questions(folder)
            if self._rank == 0:
                self._forget_after(step)
            # Also where the run was killed before it saved anything after it went back.
            return step, journal.count("back")
        if any(folder.glob("*/checkpoint-*")) or (folder / "metrics.jsonl").exists():
            raise ConfigError(f"{folder} holds a run; resume it with --resume, or set output to another folder")
        folder.mkdir(parents=True, exist_ok=True)
        if self._rank == 0:
            # The configuration last: where it is, the run can be resumed.
            write_whole(folder / DATA, json.dumps({**self.data, "fingerprint": self._fingerprint}, indent=2))
            write_whole(folder / CONFIG, json.dumps(values, indent=2, ensure_ascii=False))
        return None, 0

    def _forget_after(self, step: int | None) -> None:
        """Drop what the run did after this step, or altogether; its decisions stay."""
        checkpoints, journal = self._context.checkpoints, self._context.journal
        checkpoints.forget_after(step)
        # A run's first validation is of round 0.
        last = -1 if step is None else int(self._state(step)["round"])
        journal.forget_after(last)
        if last == self._context.rounds:
            journal.forget_validation(last)
        journal.decision(
            "resume", "from the start" if step is None else f"from step {step}", round=max(last, 0), step=step
        )

    def _state(self, step: int) -> dict[str, Any]:
        state = self._context.checkpoints.state("reasoner", step)
        if state is None:
            raise TrainingError(
                f"the checkpoint at step {step} in {self.config.output} is no longer complete; try again"
            )
        return state

    def _refuse_other_questions(self, folder: Path) -> None:
        """A file that changed under its name gives other questions at the same places.

        Raises:
            TrainingError: the run was started with other questions.
        """
        known = (read_json(folder / DATA) or {}).get("fingerprint")
        if known != self._fingerprint:
            raise TrainingError(
                f"{folder} was started with other questions (fingerprint {str(known)[:12]}, now "
                f"{self._fingerprint[:12]}); put the data back as it was, or start a run in another folder"
            )

    def _last_good(self, fell_after: int) -> int | None:
        """The last common checkpoint before that round's update, at which the guard had nothing to say."""
        checkpoints = self._context.checkpoints
        for step in reversed(checkpoints.common()):
            state = checkpoints.state("reasoner", step)
            if state is not None and state["good"] and state["round"] < fell_after:
                return step
        return None


def _grader_of(config: TrainConfig, beside: Path) -> CountingGrader:
    grading = config.data.grading
    with as_training_errors():
        found = find_grader(grading.grader, limit_s=grading.timeout_s, processes=max(grading.workers, 1), beside=beside)
    return CountingGrader(found)


def _gathered(own: str) -> list[str]:
    """The values of all processes, in order of rank."""
    from accelerate.utils import gather_object

    return list(gather_object([own]))
