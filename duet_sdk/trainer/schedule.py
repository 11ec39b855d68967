"""How λ moves from round to round: small pure state machines for the additive reward.

Source: arXiv 2605.01111 for ``dual``: λ ← clip(λ + η · (mean(L) / B − 1), 0, λ_max).

What goes wrong with ``dual``: λ rises as long as signals are longer than B, also when accuracy falls, until one bad
batch makes short and wrong the best of its group. ``guarded`` raises λ only while accuracy holds, and caps it so that
the length of a first-round signal never costs more than ``cap`` of a right answer.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, assert_never

from duet_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from duet_sdk.trainer.config import Objective

_SHARP = 5.0
"""Tolerances below the reference at which λ is halved at once: smoothing would see such a fall rounds later."""
_FALL = 40.0
"""How much faster λ falls by lost accuracy than it rises by length: accuracy is lost in steps of some hundredths."""
_LEAST = 1e-3
"""Where PI starts from: its steps are on log λ."""
_INTEGRAL, _PROPORTIONAL = 2.0, 4.0
"""Steps on log λ by the gap to the tolerated accuracy, and by its change since the last round."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The state of a schedule after some rounds."""

    lam: float
    rounds: int = 0
    reference: float = 0.0
    """Best smoothed accuracy so far; in the first rounds, their mean."""
    accuracy: float = 0.0
    """Smoothed."""
    gap: float | None = None
    """Accuracy above what is tolerated, a round ago."""
    first_length: float | None = None
    """Mean tokens of a signal in the first round."""

    def to_json(self) -> dict[str, JsonValue]:
        """As `from_json` reads it, to the last bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, JsonValue]) -> ScheduleState:
        """The state that `to_json` wrote.

        Raises:
            TrainingError: it is not one.
        """
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as err:
            raise TrainingError(f"the checkpoint's schedule cannot be read ({err}); use an older checkpoint") from err


def start(objective: Objective) -> ScheduleState:
    """The state before the first round."""
    return ScheduleState(lam=objective.lam)


def advance(state: ScheduleState, objective: Objective, *, accuracy: float, length: float) -> ScheduleState:
    """The state after a round.

    Args:
        state: where it stood.
        objective: the schedule and its numbers.
        accuracy: mean of r(M, m) over the round, in [0, 1].
        length: mean tokens of a signal in the round.
    """
    state = _observe(state, objective, accuracy, length)
    excess = length / objective.budget_tokens - 1
    match objective.schedule:
        case "constant":
            return state
        case "dual":
            return replace(state, lam=_clip(state.lam + objective.eta * excess, objective.lam_max))
        case "guarded":
            return state if state.rounds <= objective.warm_rounds else _guarded(state, objective, accuracy, excess)
        case "pi":
            return state if state.rounds <= objective.warm_rounds else _pi(state, objective)
        case unknown:
            assert_never(unknown)


def highest(state: ScheduleState, objective: Objective) -> float:
    """The bound on λ under ``guarded`` and ``pi``: cap · B / L₀, at most λ_max."""
    if not state.first_length:
        return objective.lam_max
    return min(objective.lam_max, objective.cap * objective.budget_tokens / state.first_length)


def _observe(state: ScheduleState, objective: Objective, accuracy: float, length: float) -> ScheduleState:
    """Rounds, reference and smoothed accuracy with this round counted in."""
    rounds = state.rounds + 1
    first = length if state.first_length is None else state.first_length
    if rounds <= objective.warm_rounds:
        mean = (state.reference * state.rounds + accuracy) / rounds
        return replace(state, rounds=rounds, reference=mean, accuracy=mean, first_length=first)
    smoothed = objective.smoothing * state.accuracy + (1 - objective.smoothing) * accuracy
    # The reference only rises: what was reached is to be held.
    reference = max(state.reference, smoothed)
    return replace(state, rounds=rounds, reference=reference, accuracy=smoothed, first_length=first)


def _guarded(state: ScheduleState, objective: Objective, accuracy: float, excess: float) -> ScheduleState:
    gap = state.accuracy - (state.reference - objective.tolerance)
    if accuracy < state.reference - _SHARP * objective.tolerance:
        lam = state.lam / 2
    elif gap >= 0:
        lam = state.lam + objective.eta * min(max(excess, -1.0), 1.0)
    else:
        lam = state.lam + _FALL * objective.eta * gap
    return replace(state, lam=_clip(lam, highest(state, objective)), gap=gap)


def _pi(state: ScheduleState, objective: Objective) -> ScheduleState:
    """Proportional-integral steps on log λ towards the tolerated accuracy."""
    gap = state.accuracy - (state.reference - objective.tolerance)
    change = 0.0 if state.gap is None else gap - state.gap
    step = _INTEGRAL * min(gap, objective.tolerance) + _PROPORTIONAL * change
    lam = max(state.lam, _LEAST) * math.exp(step)
    return replace(state, lam=_clip(lam, highest(state, objective)), gap=gap)


def _clip(lam: float, bound: float) -> float:
    return min(max(lam, 0.0), bound)
