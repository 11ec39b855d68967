"""Intervals for shares and for the difference of two shares of the same questions, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def share_interval(right: float, total: int) -> Interval:
    """Wilson's interval of a share.

    Source: Wilson (1927), J. Am. Stat. Assoc. 22, 209; it stays in [0, 1] and has a width where all are right.

    >>> interval = share_interval(81, 263)
    >>> f"{interval.value:.4f} {interval.low:.4f} {interval.high:.4f}"
    '0.3080 0.2553 0.3662'

    Args:
        right: how many, in [0, total]; part grades count in part.
        total: out of, at least 1.
    """
    share, z2 = right / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # Rounding must not push a bound past the share itself, where none or all are right.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def difference_interval(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The interval of the mean of ``one`` minus that of ``other``, both graded on the same questions.

    Source: Newcombe (1998), Statistics in Medicine 17, 2635, method 8: Wilson's intervals of both, put together with
    the correlation of the pairs. It has a width also where all pairs agree.

    >>> interval = difference_interval([1.0] * 48 + [0.0] * 2, [1.0] * 36 + [0.0] * 12 + [1.0] * 2)
    >>> f"{interval.value:.2f} {interval.low:.4f} {interval.high:.4f}"
    '0.20 0.0569 0.3404'

    Args:
        one: grades in [0, 1].
        other: grades of the same questions, in their order.
    """
    total = len(one)
    first, second = share_interval(sum(one), total), share_interval(sum(other), total)
    pairs = list(zip(one, other, strict=True))
    covariance = sum(a * b for a, b in pairs) / total - first.value * second.value
    spread = math.sqrt(first.value * (1 - first.value) * second.value * (1 - second.value))
    correlation = max(-1.0, min(1.0, covariance / spread)) if spread else 0.0

    def width(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2))

    difference = first.value - second.value
    below = width(first.value - first.low, second.high - second.value)
    above = width(first.high - first.value, second.value - second.low)
    return Interval(difference, max(-1.0, difference - below), min(1.0, difference + above))
