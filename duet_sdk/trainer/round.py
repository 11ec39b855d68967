"""A round: the reasoner writes signals, the generator answers, both are rewarded and updated.

The reasoner's trainer drives. Its reward function hands the signals to the generator's loop, which answers them, takes
its own update, and parks again; then the reasoner gets its rewards. Order within a round: signals, answers, grades,
update of the generator, update of the reasoner, as in the paper's code.

Both policies' trainers know their side of it only (`duet_sdk.trainer.policy.Side`): `GeneratorSide` answers, and
`ReasonerSide`, which holds it, writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.objective import (
    generator_advantages,
    reasoner_advantages,
    reasoner_reward,
    zero_variance_share,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.config import Objective, Rollout
    from duet_sdk.trainer.policy import Policy
    from duet_sdk.trainer.prompts import PairPrompts, WrittenSignal
    from duet_sdk.trainer.turns import Turns


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What was measured in a round of training, over all processes."""

    guided: float
    """Mean grade of answers with a signal."""
    alone: float | None
    """Mean grade without one; None if it was not sampled."""
    tokens_mean: float
    """Tokens of a signal."""
    tokens_p50: float
    tokens_p95: float
    empty: float
    """Share of empty signals."""
    cut: float
    """Share of signals that their limit ended."""
    leak_rate: float
    """Share of signals that hold the right answer."""
    reward: float
    """Mean reward of a signal."""
    zero_variance: float
    """Share of questions whose signals all got the same reward."""
    lam: float
    """Lambda in this round."""

    @property
    def utility(self) -> float | None:
        """What signals are worth: guided minus alone."""
        return None if self.alone is None else self.guided - self.alone

    @classmethod
    def of(cls, table: torch.Tensor, *, signals: int, lam: float) -> RoundFacts:
        """From one row a signal: guided, alone, tokens, empty, cut, leak, reward; ``signals`` to a question."""
        guided, alone, tokens, empty, cut, leak, reward = table.double().T
        return cls(
            guided=float(guided.mean()),
            alone=None if bool(alone.isnan().any()) else float(alone.mean()),
            tokens_mean=float(tokens.mean()),
            tokens_p50=float(tokens.quantile(0.5)),
            tokens_p95=float(tokens.quantile(0.95)),
            empty=float(empty.mean()),
            cut=float(cut.mean()),
            leak_rate=float(leak.mean()),
            reward=float(reward.mean()),
            zero_variance=zero_variance_share(reward.reshape(-1, signals)),
            lam=lam,
        )


class RoundMonitor(Protocol):
    """Follows the rounds and says how much length costs; the same on all processes."""

    @property
    def lam(self) -> float:
        """Lambda of the round under way."""

    def before_round(self) -> None:
        """Called once signals are written, before either policy is updated."""

    def on_round(self, facts: RoundFacts) -> None:
        """Called for each round once it is graded."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What the reasoner wrote in a round on this process: Q · G signals, those of a question together."""

    rows: list[int]
    """Place of each signal's question in the data."""
    written: list[WrittenSignal]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the generator made of them."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logprobs: list[list[float]] | None
    texts: list[str]
    grades: torch.Tensor
    """(Q, G, K)"""
    alone: torch.Tensor | None
    """(Q,), r(m); None if it was not sampled."""


@dataclass(slots=True)
class GeneratorSide:
    """Answers the signals of a round; what the generator's trainer calls.

    Attributes:
        turns: the generator's loop waits here for signals.
    """

    prompts: PairPrompts
    questions: Sequence[Question]
    grader: QuestionGrader
    rollout_sizes: Rollout
    objective: Objective
    turns: Turns
    _signals: Signals | None = field(default=None, init=False)
    _answers: Answers | None = field(default=None, init=False)
    _advantages: torch.Tensor | None = field(default=None, init=False)

    def answer(self, signals: Signals) -> Answers:
        """Called by the reasoner's side: let the generator's loop answer these, and learn from how it did.

        Raises:
            TrainingError: its loop has ended, or took its turn without an answer; or whatever ended it.
        """
        self._signals = signals
        self.turns.advance()
        answers, self._answers, self._signals = self._answers, None, None
        if answers is None:
            raise TrainingError("the generator's loop took its turn without answering; see its log above")
        return answers

    def rollout(self, prompts: list[str], policy: Policy) -> dict[str, Any]:
        """Wait for signals, then give K answers to each."""
        self.turns.park()
        signals, each = self._signals, self.rollout_sizes.answers
        if signals is None or [row for row in signals.rows for _ in range(each)] != [int(one) for one in prompts]:
            raise TrainingError(
                "the two trainers are at different questions, so answers would be graded against wrong ones; this "
                "version of TRL or accelerate orders data differently than DUET expects (docs/reference/training.md)"
            )
        self._answers = answers = self._sampled(signals, policy)
        self._advantages = generator_advantages(answers.grades, self.objective).flatten()
        return {
            "prompt_ids": answers.prompt_ids,
            "completion_ids": answers.completion_ids,
            "logprobs": answers.logprobs,
            "grade": answers.grades.flatten().tolist(),
        }

    def reward(self, prompts: list[str], **columns: Any) -> list[float]:
        """The grades, which `rollout` gave TRL as a column."""
        return list(columns["grade"])

    def take_advantages(self) -> torch.Tensor | None:
        """Of the answers, compared as the objective says."""
        advantages, self._advantages = self._advantages, None
        return advantages

    def _sampled(self, signals: Signals, policy: Policy) -> Answers:
        count, each = self.rollout_sizes.signals, self.rollout_sizes.answers
        asked = [self.questions[row] for row in signals.rows]
        ids = [
            list(self.prompts.guided_ids(question.messages, one.text))
            for question, one in zip(asked, signals.written, strict=True)
            for _ in range(each)
        ]
        sampled, logprobs = policy.sample(ids, each)
        texts = [self.prompts.answer_text(one) for one in sampled]
        grades = self.grader.grade([question for question in asked for _ in range(each)], texts)
        shaped = torch.tensor(grades, dtype=torch.float32).reshape(-1, count, each)
        return Answers(ids, sampled, logprobs, texts, shaped, self._unguided_grades(asked[::count], policy))

    def _unguided_grades(self, asked: list[Question], policy: Policy) -> torch.Tensor | None:
        """r(m) of each question, by answers without a signal; nothing is trained on them."""
        each = self.rollout_sizes.unguided
        if not each:
            return None
        ids = [self.prompts.unguided_ids(question.messages) for question in asked for _ in range(each)]
        sampled, _ = policy.sample(ids, each)
        texts = [self.prompts.answer_text(one) for one in sampled]
        grades = self.grader.grade([question for question in asked for _ in range(each)], texts)
        return torch.tensor(grades, dtype=torch.float32).reshape(-1, each).mean(dim=1)


