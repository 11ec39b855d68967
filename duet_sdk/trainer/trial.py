"""One try of a run: two policies built for each other, and trained from the start or a checkpoint on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.build import StageName, build_policy, order_of, quiet
from duet_sdk.trainer.callbacks import Monitor, ValidationCallback
from duet_sdk.trainer.round import GeneratorSide, ReasonerSide
from duet_sdk.trainer.turns import Turns, check_precision
from duet_sdk.trainer.validation import Validated, Validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.build import Start
    from duet_sdk.trainer.checkpoints import Checkpoints
    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.policy import Policy, Side
    from duet_sdk.trainer.prompts import PairPrompts


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all trials of a run have in common."""

    config: TrainConfig
    prompts: PairPrompts
    questions: Sequence[Question]
    validation: Sequence[Question]
    """Of this process."""
    grader: QuestionGrader
    rounds: int
    journal: Journal
    checkpoints: Checkpoints


@dataclass(slots=True)
class Trial:
    """Two policies in training.

    Attributes:
        monitor: knows how it went.
    """

    reasoner: Policy
    generator: Policy
    monitor: Monitor
    turns: Turns
    validation: Validation
    validated: tuple[int, Validated] | None = None
    """Round and result of the last validation."""

    def run(self, context: RunContext, step: int | None) -> None:
        """Train from a common checkpoint at ``step``, or from the start, until the end, SIGTERM, or a collapse."""
        folders: dict[StageName, str | None] = {"reasoner": None, "generator": None}
        if step is not None:
            state = context.checkpoints.state("reasoner", step)
            if state is None:
                raise TrainingError(f"the checkpoint at step {step} is no longer complete; resume once more")
            self.monitor.restore(state)
            folders = {stage: str(context.checkpoints.folder(stage, step)) for stage in folders}
        elif context.config.training.validate_every:
            self.validate(0)
        with quiet(), self.monitor.listening():
            self.turns.run(
                reasoner=lambda: self.reasoner.train(resume_from_checkpoint=folders["reasoner"]),
                generator=lambda: self.generator.train(resume_from_checkpoint=folders["generator"]),
            )

    def validate(self, round_number: int) -> Validated | None:
        """Measure the pair, once after a round; None if there is nothing to validate on."""
        if not self.validation.questions:
            return None
        if self.validated is None or self.validated[0] != round_number:
            with quiet():
                self.validated = round_number, self.validation.run(round_number)
        return self.validated[1]


def prepare_trial(context: RunContext, start: Start, *, gentler: int) -> Trial:
    """Build both policies from ``start``, softened as often as the run went back.

    Raises:
        TrainingError: the two cannot live in one process as configured.
    """
    config, questions, prompts = softened(context.config, gentler), context.questions, context.prompts
    monitor = Monitor(context.config, config.objective, context.journal, context.checkpoints, gentler=gentler)
    turns = Turns()
    answering = GeneratorSide(prompts, questions, context.grader, config.rollout, config.objective, turns)
    writing = ReasonerSide(prompts, questions, config.rollout, config.objective, answering, monitor)
    places = order_of(len(questions), each=config.rollout.questions, rounds=context.rounds, seed=config.seed)

    def build(stage: StageName, side: Side) -> Policy:
        callback = monitor.callback(stage)
        return build_policy(stage, config, start, prompts, side, callback, places=places, rounds=context.rounds)

    with quiet():
        reasoner, generator = build("reasoner", writing), build("generator", answering)
    check_precision(reasoner, generator)
    validation = Validation(
        reasoner,
        generator,
        prompts,
        context.validation,
        context.grader,
        context.journal,
        samples=config.training.log_samples,
    )
    trial = Trial(reasoner, generator, monitor, turns, validation)
    reasoner.add_callback(ValidationCallback(monitor, trial.validate))
    return trial


def softened(config: TrainConfig, gentler: int) -> TrainConfig:
    """The configuration after going back so many times: less weight on length, smaller steps."""
    if gentler == 0:
        return config
    factor, objective = config.guard.gentler**gentler, config.objective
    soft = {name: getattr(objective, name) * factor for name in ("alpha", "lam", "lam_max", "cap")}
    slower = {
        stage: part.model_copy(update={"learning_rate": part.learning_rate * factor})
        for stage, part in (("reasoner", config.reasoner), ("generator", config.generator))
    }
    return config.model_copy(update={"objective": objective.model_copy(update=soft), **slower})
