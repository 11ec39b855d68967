"""How many samples a round makes, and how they are shared out."""

from __future__ import annotations

from dataclasses import dataclass

from duet_sdk.trainer.config import TrainConfig


@dataclass(frozen=True, slots=True)
class PolicyBatches:
    """One policy's share of a round."""

    samples: int
    """Sequences trained on in a round, over all processes."""
    samples_per_process: int
    """Sequences that one process samples at once; TRL's generation batch over the processes."""
    per_device: int
    """Sequences of one forward and backward pass on one process."""
    passes: int
    """Passes of an update (gradient accumulation)."""
    updates: int
    """Optimizer steps in a round."""


@dataclass(frozen=True, slots=True)
class Batches:
    """A round in numbers."""

    questions: int
    signals: int
    """G, for a question."""
    answers: int
    """K, for a signal."""
    alone: int
    """Answers without a signal, for a question."""
    processes: int
    reasoner: PolicyBatches
    generator: PolicyBatches
    rounds: int | None
    """Rounds of the run; None where the number of questions is not known yet."""
    problems: tuple[str, ...]
    """Why this cannot be shared out."""

    @property
    def graded(self) -> int:
        """Answers graded in a round."""
        return self.questions * (self.signals * self.answers + self.alone)


def batches(config: TrainConfig, *, processes: int, questions: int | None = None) -> Batches:
    """The round that a configuration makes.

    Args:
        config: the run.
        processes: training processes.
        questions: to train on, where known.
    """
    rollout = config.rollout
    problems = []
    if rollout.questions % processes:
        problems.append(
            f"rollout.questions ({rollout.questions}) is not a multiple of {processes} processes: each takes "
            "whole questions"
        )
    parts = {}
    groups = {"reasoner": rollout.signals, "generator": rollout.signals * rollout.answers}
    for stage, part in (("reasoner", config.reasoner), ("generator", config.generator)):
        samples = rollout.questions * groups[stage]
        share = processes * rollout.mini_batches * part.gradient_accumulation
        if samples % share:
            problems.append(
                f"the {stage}'s {samples} samples do not divide into {processes} processes × {rollout.mini_batches} "
                f"mini-batches × {part.gradient_accumulation} passes; change {stage}.gradient_accumulation"
            )
        parts[stage] = PolicyBatches(
            samples=samples,
            samples_per_process=samples // processes,
            per_device=max(1, samples // share),
            passes=part.gradient_accumulation,
            updates=rollout.mini_batches,
        )
    rounds = config.training.rounds
    if rounds is None and questions is not None:
        rounds = int(config.training.epochs * (questions // rollout.questions))
    if questions is not None and questions < rollout.questions:
        problems.append(f"there are {questions} questions and a round takes {rollout.questions}")
    return Batches(
        questions=rollout.questions,
        signals=rollout.signals,
        answers=rollout.answers,
        alone=rollout.unguided,
        processes=processes,
        reasoner=parts["reasoner"],
        generator=parts["generator"],
        rounds=rounds,
        problems=tuple(problems),
    )
