"""What is told of a round."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk.trainer.objective import zero_variance_share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """A round of training, over all processes."""

    guided: float
    """Mean grade of answers with a signal."""
    alone: float | None
    """Mean grade without one; None where it was not sampled."""
    tokens_mean: float
    """Tokens of a signal."""
    tokens_p50: float
    tokens_p95: float
    empty: float
    """Share of empty signals."""
    cut: float
    """Share of signals that their limit ended."""
    leak_rate: float
    """Share of signals in which the right answer stands."""
    reward: float
    """Mean reward of a signal."""
    zero_variance: float
    """Share of questions whose signals were all rewarded alike."""
    lam: float
    """Lambda in this round."""

    @property
    def utility(self) -> float | None:
        """What signals are worth: guided minus alone."""
        return None if self.alone is None else self.guided - self.alone

    @classmethod
    def of(cls, table: Tensor, *, signals: int, lam: float) -> RoundFacts:
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


def stands_in(answer: str, signal: str) -> bool:
    """Whether an answer stands in a signal as words of its own, whatever their case.

    >>> stands_in("7", "so 17"), stands_in("7", "so 7.")
    (False, True)
    """
    words = re.escape(answer.strip())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", signal, re.IGNORECASE) is not None
