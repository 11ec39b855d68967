"""The flow of one request, as one async generator of events: gate → reasoner → signal → handoff → generator → reply."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from duet_sdk.errors import BackendError, DuetError
from duet_sdk.events import Done, Event, FellBack, GateDecided
from duet_sdk.pipeline.answering import Answering
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.parts import Parts
from duet_sdk.pipeline.signalling import Signalling
from duet_sdk.receipt import Alone
from duet_sdk.types import GateDecision

_log = logging.getLogger(__name__)


async def run(parts: Parts, draft: Draft) -> AsyncGenerator[Event, None]:
    """Everything that happens in one request, in order; `Done` is last.

    Closing the generator ends the running stage and settles what it held.

    Raises:
        DuetError: what ended the request instead.
    """
    reasoner = parts.reasoners[0]
    own = (reasoner.identity, parts.generators[0].identity)
    with draft.observer.request(draft), draft.as_turn(parts.runs, models=own):
        flow = Flow(parts, draft)
        draft.alone = Alone(reasoner.name, reasoner.backend.price, parts.prices, parts.alone_output_tokens)
        ask = draft.request.mode in ("duet", "signal")
        if draft.request.mode == "duet":
            asked_s = flow.budget.elapsed_s()
            decision = draft.gate = await flow.in_time(_decide(flow))
            draft.account.gate_s = flow.budget.elapsed_s() - asked_s
            ask = decision.ask
            yield GateDecided(decision)
        try:
            async with aclosing(_stages(flow, ask=ask)) as stages:
                async for event in stages:
                    yield event
        except BackendError as error:
            other = parts.fallback
            handed_on = draft.answered and not draft.request.whole
            if other is None or handed_on or not is_outage(error, spent=draft.account.spent):
                raise
            name = f"{other.reasoners[0].name} with {other.generators[0].name}"
            _log.warning("the pair failed with %s: %s takes over", type(error).__name__, name)
            discard = draft.start_over()
            yield FellBack("generator", "fallback_pair", type(error).__name__, discard, model=name)
            async with aclosing(_stages(Flow(other, draft, allowed=flow.allowed), ask=ask)) as stages:
                async for event in stages:
                    yield event
            if draft.served_by in ("pair", "pair_cut"):
                draft.served_by = "fallback_pair"
        reply = draft.done()
    yield Done(reply)


async def _stages(flow: Flow, *, ask: bool) -> AsyncGenerator[Event, None]:
    if ask:
        async with aclosing(Signalling(flow).events()) as signalling:
            async for event in signalling:
                yield event
    elif flow.request.mode == "duet":
        flow.draft.reuse_signal()
    mode = flow.request.mode
    if mode != "signal":
        async with aclosing(Answering(flow).events("reasoner" if mode == "reasoner" else "generator")) as answering:
            async for event in answering:
                yield event


async def _decide(flow: Flow) -> GateDecision:
    agent = flow.draft.agent
    if agent is None:
        return await _ask_gate(flow)
    return agent.decide() or agent.allow(await _ask_gate(flow))


async def _ask_gate(flow: Flow) -> GateDecision:
    gate = flow.parts.gate
    try:
        with flow.draft.observer.deciding(gate.name):
            decision: object = await gate.decide(flow.request)
        if isinstance(decision, GateDecision):
            return decision
        problem = f"gave a {type(decision).__name__}"
    except DuetError:
        raise
    except Exception as error:  # noqa: BLE001  # a user's gate may raise anything; no answer gets worse by it
        problem = f"failed with {type(error).__name__}"
    _log.warning("gate %s %s; the reasoner is asked", gate.name, problem)
    return GateDecision(ask=True, policy=gate.name, reason=f"the gate {problem}")
