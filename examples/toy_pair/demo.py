"""The demonstration: from nothing to a trained toy pair, measured before and after."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from duet_sdk import TrainingError
from duet_sdk.evaluation import Interval, difference_interval
from toy_pair.teach import Lesson, teach

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from transformers import PreTrainedModel

    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.joint import JointTrainer, Trained
    from duet_sdk.trainer.measure import Evaluation
    from toy_pair.family import Chain

SIGNAL_TOKENS, ANSWER_TOKENS = 48, 3
LEAST_RIGHT = 0.9
"""Share of the taught reasoner's sampled traces that must be right, in each form."""
MOST_COURSES = 3
"""How often the reasoner is taught at most until they are; what it learns in one differs from machine to machine."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much the demonstration does."""

    lesson: Lesson = field(default_factory=Lesson)
    rounds: int = 100
    questions: int = 600
    """Held-out ones, before and after."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What it found."""

    before: dict[Hashable, Evaluation]
    """By number of operations; None for all at seen lengths."""
    after: dict[Hashable, Evaluation]
    longer: tuple[Evaluation, Evaluation]
    """On longer chains than were ever trained on, before and after."""
    trained: Trained
    seconds: dict[str, float]

    @property
    def saved(self) -> float:
        """Share of the reasoner's tokens that are gone."""
        return 1 - self.after[None].tokens_mean / self.before[None].tokens_mean

    @property
    def change(self) -> Interval:
        """Accuracy after minus accuracy before, on the same questions, with its interval."""
        return difference_interval(self.after[None].right, self.before[None].right)

    def held(self, most_lost: float) -> bool:
        """Whether accuracy is not below the start, and the difference's interval ends at so much lost at most."""
        return self.change.high >= 0 and self.change.low >= -most_lost


