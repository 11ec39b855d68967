"""The flow of one request, as one async generator of events: gate → reasoner → signal → handoff → generator → reply."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from duet_sdk.errors import DuetError
from duet_sdk.events import Done, Event, GateDecided
from duet_sdk.pipeline.answering import Answering
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.parts import Parts
from duet_sdk.pipeline.signalling import Signalling
from duet_sdk.types import GateDecision

_log = logging.getLogger(__name__)


async def run(parts: Parts, draft: Draft) -> AsyncGenerator[Event, None]:
    """Everything that happens in one request, in order; `Done` is last.

    Closing the generator ends the running stage and settles what it held.

    Raises:
        DuetError: what ended the request instead.
    """
    flow = Flow(parts, draft)
    mode = flow.request.mode
    ask = mode in ("duet", "signal")
    if mode == "duet":
        decision = draft.gate = await flow.in_time(_decide(flow))
        yield GateDecided(decision)
        if not decision.ask:
            ask, draft.served_by = False, "generator"
    if ask:
        async with aclosing(Signalling(flow).events()) as signalling:
            async for event in signalling:
                yield event
    if mode != "signal":
        async with aclosing(Answering(flow).events("reasoner" if mode == "reasoner" else "generator")) as answering:
            async for event in answering:
                yield event
    yield Done(draft.reply())


async def _decide(flow: Flow) -> GateDecision:
    gate = flow.parts.gate
    try:
        return await gate.decide(flow.request)
    except DuetError:
        raise
    except Exception as error:  # noqa: BLE001  # a user's gate may raise anything; no answer gets worse by it
        _log.warning("gate %s failed with %s; the reasoner is asked", gate.name, type(error).__name__)
        return GateDecision(ask=True, policy=gate.name, reason=f"the gate failed with {type(error).__name__}")
