"""Rewards and advantages: pure functions on tensors.

Q questions, G signals for each, K answers for each signal. Grades are 0 or 1, or anything between. ``guided`` is
r(M, m), the mean grade of a signal's answers; ``alone`` is r(m), the mean grade of the generator without a signal;
``lengths`` counts all tokens the reasoner wrote for a signal.

Source: arXiv 2605.01111 for the additive reward and the schedules it is steered by; GRPO (arXiv 2402.03300) for
group-relative advantages.

>>> import torch
>>> guided, lengths = torch.tensor([[1.0, 0.5]]), torch.tensor([[100.0, 300.0]])
>>> additive(guided, lengths, lam=0.5, budget_tokens=1000.0)
tensor([[0.9500, 0.3500]])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from duet_sdk.trainer.config import Objective

_SURE = 9.0
"""Bound on a standardised length: its sigmoid is within 1e-4 of 0 or 1."""
_LEVEL = 1e-6
"""Added to the deviation of lengths, which is 0 where all are equal."""


def additive(
    guided: Tensor,
    lengths: Tensor,
    *,
    lam: float,
    budget_tokens: float,
    alone: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The paper's reward of the reasoner: R = r(M, m) − r(m) − λ · L / B.

    Args:
        guided: (Q, G), in [0, 1].
        lengths: (Q, G), tokens, from 0.
        lam: λ, from 0.
        budget_tokens: B, above 0.
        alone: (Q,), in [0, 1]; None leaves r(m) out.
        weight: (Q,), factor on λ of each question; None is 1.

    Returns:
        (Q, G), at most 1.
    """
    price = torch.full_like(guided[:, :1], lam) if weight is None else lam * weight[:, None]
    reward = guided - price * lengths / budget_tokens
    return reward if alone is None else reward - alone[:, None]


def gated(guided: Tensor, lengths: Tensor, *, alpha: float | Tensor) -> Tensor:
    """A reward in which length counts for right answers only: R = r · (1 − α · sigmoid((L − μ) / σ)).

    μ and σ are mean and deviation (of the population) of the lengths of those signals of a question that led to a
    right answer at least once; of all where none did. A wrong answer is worth 0 at any length, so that no α makes
    short and wrong the best of a group.

    Args:
        guided: (Q, G), in [0, 1].
        lengths: (Q, G), tokens, from 0.
        alpha: α, in [0, 1], or (Q,).

    Returns:
        (Q, G), in [0, 1].
    """
    right = (guided > 0).to(lengths.dtype)
    counted = torch.where(right.sum(dim=1, keepdim=True) > 0, right, torch.ones_like(right))
    number = counted.sum(dim=1, keepdim=True)
    mean = (lengths * counted).sum(dim=1, keepdim=True) / number
    deviation = (((lengths - mean) ** 2 * counted).sum(dim=1, keepdim=True) / number).sqrt()
    standard = ((lengths - mean) / (deviation + _LEVEL)).clamp(-_SURE, _SURE)
    share = alpha[:, None] if isinstance(alpha, torch.Tensor) else alpha
    return guided * (1 - share * torch.sigmoid(standard))


def reasoner_reward(
    guided: Tensor, lengths: Tensor, objective: Objective, *, lam: float, alone: Tensor | None = None
) -> Tensor:
    """The reasoner's reward as configured, for (Q, G) signals.

    With marginal utility as ``weight`` a question's length counts more, the better the generator does alone: gated,
    α grows from its value to 1 with r(m); additive, λ grows to twice its value.

    Args:
        guided: (Q, G), in [0, 1].
        lengths: (Q, G), tokens.
        objective: what is rewarded.
        lam: λ as the schedule has it now; unused for the gated reward.
        alone: (Q,), r(m); needed unless ``objective.marginal`` is ``off``.
    """
    if objective.marginal == "off":
        alone = None
    by_weight = alone if objective.marginal == "weight" else None
    if objective.reward == "gated":
        alpha = objective.alpha if by_weight is None else objective.alpha + (1 - objective.alpha) * by_weight
        reward = gated(guided, lengths, alpha=alpha)
        return reward - alone[:, None] if objective.marginal == "paper" and alone is not None else reward
    return additive(
        guided,
        lengths,
        lam=lam,
        budget_tokens=objective.budget_tokens,
        alone=alone if objective.marginal == "paper" else None,
        weight=None if by_weight is None else 1 + by_weight,
    )


def reasoner_advantages(rewards: Tensor, objective: Objective, *, alone: Tensor | None = None) -> Tensor:
    """Advantages of (Q, G) signals: against their question's mean, or against r(m) where that is the baseline."""
    baseline = alone if objective.marginal == "baseline" else None
    return group_advantages(
        rewards, divide_by_std=objective.divide_by_std, epsilon=objective.std_epsilon, baseline=baseline
    )


def generator_advantages(grades: Tensor, objective: Objective) -> Tensor:
    """Advantages of (Q, G, K) answers, compared within their question or within their signal."""
    questions, signals, answers = grades.shape
    wide = (questions, signals * answers) if objective.generator_group == "question" else (-1, answers)
    advantages = group_advantages(
        grades.reshape(wide), divide_by_std=objective.divide_by_std, epsilon=objective.std_epsilon
    )
    return advantages.reshape(grades.shape)


def group_advantages(rewards: Tensor, *, divide_by_std: bool, epsilon: float, baseline: Tensor | None = None) -> Tensor:
    """A = (R − mean) / (std + ε) within each group; std is the sample's (n − 1), as in TRL and the reference code.

    With a baseline, the root mean square of R − baseline takes the place of std, which is 0 where all rewards are equal
    and would make their distance to the baseline count ten thousandfold.

    Args:
        rewards: (groups, members), members from 2.
        divide_by_std: whether to divide.
        epsilon: ε.
        baseline: (groups,), in place of the mean.

    Returns:
        (groups, members); 0 in a group whose rewards are all equal, unless there is a baseline.
    """
    middle = rewards.mean(dim=1) if baseline is None else baseline
    advantages = rewards - middle[:, None]
    if not divide_by_std:
        return advantages
    spread = rewards.std(dim=1) if baseline is None else advantages.square().mean(dim=1).sqrt()
    return advantages / (spread[:, None] + epsilon)


def zero_variance_share(rewards: Tensor) -> float:
    """Share of (groups, members) groups whose rewards are all equal, from which nothing is learned."""
    spread = rewards.max(dim=1).values - rewards.min(dim=1).values
    return float((spread < _LEVEL).to(torch.float64).mean())
