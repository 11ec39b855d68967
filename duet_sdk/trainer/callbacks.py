"""What happens around the rounds of a run: schedule, guard, checkpoints, SIGTERM, validation, and what is logged."""

from __future__ import annotations

import math
import signal as os_signal
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from typing_extensions import override

from duet_sdk.trainer import schedule
from duet_sdk.trainer.collapse import CollapseState, observe, observe_entropy
from duet_sdk.trainer.round import gathered
from duet_sdk.trainer.schedule import ScheduleState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import JsonValue

    from duet_sdk.trainer.build import StageName
    from duet_sdk.trainer.checkpoints import Checkpoints
    from duet_sdk.trainer.collapse import Finding
    from duet_sdk.trainer.config import Objective, TrainConfig
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.round import RoundFacts

_KEPT_LOGS = ("loss", "grad_norm", "entropy", "kl", "clip_ratio/region_mean", "learning_rate")


class Monitor:
    """Follows one trial of a run (a `duet_sdk.trainer.round.RoundMonitor`), from its start or a checkpoint on.

    Args:
        config: the run.
        objective: what is rewarded in this trial, softened where the run went back.
        journal: where measures and decisions go.
        checkpoints: marked as they are written.
        gentler: how often the run went back.

    Attributes:
        round: rounds done, that under way included.
        collapsed: what the guard saw when it ended the trial, None where it did not.
        fell_after: the round after whose update accuracy fell, where it collapsed.
        stopped: whether a signal from outside ended it.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        journal: Journal,
        checkpoints: Checkpoints,
        *,
        gentler: int = 0,
    ) -> None:
        self.round = 0
        self.collapsed: str | None = None
        self.fell_after = 0
        self.stopped = False
        self._validation_due = False
        self._config, self._objective = config, objective
        self._journal, self._checkpoints = journal, checkpoints
        self._gentler = gentler
        self._schedule = schedule.start(objective)
        self._guard = CollapseState()
        self._asked_to_stop = threading.Event()
        self._row: dict[str, JsonValue] = {}
        self._logged: dict[str, JsonValue] = {}

    @property
    def lam(self) -> float:
        """Lambda as the schedule has it now."""
        return self._schedule.lam

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.round = int(state["round"])
        self._schedule = ScheduleState.from_json(state["schedule"])
        self._guard = CollapseState.from_json(state["guard"])
        # A run that goes back more gently takes the checkpoint's lambda with less weight, too.
        softer = self._config.guard.gentler ** (self._gentler - int(state["gentler"]))
        self._schedule = replace(self._schedule, lam=self._schedule.lam * softer)

    def callback(self, stage: StageName) -> TrainerCallback:
        """Tells this monitor of the steps of a policy's trainer."""
        return _Steps(self, stage)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Until it is left, SIGTERM means: save and stop after the round.

        Only in the main thread: Python lets no other set a handler.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = os_signal.signal(os_signal.SIGTERM, lambda *_: self._asked_to_stop.set())
        try:
            yield
        finally:
            os_signal.signal(os_signal.SIGTERM, before)

    def before_round(self) -> None:
        """A round begins that both policies will see to its end, also where it is the last."""
        self.round += 1
        self._logged = {}
        self.stopped = self.stopped or self._anyone_asked_to_stop()

    def on_round(self, facts: RoundFacts) -> None:
        """A round is graded: the generator is updated, the reasoner will be."""
        objective = self._objective
        self._schedule = schedule.advance(self._schedule, objective, accuracy=facts.guided, length=facts.tokens_mean)
        self._row = {
            "round": self.round,
            "phase": "train",
            **asdict(facts),
            "utility": facts.utility,
            "alpha": objective.alpha if objective.reward == "gated" else None,
        }
        if self._config.guard.enabled:
            self._guard, findings = observe(self._guard, facts, self._config.guard)
            self._tell(findings)

    def step_ended(self, stage: StageName, step: int, control: Any, *, last: bool) -> None:
        """A policy took an optimizer step, the last of its run or not; says whether to save and whether to stop."""
        if step % self._config.rollout.mini_batches:
            return
        if self.stopped or last:
            control.should_save = True
        if stage == "reasoner":
            if self.stopped or self.collapsed is not None:
                control.should_training_stop = True
                return
            every = self._config.training.validate_every
            self._validation_due = every > 0 and self.round % every == 0

    def logged(self, stage: StageName, logs: Mapping[str, float]) -> None:
        """A policy's trainer logged a round; the reasoner's closes it."""
        for name in _KEPT_LOGS:
            value = logs.get(name)
            if value is not None:
                self._logged[f"{name}_{stage}".replace("/", "_")] = float(value)
        if stage == "generator":
            return
        for name in ("entropy", "kl"):
            self._logged[name] = self._logged.get(f"{name}_reasoner")
        entropy = logs.get("entropy")
        if self._config.guard.enabled and entropy is not None and math.isfinite(entropy):
            self._guard, findings = observe_entropy(self._guard, entropy, self._config.guard)
            self._tell(findings)
        self._journal.metrics({**self._row, **self._logged})

    def take_due_validation(self) -> bool:
        """Whether the round that was just logged is one to validate after; once for each."""
        due, self._validation_due = self._validation_due, False
        return due

    def saved(self, stage: StageName, step: int) -> None:
        """A policy's checkpoint is written but for its marker."""
        if not self._journal.writes:
            return
        state: dict[str, JsonValue] = {
            "round": self.round,
            "schedule": self._schedule.to_json(),
            "guard": self._guard.to_json(),
            "good": self._guard.good,
            "gentler": self._gentler,
            "config": self._config.model_dump(mode="json"),
        }
        self._checkpoints.mark(stage, step, state)

    def _tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            self._journal.decision(finding.kind, finding.what, round=self.round)
            if finding.kind == "collapse":
                self.collapsed = finding.what
                # A round grades what the updates before it made.
                self.fell_after = self.round - self._guard.below

    def _anyone_asked_to_stop(self) -> bool:
        """Whether any process was asked to; all stop after the same round."""
        return bool(gathered(torch.tensor([float(self._asked_to_stop.is_set())])).max() > 0)


class ValidationCallback(TrainerCallback):
    """Validates after the rounds that the monitor names; of the reasoner's trainer, behind the monitor's own callback.

    Args:
        monitor: has closed the round by then.
        validate: measures the pair after the round of this number.
    """

    def __init__(self, monitor: Monitor, validate: Callable[[int], object]) -> None:
        self._monitor, self._validate = monitor, validate

    @override
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if _is_of_a_round(logs or {}, "reasoner") and self._monitor.take_due_validation():
            self._validate(self._monitor.round)


class _Steps(TrainerCallback):
    """Passes on what one policy's trainer tells."""

    def __init__(self, monitor: Monitor, stage: StageName) -> None:
        self._monitor, self._stage = monitor, stage

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        last = state.global_step == state.max_steps
        self._monitor.step_ended(self._stage, state.global_step, control, last=last)
        return control

    @override
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if _is_of_a_round(logs or {}, self._stage):
            self._monitor.logged(
                self._stage, {name.removeprefix(f"{self._stage}/"): value for name, value in logs.items()}
            )

    @override
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._monitor.saved(self._stage, state.global_step)


def _is_of_a_round(logs: Mapping[str, float], stage: StageName) -> bool:
    """Whether a trainer's logs are a round's; at its end it logs times and means once more."""
    return f"{stage}/loss" in logs
