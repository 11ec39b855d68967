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
    sampled_at_once: int
    """Sequences of one call of transformers' generation on one process; vLLM decides by itself."""


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
    """The round that a configuration makes; where passes are left to ``auto``, with one sequence in each.

    Args:
        config: the run.
        processes: training processes.
        questions: to train on, where known.
    """
    rollout = config.rollout
    step = processes * rollout.mini_batches
    fewer = None if questions is None else questions - questions % step
    problems = _not_shared_out(config, processes, fewer)
    uneven = bool(problems)
    parts = {}
    groups = {"reasoner": rollout.signals, "generator": rollout.signals * rollout.answers}
    for stage, part in (("reasoner", config.reasoner), ("generator", config.generator)):
        samples = rollout.questions * groups[stage]
        update = samples // processes // rollout.mini_batches
        passes = part.gradient_accumulation or max(1, update)
        if part.gradient_accumulation is not None and samples % (step * passes) and not uneven:
            problems.append(
                f"the {stage}'s {samples} samples do not divide into {processes} processes × {rollout.mini_batches} "
                f"mini-batches × {passes} passes; set {stage}.gradient_accumulation to auto or a divisor of {update}"
            )
        parts[stage] = PolicyBatches(
            samples=samples,
            samples_per_process=samples // processes,
            per_device=max(1, update // passes),
            passes=passes,
            updates=rollout.mini_batches,
            sampled_at_once=min(part.sampled_at_once or samples, max(1, samples // processes)),
        )
    rounds = config.training.rounds
    if rounds is None and questions is not None:
        rounds = int(config.training.epochs * (questions // rollout.questions))
    if questions is not None and questions < rollout.questions:
        problems.append(
            f"there are {questions} questions and a round takes {rollout.questions}; "
            + (f"set rollout.questions={fewer}, or give more" if fewer else "give more")
        )
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


def _not_shared_out(config: TrainConfig, processes: int, most: int | None) -> list[str]:
    """Why a round's questions do not make equal shares, and a number that does and is there."""
    rollout = config.rollout
    step = processes * rollout.mini_batches
    if rollout.questions % processes == 0 and rollout.questions * rollout.signals % step == 0:
        return []
    wanted = _multiple(rollout.questions, step)
    if most is not None:
        wanted = min(wanted, most)
    shares = "" if rollout.questions % processes else f" × {rollout.mini_batches} mini-batches"
    return [
        f"rollout.questions ({rollout.questions}) is not a multiple of {processes} processes{shares}: each takes "
        + (f"whole questions; set rollout.questions={wanted}" if wanted else "whole questions; give more of them")
    ]


def _multiple(wanted: int, step: int) -> int:
    """The multiple of a step that is next to what was wanted."""
    return max(step, round(wanted / step) * step)
