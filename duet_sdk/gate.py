"""Is the reasoner needed? A gate says so before the reasoner is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from duet_sdk.errors import ConfigError
from duet_sdk.types import GateDecision, Request


@runtime_checkable
class Gate(Protocol):
    """Decides for each request in mode ``duet``."""

    @property
    def name(self) -> str:
        """The policy's name, as traces show it."""

    async def decide(self, request: Request) -> GateDecision:
        """Whether the reasoner is asked. What this raises counts as yes, so that no answer gets worse by it."""


@dataclass(frozen=True, slots=True)
class Always:
    """The reasoner is always asked."""

    name: str = "always"

    async def decide(self, request: Request) -> GateDecision:
        """Yes."""
        return GateDecision(ask=True, policy=self.name)


@dataclass(frozen=True, slots=True)
class Never:
    """The generator answers alone."""

    name: str = "never"

    async def decide(self, request: Request) -> GateDecision:
        """No."""
        return GateDecision(ask=False, policy=self.name)


_GATES: dict[str, Gate] = {gate.name: gate for gate in (Always(), Never())}


def find_gate(given: str | Gate) -> Gate:
    """The gate of that name, or the user's own.

    Raises:
        ConfigError: an unknown name, or an object that is no gate.
    """
    if isinstance(given, str):
        if given not in _GATES:
            raise ConfigError(f"gate {given!r} is unknown; known are {', '.join(_GATES)}")
        return _GATES[given]
    if not isinstance(given, Gate):
        raise ConfigError(f"gate must be a name or have a name and decide(), got {type(given).__name__}")
    return given