@dataclass(slots=True)
class ReasonerSide:
    """Writes the signals of a round and sees it to its end; what the reasoner's trainer calls.

    Attributes:
        generator: answers the signals.
        monitor: receives the round's facts.
    """

    prompts: PairPrompts
    questions: Sequence[Question]
    rollout_sizes: Rollout
    objective: Objective
    generator: GeneratorSide
    monitor: RoundMonitor
    _signals: Signals | None = field(default=None, init=False)
    _advantages: torch.Tensor | None = field(default=None, init=False)

    def rollout(self, prompts: list[str], policy: Policy) -> dict[str, Any]:
        """G signals for each of the questions at these places."""
        rows = [int(prompt) for prompt in prompts]
        ids = [list(self.prompts.ask_ids(self.questions[row].messages)) for row in rows]
        sampled, logprobs = policy.sample(ids, self.rollout_sizes.signals)
        ends = frozenset(policy.eos_token_ids)
        self._signals = Signals(rows, [self.prompts.signal(one, ends=ends) for one in sampled])
        return {"prompt_ids": ids, "completion_ids": sampled, "logprobs": logprobs}

    def reward(self, prompts: list[str], **_columns: Any) -> list[float]:
        """The signals' rewards; the generator's turn comes first."""
        signals, self._signals = self._signals, None
        if signals is None:
            raise TrainingError(
                "the reasoner is to be rewarded before it wrote; this version of TRL calls functions in another order"
            )
        self.monitor.before_round()
        return self._score(signals, self.generator.answer(signals))

    def take_advantages(self) -> torch.Tensor | None:
        """Of the signals, compared as the objective says."""
        advantages, self._advantages = self._advantages, None
        return advantages

    def _score(self, signals: Signals, answers: Answers) -> list[float]:
        """Rewards and advantages of the signals; tells the monitor of the round."""
        objective = self.objective
        guided = answers.grades.mean(dim=2)
        lengths = torch.tensor([float(one.tokens) for one in signals.written]).reshape(guided.shape)
        rewards = reasoner_reward(guided, lengths, objective, lam=self.monitor.lam, alone=answers.alone)
        self._advantages = reasoner_advantages(rewards, objective, alone=answers.alone).flatten()
        self.monitor.on_round(self._facts(signals, answers, rewards))
        return [float(one) for one in rewards.flatten()]

    def _facts(self, signals: Signals, answers: Answers, rewards: torch.Tensor) -> RoundFacts:
        """The round over all processes."""
        leaks = [
            holds_answer(one.text, self.questions[row].answer)
            for row, one in zip(signals.rows, signals.written, strict=True)
        ]
        guided = answers.grades.mean(dim=2).flatten()
        alone = torch.full_like(guided, float("nan"))
        if answers.alone is not None:
            alone = answers.alone.repeat_interleave(self.rollout_sizes.signals)
        columns = [
            guided,
            alone,
            torch.tensor([float(one.tokens) for one in signals.written]),
            torch.tensor([float(not one.text) for one in signals.written]),
            torch.tensor([float(one.cut) for one in signals.written]),
            torch.tensor([float(leak) for leak in leaks]),
            rewards.flatten(),
        ]
        table = gathered(torch.stack(columns, dim=1)).cpu()
        return RoundFacts.of(table, signals=self.rollout_sizes.signals, lam=self.monitor.lam)


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in order of rank, on the device that this one trains on."""
    # Here and not above: the rest of this module is of use where nothing is trained.
    from accelerate import PartialState
    from accelerate.utils import gather

    everywhere: torch.Tensor = gather(rows.to(PartialState().device))
    return everywhere


def holds_answer(signal: str, answer: str) -> bool:
    """Whether a signal holds an answer as words of its own, in upper or lower case.

    >>> holds_answer("so 17", "7"), holds_answer("so 7.", "7")
    (False, True)
    """
    words = re.escape(answer.strip())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", signal, re.IGNORECASE) is not None
