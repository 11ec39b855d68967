"""A round: the reasoner writes signals, the generator answers, both are rewarded and updated.

The reasoner's trainer drives. Its reward function hands the signals to the generator's loop, which answers them, takes
its own update, and parks again; then the reasoner gets its rewards. Order within a round: signals, answers, grades,
update of the generator, update of the reasoner, as in the paper's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from duet_sdk.errors import TrainingError
from duet_sdk.trainer import objective as math
from duet_sdk.trainer.facts import RoundFacts, stands_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duet_sdk.evaluation.question import Grader, Question
    from duet_sdk.trainer.config import Objective, Rollout
    from duet_sdk.trainer.handover import Handover
    from duet_sdk.trainer.policy import Policy
    from duet_sdk.trainer.prompts import PairPrompts, WrittenSignal


@dataclass(slots=True)
class Signals:
    """What the reasoner wrote in a round on this process: Q · G signals, those of a question together."""

    rows: list[int]
    """Place of each signal's question in the data."""
    written: list[WrittenSignal]


@dataclass(slots=True)
class Answers:
    """What the generator made of them."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logprobs: list[list[float]] | None
    texts: list[str]
    grades: torch.Tensor
    """(Q, G, K)"""
    alone: torch.Tensor | None
    """(Q,), r(m); None where it was not sampled."""


@dataclass(slots=True)
class Setting:
    """What changes from round to round; the same on all processes."""

    objective: Objective
    lam: float


@dataclass(slots=True)
class Coupling:
    """The functions that both trainers call, and what passes between them."""

    prompts: PairPrompts
    questions: Sequence[Question]
    grader: Grader
    rollout: Rollout
    setting: Setting
    before_round: Callable[[], None]
    """Told that signals are written, before either policy is updated; on all processes."""
    on_round: Callable[[RoundFacts], None]
    """Told of each round when it is graded; the same on all processes."""
    reasoner: Policy = field(init=False)
    generator: Policy = field(init=False)
    handover: Handover = field(init=False)
    signals: Signals | None = field(default=None, init=False)
    answers: Answers | None = field(default=None, init=False)

    # Called by the reasoner's trainer.

    def write(self, prompts: list[str], _trainer: object) -> dict[str, Any]:
        """Its rollout function: signals for the questions at these places."""
        rows = [int(prompt) for prompt in prompts]
        ids = [list(self.prompts.ask_ids(self.questions[row].messages)) for row in rows]
        sampled, logprobs = self.reasoner.sample(ids, self.rollout.signals)
        ends = frozenset(self.reasoner.eos_token_ids)
        self.signals = Signals(rows, [self.prompts.signal(one, ends=ends) for one in sampled])
        return {"prompt_ids": ids, "completion_ids": sampled, "logprobs": logprobs}

    def reward_signals(self, prompts: list[str], **_columns: object) -> list[float]:
        """Its reward function: the generator's turn comes first."""
        if self.signals is None:
            raise TrainingError(
                "the reasoner is to be rewarded before it wrote; this version of TRL calls functions in another order"
            )
        rewards = self._score(self.signals, self._answered())
        self.signals = None
        return rewards

    # Called by the generator's trainer.

    def answer(self, prompts: list[str], _trainer: object) -> dict[str, Any]:
        """Its rollout function: waits for signals, then gives K answers to each."""
        self.handover.park()
        signals = self.signals
        each = self.rollout.answers
        if signals is None or [row for row in signals.rows for _ in range(each)] != [int(one) for one in prompts]:
            raise TrainingError(
                "the two trainers are at different questions, so answers would be graded against wrong ones; this "
                "version of TRL or accelerate orders data otherwise than DUET expects (docs/training.md)"
            )
        self.answers = self._answers(signals)
        advantages = math.generator_advantages(self.answers.grades, self.setting.objective)
        self.generator.advantages = advantages.flatten()
        return {
            "prompt_ids": self.answers.prompt_ids,
            "completion_ids": self.answers.completion_ids,
            "logprobs": self.answers.logprobs,
            "grade": self.answers.grades.flatten().tolist(),
        }

    @staticmethod
    def reward_answers(grade: list[float], **_columns: object) -> list[float]:
        """Its reward function: the grades, which the rollout already knows."""
        return grade

    # Inside.

    def _answered(self) -> Answers:
        """What the generator's loop made of the signals in its turn."""
        self.before_round()
        self.handover.advance()
        answers, self.answers = self.answers, None
        if answers is None:
            raise TrainingError("the generator's loop took its turn without answering; see its log above")
        return answers

    def _answers(self, signals: Signals) -> Answers:
        count, each = self.rollout.signals, self.rollout.answers
        asked = [self.questions[row] for row in signals.rows]
        ids = [
            list(self.prompts.guided_ids(question.messages, one.text))
            for question, one in zip(asked, signals.written, strict=True)
            for _ in range(each)
        ]
        sampled, logprobs = self.generator.sample(ids, each)
        texts = [self.prompts.answer_text(one) for one in sampled]
        grades = self.grader.grade([question for question in asked for _ in range(each)], texts)
        shaped = torch.tensor(grades, dtype=torch.float32).reshape(-1, count, each)
        return Answers(ids, sampled, logprobs, texts, shaped, self._alone(asked[::count]))

    def _alone(self, asked: list[Question]) -> torch.Tensor | None:
        """r(m) of each question, by answers without a signal; they train nothing."""
        each = self.rollout.alone
        if not each:
            return None
        ids = [self.prompts.alone_ids(question.messages) for question in asked for _ in range(each)]
        sampled, _ = self.generator.sample(ids, each)
        texts = [self.prompts.answer_text(one) for one in sampled]
        grades = self.grader.grade([question for question in asked for _ in range(each)], texts)
        return torch.tensor(grades, dtype=torch.float32).reshape(-1, each).mean(dim=1)

    def _score(self, signals: Signals, answers: Answers) -> list[float]:
        """Rewards and advantages of the signals; tells of the round."""
        objective = self.setting.objective
        guided = answers.grades.mean(dim=2)
        lengths = torch.tensor([float(one.tokens) for one in signals.written]).reshape(guided.shape)
        rewards = math.reasoner_reward(guided, lengths, objective, lam=self.setting.lam, alone=answers.alone)
        advantages = math.reasoner_advantages(rewards, objective, alone=answers.alone)
        self.reasoner.advantages = advantages.flatten()
        self.on_round(self._facts(signals, answers, rewards))
        return [float(one) for one in rewards.flatten()]

    def _facts(self, signals: Signals, answers: Answers, rewards: torch.Tensor) -> RoundFacts:
        """The round over all processes."""
        leaks = [
            stands_in(self.questions[row].answer, one.text)
            for row, one in zip(signals.rows, signals.written, strict=True)
        ]
        guided = answers.grades.mean(dim=2).flatten()
        alone = torch.full_like(guided, float("nan"))
        if answers.alone is not None:
            alone = answers.alone.repeat_interleave(self.rollout.signals)
        columns = [
            guided,
            alone,
            torch.tensor([float(one.tokens) for one in signals.written]),
            torch.tensor([float(not one.text) for one in signals.written]),
            torch.tensor([float(one.cut) for one in signals.written]),
            torch.tensor([float(leak) for leak in leaks]),
            rewards.flatten(),
        ]
        accelerator = self.reasoner.accelerator
        table = accelerator.gather(torch.stack(columns, dim=1).to(accelerator.device)).cpu()
        return RoundFacts.of(table, signals=self.rollout.signals, lam=self.setting.lam)