def demonstrate(folder: Path, scale: Scale, *, tell: Callable[[str], None]) -> Shown:
    """Teach both models from random weights, train them jointly, and measure the pair before and after.

    Raises:
        TrainingError: a reasoner that was taught again and again is wrong too often.
    """
    from duet_sdk.evaluation import CountingGrader
    from duet_sdk.evaluation.grading import Exact
    from duet_sdk.trainer.joint import JointTrainer
    from toy_pair import family

    began, seconds = time.monotonic(), {}
    _teach_both(folder, scale.lesson, tell)
    config = configure(folder, scale)
    questions = family.chains(
        5000 + scale.lesson.seed, config.rollout.questions * scale.rounds, lengths=scale.lesson.lengths
    )
    seen = sorted(set(scale.lesson.lengths))
    held = family.chains(9000, scale.questions, lengths=seen, held_out=True)
    _write(folder / "questions.jsonl", questions)
    _write(folder / "held-out.jsonl", held)
    longer = family.chains(9001, scale.questions // 3, lengths=[seen[-1] + 1, seen[-1] + 2], held_out=True)
    grader = CountingGrader(Exact())
    validation = [one.question() for one in family.chains(9002, 200, lengths=seen, held_out=True)]
    trainer = JointTrainer(
        config, questions=[one.question() for one in questions], validation=validation, grader=grader
    )
    _teach_on(trainer, [chain for chain in held if chain.steps], scale.lesson, tell)
    seconds["teaching"] = time.monotonic() - began
    before, before_longer = (_measure(trainer, None, chains) for chains in (held, longer))
    tell(f"before: {before[None].tokens_mean:.1f} tokens of the reasoner, accuracy {before[None].guided:.3f}")
    began = time.monotonic()
    trained = trainer.train()
    seconds["joint training"] = time.monotonic() - began
    after, after_longer = (_measure(trainer, trained, chains) for chains in (held, longer))
    return Shown(before, after, (before_longer[None], after_longer[None]), trained, seconds)


def configure(folder: Path, scale: Scale) -> TrainConfig:
    """The demonstration's run; also written as a file that `duet train run` takes, with its questions."""
    from duet_sdk.trainer.files import checked

    values: dict[str, object] = {
        "output": str(folder / "run"),
        "toy": True,
        "seed": scale.lesson.seed,
        "reasoner": {
            "model": str(folder / "start" / "reasoner"),
            "learning_rate": 1.5e-4,
            "max_new_tokens": SIGNAL_TOKENS,
            "gradient_checkpointing": False,
        },
        "generator": {
            "model": str(folder / "start" / "generator"),
            "learning_rate": 1e-4,
            "max_new_tokens": ANSWER_TOKENS,
            "gradient_checkpointing": False,
        },
        "data": {
            "train": str(folder / "questions.jsonl"),
            "max_prompt_tokens": 64,
            "language": "en",
            "tasks": ["chained arithmetic on a dial of ten marks (toy)"],
            "grading": {"grader": "exact"},
        },
        "rollout": {"questions": 16, "signals": 8, "answers": 2, "mini_batches": 1},
        "training": {
            "rounds": scale.rounds,
            "precision": "float32",
            "use_cpu": True,
            "adam_beta2": 0.99,
            "save_every": 25,
            "validate_every": 20,
            "validation_questions": 200,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(json.dumps(values, indent=2), encoding="utf-8")  # JSON is YAML
    return checked(values, str(folder / "run.yaml"))


def _write(path: Path, chains: list[Chain]) -> None:
    """As `duet train run` and `duet pair check` read questions."""
    rows = [json.dumps({"prompt": chain.text, "answer": chain.answer}) for chain in chains]
    path.write_text("\n".join(rows), encoding="utf-8")


def _teach_both(folder: Path, lesson: Lesson, tell: Callable[[str], None]) -> None:
    """Each model in a process of its own, as there are two cores."""
    context = multiprocessing.get_context("spawn")
    lines: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    workers = [
        context.Process(target=_teach_one, args=(stage, folder / "start" / stage, lesson, lines))
        for stage in ("reasoner", "generator")
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) or not lines.empty():
        if lines.empty():
            time.sleep(0.2)
        else:
            tell(lines.get())
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise TrainingError(f"teaching a toy model failed with exit code {worker.exitcode}; its error is above")


def _teach_one(stage: str, folder: Path, lesson: Lesson, lines: multiprocessing.SimpleQueue[str]) -> None:
    import torch

    torch.set_num_threads(1)
    teach("reasoner" if stage == "reasoner" else "generator", folder, lesson, tell=lines.put)


def _teach_on(trainer: JointTrainer, chains: list[Chain], lesson: Lesson, tell: Callable[[str], None]) -> None:
    """Teach the reasoner in further courses until its traces are right often enough.

    Raises:
        TrainingError: they are not after the last.
    """
    for course in range(1, MOST_COURSES):
        if _share_right(trainer, chains, tell) >= LEAST_RIGHT:
            return
        teach("reasoner", trainer.start.reasoner, lesson, course=course, tell=tell)
    share = _share_right(trainer, chains, tell)
    if share < LEAST_RIGHT:
        raise TrainingError(f"the toy's traces are right too rarely ({share:.3f}): teach it for longer")


def _share_right(trainer: JointTrainer, chains: list[Chain], tell: Callable[[str], None]) -> float:
    """Share of the reasoner's sampled traces that are right, in the form in which fewer are.

    Joint training keeps the form that is right more often, so both must be before it begins.
    """
    from transformers import AutoModelForCausalLM

    from duet_sdk.trainer.build import quiet
    from duet_sdk.trainer.measure import PairModels

    with quiet():
        reasoner: PreTrainedModel = AutoModelForCausalLM.from_pretrained(trainer.start.reasoner)
        pair = PairModels(reasoner, reasoner, trainer.prompts, SIGNAL_TOKENS, ANSWER_TOKENS, temperature=1.0)
        traces = [signal.text for signal in pair.signals([one.question() for one in chains])]
    told = [(trace, chain) for trace, chain in zip(traces, chains, strict=True) if trace]
    shares = []
    for form, is_verbose in (("terse", False), ("verbose", True)):
        right = [trace.rstrip(" ;").endswith(chain.answer) for trace, chain in told if (";" in trace) == is_verbose]
        shares.append(sum(right) / len(right) if right else 0.0)
        tell(f"taught: {len(right)} of {len(traces)} sampled traces are {form}, {shares[-1]:.3f} of them right")
    return min(shares)


def _measure(trainer: JointTrainer, trained: Trained | None, chains: list[Chain]) -> dict[Hashable, Evaluation]:
    """Greedily, by length of chain."""
    from transformers import AutoModelForCausalLM

    from duet_sdk.trainer.build import quiet
    from duet_sdk.trainer.measure import PairModels, evaluate

    start = trainer.start
    if trained is None:
        with quiet():
            reasoner: PreTrainedModel = AutoModelForCausalLM.from_pretrained(start.reasoner)
            generator: PreTrainedModel = AutoModelForCausalLM.from_pretrained(start.generator)
    else:
        reasoner, generator = trained.reasoner, trained.generator
    pair = PairModels(reasoner, generator, trainer.prompts, SIGNAL_TOKENS, ANSWER_TOKENS)
    with quiet():
        questions = [one.question() for one in chains]
        return evaluate(pair, questions, trainer.grader, group=lambda at: len(chains[at].steps))
