"""Detects when a run goes wrong or has collapsed: a pure state machine on what was measured in its rounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from duet_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from duet_sdk.trainer.config import Guard
    from duet_sdk.trainer.round import RoundFacts

_PAST = 0.8
"""Weight of the past in smoothed accuracy: about five rounds, as a round's own accuracy is noisy."""
_FIRST = 5
"""Rounds whose mean is the first reference: as many as smoothing reaches back, so that one lucky round sets none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was noticed."""

    kind: Literal["warning", "collapse"]
    what: str
    """What was seen, with the values."""


@dataclass(frozen=True, slots=True)
class CollapseState:
    """What is remembered from round to round."""

    rounds: int = 0
    reference: float = 0.0
    """Best smoothed accuracy; in the first rounds, their mean."""
    accuracy: float = 0.0
    """Smoothed."""
    below: int = 0
    """Rounds in a row far below the reference."""
    without_variance: int = 0
    """Rounds in a row in which hardly any group had variance."""
    slipping: int = 0
    """Rounds in a row in which smoothed accuracy was below the reference, but no collapse was near."""
    low_entropy: int = 0
    """Rounds in a row below the entropy floor."""

    @property
    def good(self) -> bool:
        """Whether a run may go back to this round later."""
        return self.below == 0

    def to_json(self) -> dict[str, JsonValue]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, JsonValue]) -> CollapseState:
        """The state that `to_json` wrote.

        Raises:
            TrainingError: it is not one.
        """
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as err:
            raise TrainingError(
                f"the state of the collapse guard in the checkpoint cannot be read ({err}); use an older checkpoint"
            ) from err


def observe(state: CollapseState, facts: RoundFacts, guard: Guard) -> tuple[CollapseState, list[Finding]]:
    """The state after a round, and what was noticed in it."""
    state = _smoothed(state, facts.guided)
    findings: list[Finding] = []
    lost = state.reference - facts.guided
    # Half of a low accuracy is a collapse, too: there may be no 2 * drop to lose.
    far = lost > min(2 * guard.drop, state.reference / 2) or (lost > guard.drop and facts.empty >= guard.empty)
    slips = state.reference - state.accuracy > guard.drop
    if state.rounds > _FIRST and far:
        state = replace(state, below=state.below + 1, slipping=0)
        findings.append(_accuracy_finding(state, facts, guard))
    elif state.rounds > _FIRST and slips:
        state = replace(state, below=0, slipping=state.slipping + 1)
        if state.slipping % guard.patience == 0:
            findings.append(_slipping_finding(state))
    else:
        state = replace(state, below=0, slipping=0)
    alike = state.without_variance + 1 if facts.zero_variance >= guard.zero_variance else 0
    state = replace(state, without_variance=alike)
    if alike and alike % guard.patience == 0:
        findings.append(
            Finding(
                "warning",
                f"{facts.zero_variance:.0%} of the groups have had no variance for {alike} rounds: nothing is learned "
                "from them; raise rollout.temperature or rollout.signals, or use harder questions",
            )
        )
    return state, findings


def observe_entropy(state: CollapseState, entropy: float, guard: Guard) -> tuple[CollapseState, list[Finding]]:
    """The state with the reasoner's entropy (nats a token) in a round, and what was noticed."""
    low = state.low_entropy + 1 if entropy < guard.entropy_floor else 0
    state = replace(state, low_entropy=low)
    if low == 0 or low % guard.patience != 0:
        return state, []
    what = (
        f"the reasoner's entropy is {entropy:.3f} and has been below the floor of {guard.entropy_floor} for {low} "
        "rounds: its samples are alike, so no schedule shortens them; propose shorter forms (propose.cycles)"
    )
    return state, [Finding("warning", what)]


def _accuracy_finding(state: CollapseState, facts: RoundFacts, guard: Guard) -> Finding:
    level = "" if facts.alone is None else f" ({facts.alone:.3f} without a signal)"
    what = (
        f"accuracy is {facts.guided:.3f}{level} and has been far below the {state.reference:.3f} reached before for "
        f"{state.below} rounds; {facts.empty:.0%} of the signals are empty, their mean length is "
        f"{facts.tokens_mean:.1f} tokens"
    )
    return Finding("collapse" if state.below >= guard.patience else "warning", what)


def _slipping_finding(state: CollapseState) -> Finding:
    what = (
        f"smoothed accuracy is {state.accuracy:.3f} and has been below the {state.reference:.3f} reached before for "
        f"{state.slipping} rounds"
    )
    return Finding("warning", what)


def _smoothed(state: CollapseState, guided: float) -> CollapseState:
    rounds = state.rounds + 1
    if rounds <= _FIRST:
        mean = (state.reference * state.rounds + guided) / rounds
        return replace(state, rounds=rounds, reference=mean, accuracy=mean)
    accuracy = _PAST * state.accuracy + (1 - _PAST) * guided
    return replace(state, rounds=rounds, accuracy=accuracy, reference=max(state.reference, accuracy))
