"""From what a user names to a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, get_args

from duet_sdk.errors import ConfigError
from duet_sdk.gate.confidence import Confidence, Race
from duet_sdk.gate.fixed import Always, Never
from duet_sdk.gate.heuristic import WEIGHTS, Heuristic
from duet_sdk.gate.protocol import Gate, TokenGate
from duet_sdk.policies import GateConfig
from duet_sdk.types import GateName

if TYPE_CHECKING:
    from duet_sdk.gate.calibration import Calibration

GateLike: TypeAlias = "str | GateConfig | Gate | TokenGate"
"""A gate's name, its name with numbers of its own, or an object of one of the two protocols."""

GATES: tuple[str, ...] = get_args(GateName)
"""The names of the shipped gates."""


def find_gate(given: GateLike, calibration: Calibration | None = None) -> Gate | TokenGate:
    """The gate of that name, or the user's own.

    Numbers that are not given come from the calibration where it was made for that policy (one for ``confidence``
    holds for ``race`` too, and the other way round), else from the gate's defaults.

    Raises:
        ConfigError: an unknown name, a number that the gate does not take, or an object that is not a gate.
    """
    if isinstance(given, str):
        if given not in GATES:
            raise ConfigError(f"gate {given!r} is unknown; known: {', '.join(GATES)}")
        given = GateConfig(given)  # type: ignore[arg-type]  # one of the names, as checked
    if isinstance(given, GateConfig):
        return _build(given, calibration)
    if not isinstance(given, Gate | TokenGate):
        raise ConfigError(
            f"gate must be a name, or an object with name and decide() or judge(), got {type(given).__name__}"
        )
    return given


def _build(config: GateConfig, calibration: Calibration | None) -> Gate | TokenGate:
    policy, threshold, first_tokens, weights = config.policy, config.threshold, config.first_tokens, WEIGHTS
    if policy == "always":
        return Always()
    if policy == "never":
        return Never()
    if calibration is not None and calibration.holds_for(policy):
        threshold = calibration.threshold if threshold is None else threshold
        first_tokens = first_tokens or calibration.first_tokens
        weights = calibration.weights or WEIGHTS
    if policy == "heuristic":
        return Heuristic(Heuristic().threshold if threshold is None else threshold, weights)
    kind = Confidence if policy == "confidence" else Race
    default = kind()
    return kind(default.threshold if threshold is None else threshold, first_tokens or default.first_tokens)
