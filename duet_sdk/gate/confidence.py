"""Gates that let the generator try first: is it sure of the first tokens of its own answer?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from duet_sdk._checks import whole
from duet_sdk.policies import check_threshold
from duet_sdk.reply import GateDecision
from duet_sdk.request import Request
from duet_sdk.types import TokenLogprob


def doubt(tokens: Sequence[TokenLogprob]) -> float | None:
    """How unsure a model was of these tokens, in [0, 1]: 1 less the geometric mean of their probabilities.

    None if nothing can be said: no tokens, or a log-probability that is not a number.

    >>> round(doubt([TokenLogprob("There", -0.1), TokenLogprob(" are", -0.3)]), 3)
    0.181
    """
    if not tokens:
        return None
    mean = math.fsum(min(0.0, token.logprob) for token in tokens) / len(tokens)
    return None if math.isnan(mean) or any(math.isnan(token.logprob) for token in tokens) else 1.0 - math.exp(mean)


@dataclass(frozen=True, slots=True)
class Confidence:
    """The generator tries first, alone; the reasoner is asked only where it is in doubt.

    Costs time where the reasoner is needed, the time to the generator's first tokens, and saves all of the
    reasoner's tokens where it is not.
    """

    threshold: float = 0.2
    """The reasoner is asked at this `doubt` and above, in [0, 1]; not calibrated, set it from your own questions."""
    first_tokens: int = 16
    """Tokens that are judged; enough to come past the opening words, few enough to be cheap if discarded."""
    name: str = "confidence"
    when: Literal["before", "beside"] = "before"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of its range.
        """
        _check(self.threshold, self.first_tokens)

    async def judge(self, request: Request, tokens: Sequence[TokenLogprob]) -> GateDecision:
        """Ask where the doubt reaches the threshold."""
        return _by_doubt(self.name, self.threshold, tokens)


@dataclass(frozen=True, slots=True)
class Race:
    """Both are asked at once; the reasoner is stopped where the generator turns out to be sure.

    Costs no time, and saves what the reasoner would have written after the generator's first tokens; its prompt and
    its tokens until then are paid.
    """

    threshold: float = 0.2
    """The generator is sure below this `doubt`, in [0, 1]; not calibrated, set it from your own questions."""
    first_tokens: int = 16
    """Tokens that are judged; fewer save more of the reasoner's."""
    name: str = "race"
    when: Literal["before", "beside"] = "beside"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is out of its range.
        """
        _check(self.threshold, self.first_tokens)

    async def judge(self, request: Request, tokens: Sequence[TokenLogprob]) -> GateDecision:
        """Ask where the doubt reaches the threshold."""
        return _by_doubt(self.name, self.threshold, tokens)


def _check(threshold: float, first_tokens: int) -> None:
    check_threshold("the threshold of a doubt", threshold)
    whole("first_tokens", first_tokens)


def _by_doubt(policy: str, threshold: float, tokens: Sequence[TokenLogprob]) -> GateDecision:
    score = doubt(tokens)
    if score is None:
        return GateDecision(True, policy, None, threshold, "the generator's logprobs are not numbers")
    ask = score >= threshold
    reason = f"the generator {'doubts' if ask else 'is sure of'} its first {len(tokens)} tokens"
    return GateDecision(ask, policy, score, threshold, reason)
