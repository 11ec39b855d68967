"""Rewards and advantages against the paper's definitions worked out by hand, and against a slow plain form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from duet_sdk.trainer import objective as subject  # noqa: E402
from duet_sdk.trainer.config import Objective  # noqa: E402

# One question, G = 4 signals, K = 4 answers each. r(M, m) = 1, 1/2, 0, 3/4 and r(m) = 1/4.
GRADES = torch.tensor([[[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]], dtype=torch.float64)
GUIDED = GRADES.mean(dim=2)
LENGTHS = torch.tensor([[800.0, 400, 200, 1200]], dtype=torch.float64)
ALONE = torch.tensor([0.25], dtype=torch.float64)
PAPER = Objective(reward="additive", schedule="dual", marginal="paper", budget_tokens=1000)


def near(values: object) -> object:
    return pytest.approx(values, abs=1e-6)


def test_the_papers_reward_is_utility_minus_the_price_of_length() -> None:
    # 1 - 0.25 - 0.2·0.8, 0.5 - 0.25 - 0.2·0.4, 0 - 0.25 - 0.2·0.2, 0.75 - 0.25 - 0.2·1.2
    rewards = subject.reasoner_reward(GUIDED, LENGTHS, PAPER, lam=0.2, alone=ALONE)
    assert rewards.tolist() == [near([0.59, 0.17, -0.29, 0.26])]


def test_the_papers_advantages_of_signals() -> None:
    # mean 0.1825, squared deviations add up to 0.395475, divided by 3 the variance is 0.131825, its root 0.3630771
    rewards = torch.tensor([[0.59, 0.17, -0.29, 0.26]], dtype=torch.float64)
    plain = subject.reasoner_advantages(rewards, PAPER.model_copy(update={"divide_by_std": False}))
    assert plain.tolist() == [near([0.4075, -0.0125, -0.4725, 0.0775])]
    divided = subject.reasoner_advantages(rewards, PAPER)
    assert divided.tolist() == [pytest.approx([1.122042, -0.034418, -1.301018, 0.213394], abs=1e-5)]


def test_the_generators_answers_are_compared_over_the_whole_question() -> None:
    # 9 of 16 are right: mean 0.5625, variance (9·0.4375² + 7·0.5625²) / 15 = 0.2625, its root 0.5123475
    advantages = subject.generator_advantages(GRADES, PAPER)
    right, wrong = 0.4375 / 0.5124475, -0.5625 / 0.5124475
    assert advantages[0, 1].tolist() == near([right, right, wrong, wrong])
    assert advantages[0, 2].tolist() == near([wrong] * 4)


def test_the_generators_answers_can_be_compared_within_their_signal() -> None:
    by_signal = PAPER.model_copy(update={"generator_group": "signal"})
    advantages = subject.generator_advantages(GRADES, by_signal)
    # mean 1/2, variance 4·0.25 / 3, its root 0.5773503
    assert advantages[0, 1].tolist() == near([0.5 / 0.5774503, 0.5 / 0.5774503, -0.5 / 0.5774503, -0.5 / 0.5774503])
    assert advantages[0, 0].tolist() == [0, 0, 0, 0]
    assert advantages[0, 2].tolist() == [0, 0, 0, 0]


def test_the_gated_reward_by_hand() -> None:
    # Right at least once: 800, 400, 1200 tokens; mean 800, deviation 400·√(2/3) = 326.5986
    rewards = subject.reasoner_reward(GUIDED, LENGTHS, Objective(alpha=0.3), lam=0.0)
    short = 1 / (1 + math.exp(1.2247449))
    assert rewards.tolist() == [near([0.85, 0.5 * (1 - 0.3 * short), 0.0, 0.75 * (1 - 0.3 * (1 - short))])]


def test_utility_as_the_paper_takes_it_changes_no_advantage() -> None:
    off = PAPER.model_copy(update={"marginal": "off"})
    with_it = subject.reasoner_reward(GUIDED, LENGTHS, PAPER, lam=0.2, alone=ALONE)
    without = subject.reasoner_reward(GUIDED, LENGTHS, off, lam=0.2, alone=ALONE)
    assert with_it.tolist() != without.tolist()
    one, two = (subject.reasoner_advantages(rewards, PAPER, alone=ALONE) for rewards in (with_it, without))
    assert one.tolist() == [near(two[0].tolist())]


def test_utility_as_baseline_rewards_only_what_beats_the_generator_alone() -> None:
    baseline = Objective(reward="additive", marginal="baseline", divide_by_std=False)
    rewards = subject.reasoner_reward(GUIDED, LENGTHS, baseline, lam=0.0, alone=ALONE)
    advantages = subject.reasoner_advantages(rewards, baseline, alone=ALONE)
    assert advantages.tolist() == [near([0.75, 0.25, -0.25, 0.5])]


def test_advantages_against_a_baseline_stay_bounded_where_all_rewards_are_alike() -> None:
    objective = Objective(marginal="baseline", std_epsilon=1e-4)
    rewards = torch.tensor([[0.85, 0.85], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    alone = torch.tensor([0.35, 0.5, 0.0], dtype=torch.float64)
    advantages = subject.reasoner_advantages(rewards, objective, alone=alone)
    # 0.5 / (0.5 + ε) each; nothing; 1 / (√½ + ε) and 0.
    assert advantages.tolist() == [near([0.99980004, 0.99980004]), [0, 0], near([1.41401359, 0.0])]


def test_utility_as_weight_makes_length_dearer_where_the_generator_needs_no_help() -> None:
    weighted = Objective(reward="additive", marginal="weight", budget_tokens=1000)
    both_right = torch.ones(2, 2, dtype=torch.float64)
    lengths = torch.tensor([[100.0, 300], [100, 300]], dtype=torch.float64)
    alone = torch.tensor([0.0, 1.0], dtype=torch.float64)
    rewards = subject.reasoner_reward(both_right, lengths, weighted, lam=0.5, alone=alone)
    assert rewards.tolist() == [near([0.95, 0.85]), near([0.9, 0.7])]
    gated = subject.reasoner_reward(both_right, lengths, Objective(marginal="weight", alpha=0.3), lam=0, alone=alone)
    assert gated[1, 0] - gated[1, 1] > gated[0, 0] - gated[0, 1]


def test_a_group_of_equal_rewards_teaches_nothing() -> None:
    rewards = torch.tensor([[0.5, 0.5, 0.5], [0.1, 0.2, 0.3]])
    advantages = subject.group_advantages(rewards, divide_by_std=True, epsilon=1e-4)
    assert advantages[0].tolist() == [0, 0, 0]
    assert subject.zero_variance_share(rewards) == 0.5


# The slow form: one number at a time.


def slow_gated(guided: Sequence[float], lengths: Sequence[float], alpha: float) -> list[float]:
    right = [length for length, grade in zip(lengths, guided, strict=True) if grade > 0] or list(lengths)
    mean, deviation = statistics.fmean(right), statistics.pstdev(right)
    rewards = []
    for grade, length in zip(guided, lengths, strict=True):
        standard = max(-9.0, min(9.0, (length - mean) / (deviation + 1e-6)))
        rewards.append(grade * (1 - alpha / (1 + math.exp(-standard))))
    return rewards


def slow_advantages(rewards: Sequence[float], *, divide: bool) -> list[float]:
    mean = statistics.fmean(rewards)
    scale = statistics.stdev(rewards) + 1e-4 if divide else 1.0
    return [(reward - mean) / scale for reward in rewards]


grade = st.integers(0, 4).map(lambda right: right / 4)
length = st.integers(0, 9000).map(float)
groups = st.integers(2, 6).flatmap(
    lambda size: st.lists(
        st.tuples(st.lists(grade, min_size=size, max_size=size), st.lists(length, min_size=size, max_size=size)),
        min_size=1,
        max_size=4,
    )
)


def tensors(rows: list[tuple[list[float], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
    guided, lengths = zip(*rows, strict=True)
    return torch.tensor(guided, dtype=torch.float64), torch.tensor(lengths, dtype=torch.float64)


@given(groups, st.floats(0, 1))
def test_gated_is_its_slow_form(rows: list[tuple[list[float], list[float]]], alpha: float) -> None:
    found = subject.gated(*tensors(rows), alpha=alpha).tolist()
    assert found == [pytest.approx(slow_gated(*row, alpha), abs=1e-9) for row in rows]


@given(groups, st.floats(0, 1))
def test_gated_never_makes_a_wrong_signal_better_than_a_right_one(
    rows: list[tuple[list[float], list[float]]], alpha: float
) -> None:
    guided, lengths = tensors(rows)
    rewards = subject.gated(guided, lengths, alpha=alpha)
    assert bool(((rewards >= 0) & (rewards <= guided)).all())
    assert bool((rewards[guided == 0] == 0).all())
    if alpha < 1:
        assert bool((rewards[guided > 0] > 0).all())


@given(groups, st.floats(0, 1), st.floats(1, 5000), st.floats(0, 1))
def test_additive_is_its_slow_form(
    rows: list[tuple[list[float], list[float]]], lam: float, budget: float, alone: float
) -> None:
    guided, lengths = tensors(rows)
    level = torch.full((len(rows),), alone, dtype=torch.float64)
    found = subject.additive(guided, lengths, lam=lam, budget_tokens=budget, alone=level).tolist()
    wanted = [[g - alone - lam * n / budget for g, n in zip(*row, strict=True)] for row in rows]
    assert found == [pytest.approx(one, abs=1e-9) for one in wanted]


@given(groups, st.booleans())
def test_advantages_are_their_slow_form_and_centred(rows: list[tuple[list[float], list[float]]], divide: bool) -> None:
    guided, _ = tensors(rows)
    found = subject.group_advantages(guided, divide_by_std=divide, epsilon=1e-4)
    assert found.tolist() == [pytest.approx(slow_advantages(row[0], divide=divide), abs=1e-9) for row in rows]
    assert found.sum(dim=1).abs().max() < 1e-9


@given(st.lists(st.lists(grade, min_size=6, max_size=6), min_size=1, max_size=4), st.booleans())
def test_grouping_by_signal_is_grouping_each_signal_alone(rows: list[list[float]], divide: bool) -> None:
    grades = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2, 3)
    objective = Objective(generator_group="signal", divide_by_std=divide)
    found = subject.generator_advantages(grades, objective)
    for question, signals in zip(found.tolist(), grades.tolist(), strict=True):
        for advantages, answers in zip(question, signals, strict=True):
            assert advantages == pytest.approx(slow_advantages(answers, divide=divide), abs=1e-9)
