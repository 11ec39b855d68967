"""What a gate is: two protocols, by what the decision rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from duet_sdk.reply import GateDecision
from duet_sdk.request import Request
from duet_sdk.types import TokenLogprob


@runtime_checkable
class Gate(Protocol):
    """Decides for each request in mode ``duet`` before any model is called."""

    @property
    def name(self) -> str:
        """The policy's name, as traces show it."""

    async def decide(self, request: Request) -> GateDecision:
        """Whether the reasoner is asked.

        What this raises counts as yes, and so does no answer within ``gate_deadline_s``, so that no reply gets worse
        by it. Only errors from DUET's own tree reach the caller.
        """


@runtime_checkable
class TokenGate(Protocol):
    """Decides for each request in mode ``duet`` by the first tokens of what the generator answers alone.

    Where they are found good that answer goes on, and nothing of it is generated twice; else it is stopped, charged
    as an attempt of kind ``probe``, and the reasoner's signal is used. The generator's backend must report logprobs.
    """

    @property
    def name(self) -> str:
        """The policy's name, as traces show it."""

    @property
    def first_tokens(self) -> int:
        """How many tokens it wants to see, at least 1; an answer that is shorter is judged whole."""

    @property
    def when(self) -> Literal["before", "beside"]:
        """Whether the reasoner is asked only after the verdict, or at once and stopped where it is not needed."""

    async def judge(self, request: Request, tokens: Sequence[TokenLogprob]) -> GateDecision:
        """Whether the reasoner is needed, by the first answer's tokens.

        There is at least one, in order, with natural logarithms. Exceptions and time are dealt with as in
        `Gate.decide`.
        """
