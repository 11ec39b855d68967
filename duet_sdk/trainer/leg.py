"""A leg of a run: two policies built, coupled, and trained from the start or a checkpoint on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.build import Functions, StageName, build_policy, order_of
from duet_sdk.trainer.coupling import Coupling, Setting
from duet_sdk.trainer.handover import Handover, check_precision
from duet_sdk.trainer.quiet import quiet
from duet_sdk.trainer.validation import Validated, Validation
from duet_sdk.trainer.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.evaluation.question import Grader, Question
    from duet_sdk.trainer.build import Start
    from duet_sdk.trainer.checkpoints import Checkpoints
    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.policy import Policy
    from duet_sdk.trainer.prompts import PairPrompts


@dataclass(frozen=True, slots=True)
class Course:
    """What all legs of a run have in common."""

    config: TrainConfig
    prompts: PairPrompts
    questions: Sequence[Question]
    validation: Sequence[Question]
    """Of this process."""
    grader: Grader
    rounds: int
    journal: Journal
    checkpoints: Checkpoints


@dataclass(slots=True)
class Leg:
    """Two policies in training.

    Attributes:
        watch: knows how it went.
    """

    reasoner: Policy
    generator: Policy
    watch: Watch
    coupling: Coupling
    validation: Validation
    validated: tuple[int, Validated] | None = None
    """Round and result of the last validation."""

    def run(self, course: Course, step: int | None) -> None:
        """Train from a common checkpoint at ``step``, or from the start, until the end, a signal, or a collapse."""
        folders: dict[StageName, str | None] = {"reasoner": None, "generator": None}
        if step is not None:
            state = course.checkpoints.state("reasoner", step)
            if state is None:
                raise TrainingError(f"the checkpoint at step {step} is not whole any more; resume once more")
            self.watch.restore(state)
            folders = {stage: str(course.checkpoints.folder(stage, step)) for stage in folders}
        elif course.config.training.validate_every:
            self.validate(0)
        self.coupling.handover = Handover(lambda: self.generator.train(resume_from_checkpoint=folders["generator"]))
        with quiet(), self.watch.listening():
            try:
                self.coupling.handover.advance()  # up to its first rollout
                self.reasoner.train(resume_from_checkpoint=folders["reasoner"])
            finally:
                self.coupling.handover.end()

    def validate(self, round_number: int) -> Validated | None:
        """Measure the pair, once after a round; None where there is nothing to validate on."""
        if not self.validation.questions:
            return None
        if self.validated is None or self.validated[0] != round_number:
            with quiet():
                self.validated = round_number, self.validation.run(round_number)
        return self.validated[1]


def prepare_leg(course: Course, start: Start, *, gentler: int) -> Leg:
    """Build both policies from ``start``, softened as often as the run went back.

    Raises:
        TrainingError: the two cannot live in one process as configured.
    """
    config = softened(course.config, gentler)
    setting = Setting(config.objective, config.objective.lam)
    watch = Watch(course.config, setting, course.journal, course.checkpoints, gentler=gentler)
    coupling = Coupling(
        course.prompts,
        course.questions,
        course.grader,
        config.rollout,
        setting,
        before_round=watch.before_round,
        on_round=watch.on_round,
    )

    places = order_of(len(course.questions), each=config.rollout.questions, rounds=course.rounds, seed=config.seed)

    def build(stage: StageName, functions: Functions) -> Policy:
        return build_policy(stage, config, start, course.prompts, functions, places=places, rounds=course.rounds)

    with quiet():
        reasoner = build("reasoner", Functions(coupling.write, coupling.reward_signals, watch.callback("reasoner")))
        generator = build("generator", Functions(coupling.answer, coupling.reward_answers, watch.callback("generator")))
    check_precision(reasoner, generator)
    coupling.reasoner, coupling.generator = reasoner, generator
    validation = Validation(coupling, course.validation, course.journal, config.training.log_samples)
    leg = Leg(reasoner, generator, watch, coupling, validation)
    watch.attach(reasoner, generator, validate=leg.validate)
    return leg


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
