"""Does the budget hold a tentative answer beside the pair's own stages, or before them?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, TypeAlias

from duet_sdk.backends.protocol import Call
from duet_sdk.budget import UsdOf
from duet_sdk.context import flatten_tools, without_images
from duet_sdk.errors import BackendError
from duet_sdk.gate import TokenGate
from duet_sdk.handoff import alone
from duet_sdk.pipeline.fit import price_bound, prompt_size
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.parts import StageModel
from duet_sdk.pipeline.signalling import Asking

Way: TypeAlias = Literal["beside", "before", "not"]
"""When the generator tries alone: beside the reasoner, before it, or not at all."""


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
    request, limits, model = flow.request, flow.budget.limits, flow.chain("generator")[0]
    answer = (limits.answer_tokens or 1) * request.n
    able = await model.connect()
    seen = flow.seen_by("generator")
    call = replace(alone(seen if able.tools else flatten_tools(seen), prompts=flow.parts.prompts), tools=request.tools)
    prompt = await _tokens(model, call)
    usd_of = price_bound(flow.parts.prices, model.name, model.backend, flow.budget)
    pair = await _pair(flow, model, answer, usd_of)
    whole, judged = (Bound.of(prompt, count, usd_of) for count in (answer, gate.first_tokens * request.n))
    if gate.when == "beside" and flow.budget.has_room((pair + whole).tokens, (pair + whole).usd):
        return "beside"
    # Should the generator write its whole limit before it can be stopped, what it takes more is the answer's share.
    return "before" if flow.budget.has_room((pair + judged).tokens, (pair + judged).usd) else "not"


async def _pair(flow: Flow, generator: StageModel, answer: int, generator_usd: UsdOf) -> Bound:
    """A signal of full length, its wrap-up, and an answer from it."""
    parts, request, limits, reasoner = flow.parts, flow.request, flow.budget.limits, flow.chain("reasoner")[0]
    signal = limits.signal_tokens or 1
    able = await reasoner.connect()
    handoff = await flow.handoff(reasoner, generator)
    seen = flatten_tools(flow.seen_by("reasoner"))
    seen = seen if able.images else without_images(seen)
    asked = await _tokens(reasoner, handoff.ask(seen, limit=signal, prompts=parts.prompts, tools=request.tools))
    again = asked + signal if parts.cut.reserve else 0
    guided = alone(flow.seen_by("generator"), prompts=parts.prompts)
    if handoff.name == "instruct":
        guided = await handoff.answer(flow.seen_by("generator"), "", prompts=parts.prompts)
    read = await _tokens(generator, replace(guided, tools=request.tools))
    reasoner_usd = price_bound(parts.prices, reasoner.name, reasoner.backend, flow.budget)
    return Bound.of(asked + again, signal, reasoner_usd) + Bound.of(read + signal, answer, generator_usd)


async def _tokens(model: StageModel, call: Call) -> int:
    return (await prompt_size(model.backend, call, exact=True)).tokens


async def room_for_probe(flow: Flow, asking: Asking, text: str) -> bool:
    """Whether a probe with this much of the signal leaves room for the rest of it and an answer of full length.

    The rest of the signal is held already.
    """
    if not flow.budget.counts:
        return True
    parts, request, model = flow.parts, flow.request, flow.chain("generator")[0]
    answer = (flow.budget.limits.answer_tokens or 1) * request.n
    call = await asking.handoff.answer(flow.seen_by("generator"), text, prompts=parts.prompts)
    prompt = await _tokens(model, replace(call, tools=request.tools))
    usd_of = price_bound(parts.prices, model.name, model.backend, flow.budget)
    bound = Bound.of(prompt, answer, usd_of) + Bound.of(prompt + asking.limit, answer, usd_of)
    if parts.cut.reserve:
        bound += Bound.of(asking.prompt.tokens + asking.limit, asking.limit, asking.usd_of)
    return flow.budget.has_room(bound.tokens, bound.usd)
