"""Gates that do not look at the request."""

from __future__ import annotations

from dataclasses import dataclass

from duet_sdk.reply import GateDecision
from duet_sdk.request import Request


@dataclass(frozen=True, slots=True)
class Always:
    """The reasoner is always asked."""

    name: str = "always"

    async def decide(self, request: Request) -> GateDecision:
        """Ask, whatever the request."""
        return GateDecision(ask=True, policy=self.name)


@dataclass(frozen=True, slots=True)
class Never:
    """The generator answers alone."""

    name: str = "never"

    async def decide(self, request: Request) -> GateDecision:
        """Do not ask, whatever the request."""
        return GateDecision(ask=False, policy=self.name)
