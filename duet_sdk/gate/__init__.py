"""Is the reasoner needed? A gate says so, before the reasoner is asked or by the generator's first tokens.

Shipped: `Always`, `Never`, `Heuristic`, `Confidence`, `Race`; yours by the protocols `Gate` and `TokenGate`.
Thresholds from your own questions are kept in a `duet_sdk.gate.calibration.Calibration`.
"""

from duet_sdk.gate.confidence import Confidence, Race, doubt
from duet_sdk.gate.find import GATES, GateLike, find_gate
from duet_sdk.gate.fixed import Always, Never
from duet_sdk.gate.heuristic import WEIGHTS, Heuristic, features
from duet_sdk.gate.protocol import Gate, TokenGate

__all__ = [
    "GATES",
    "WEIGHTS",
    "Always",
    "Confidence",
    "Gate",
    "GateLike",
    "Heuristic",
    "Never",
    "Race",
    "TokenGate",
    "doubt",
    "features",
    "find_gate",
]
