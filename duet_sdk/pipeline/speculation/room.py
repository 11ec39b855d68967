"""Does the budget have room for a tentative answer during the pair's own stages, or before them?"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from duet_sdk.backends.base import Call
from duet_sdk.budget import UsdOf
from duet_sdk.errors import BackendError
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.admission import price_bound, prompt_size
from duet_sdk.pipeline.asking import Asking, unfilled_answer, way_of_asking
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.models import StageModel

Way: TypeAlias = Literal["beside", "before", "not"]
"""When the generator tries alone: while the reasoner works, before it, or not at all."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that some calls can use together; ``usd`` is None where no limit on money asks for it."""

    tokens: int
    usd: Decimal | None

    def __add__(self, other: Bound) -> Bound:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Bound(self.tokens + other.tokens, usd)

    @classmethod
    def of(cls, input_tokens: int, output_tokens: int, usd_of: UsdOf) -> Bound:
        """That of one call."""
        return cls(input_tokens + output_tokens, usd_of(input_tokens, output_tokens))


async def way_to_try(flow: Flow, gate: TokenGate) -> Way:
    """How the generator can try, so that whatever comes of it, a signal and an answer of full length still fit."""
    budget = flow.budget
    if not budget.counts:
        return gate.when
    try:
        return await flow.in_time(_way(flow, gate))
    except BackendError:
        return "not"  # the stages find out for themselves, and say so


async def _way(flow: Flow, gate: TokenGate) -> Way:
    reasoner, generator = flow.chain("reasoner")[0], flow.chain("generator")[0]
    parts, limits, outputs = flow.parts, flow.budget.limits, flow.request.n
    signal, answer = limits.signal_tokens, limits.answer_tokens * outputs
    handoff = await flow.handoff(reasoner, generator)
    asked = await _tokens(reasoner, (await way_of_asking(flow, reasoner, handoff, await reasoner.connect()))(signal))
    read = await _tokens(generator, await unfilled_answer(flow, generator, handoff))
    reasoner_usd, generator_usd = (
        price_bound(parts.prices, model.name, model.backend, flow.budget) for model in (reasoner, generator)
    )
    again = asked + signal if parts.cut.reserve else 0  # a wrap-up reads the prompt and the signal once more
    pair = Bound.of(asked + again, signal, reasoner_usd) + Bound.of(read + signal, answer, generator_usd)
    both = pair + Bound.of(read, answer, generator_usd)
    if gate.when == "beside" and flow.budget.has_room(both.tokens, both.usd):
        return "beside"
    # Should the generator write its whole limit before it can be stopped, what that takes more is the answer's share.
    one_by_one = pair + Bound.of(read, gate.first_tokens * outputs, generator_usd)
    return "before" if flow.budget.has_room(one_by_one.tokens, one_by_one.usd) else "not"


async def room_for_probe(flow: Flow, asking: Asking) -> bool:
    """Whether a probe leaves room for an answer of full length, and for what the signal may still need.

    What the reasoner is writing is held already; its wrap-up is not.
    """
    if not flow.budget.counts:
        return True
    parts, model = flow.parts, flow.chain("generator")[0]
    answer = flow.budget.limits.answer_tokens * flow.request.n
    read = asking.limit + await _tokens(model, await unfilled_answer(flow, model, asking.handoff))
    usd_of = price_bound(parts.prices, model.name, model.backend, flow.budget)
    needed = Bound.of(read, answer, usd_of) + Bound.of(read, answer, usd_of)
    if parts.cut.reserve:
        needed += Bound.of(asking.prompt.tokens + asking.limit, asking.limit, asking.usd_of)
    return flow.budget.has_room(needed.tokens, needed.usd)


async def _tokens(model: StageModel, call: Call) -> int:
    return (await prompt_size(model.backend, call, exact=True)).tokens
