"""The flow of one request, as one async generator of events: gate → reasoner → signal → handoff → generator → reply."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from duet_sdk.errors import BackendError, DuetError
from duet_sdk.events import Done, Event, FellBack, GateDecided
from duet_sdk.gate import Always, Gate, Never
from duet_sdk.pipeline.answer_stage import Answering
from duet_sdk.pipeline.deciding import decided
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.models import Parts
from duet_sdk.pipeline.signal_stage import Signalling
from duet_sdk.pipeline.speculation.progressive import progressive_signal
from duet_sdk.pipeline.speculation.race import gated_by_tokens
from duet_sdk.pipeline.told import Told
from duet_sdk.receipt import Alone
from duet_sdk.reply import GateDecision

_log = logging.getLogger(__name__)


async def run(parts: Parts, draft: Draft) -> AsyncGenerator[Event, None]:
    """Everything that happens in one request, in order; `Done` is last.

    Closing the generator ends the running stage and settles what it held.

    Raises:
        DuetError: what ended the request instead.
    """
    reasoner = parts.reasoners[0]
    alone_tokens = parts.calibration.alone_output_tokens if parts.calibration is not None else None
    draft.alone = Alone(reasoner.name, reasoner.backend.price, parts.prices, alone_tokens)
    own = (reasoner.identity, parts.generators[0].identity)
    with draft.observer.request(draft), draft.as_turn(parts.runs, models=own):
        flow = Flow(parts, draft)
        if draft.request.mode == "duet" and (decision := await flow.in_time(_decide(flow))) is not None:
            draft.gate = decision
            yield GateDecided(decision)
        try:
            async with aclosing(_stages(flow)) as stages:
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
            async with aclosing(_stages(Flow(other, draft, allowed=flow.allowed))) as stages:
                async for event in stages:
                    yield event
            if draft.served_by in ("pair", "pair_cut"):
                draft.served_by = "fallback_pair"
        reply = draft.done()
    yield Done(reply)


async def _decide(flow: Flow) -> GateDecision | None:
    """Whether the reasoner is asked; None where the generator's first tokens are to tell."""
    agent, gate = flow.draft.agent, flow.parts.gate
    settled = agent.decide(gate) if agent is not None else None
    if settled is not None:
        return settled
    if isinstance(gate, Always | Never):
        with flow.draft.observer.deciding(gate.name):
            decision = await gate.decide(flow.request)  # within no time limit, which would cost more than that
    elif isinstance(gate, Gate):
        decision = await decided(flow, gate, _watched(flow, gate))
    else:
        return None
    return decision if agent is None else agent.allow(decision)


async def _watched(flow: Flow, gate: Gate) -> object:
    with flow.draft.observer.deciding(gate.name):
        return await gate.decide(flow.request)


def _before_answer(flow: Flow) -> AsyncGenerator[Event, None] | None:
    """What comes before the answer, as mode and gate say; None for nothing."""
    parts, mode, decision = flow.parts, flow.request.mode, flow.draft.gate
    if mode not in ("duet", "signal") or (decision is not None and not decision.ask):
        return None
    if mode == "duet" and decision is None and not isinstance(parts.gate, Gate):
        return _told(flow, gated_by_tokens(flow, parts.gate, lambda: _asked(flow)))
    return _told(flow, _asked(flow)) if parts.progressive is not None else _asked(flow)


def _asked(flow: Flow) -> AsyncGenerator[Event, None]:
    """The reasoner's stage."""
    options = flow.parts.progressive
    if options is None or flow.request.mode != "duet":
        return Signalling(flow).events()
    return progressive_signal(flow, options)


async def _told(flow: Flow, before: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, with the ends of attempts that were stopped before they could tell of them."""
    told, ended = Told(flow.draft.account), None
    async with aclosing(before):
        try:
            async for event in before:
                told.note(event)
                yield event
        except DuetError as error:
            ended = error
    for event in told.missing():
        yield event
    if ended is not None:
        raise ended


async def _stages(flow: Flow) -> AsyncGenerator[Event, None]:
    mode = flow.request.mode
    try:
        if (before := _before_answer(flow)) is not None:
            async with aclosing(before):
                async for event in before:
                    yield event
        elif mode == "duet":
            flow.draft.reuse_signal()
        if mode != "signal":
            async with aclosing(Answering(flow).events("reasoner" if mode == "reasoner" else "generator")) as answering:
                async for event in answering:
                    yield event
    finally:
        if flow.adopted is not None:
            async with flow.adopted:  # harmless where the answering stage has left it
                pass
