"""One request, start to finish: gate → reasoner → signal → handoff → generator → reply."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from duet_sdk.errors import BackendError
from duet_sdk.events import FellBack, GateDecided
from duet_sdk.gate import Always, Gate, Never
from duet_sdk.pipeline.answer_stage import AnswerStage
from duet_sdk.pipeline.asking import Guidance
from duet_sdk.pipeline.causes import cause
from duet_sdk.pipeline.deciding import decided
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.models import Parts
from duet_sdk.pipeline.outbox import Outbox
from duet_sdk.pipeline.signal_stage import SignalStage
from duet_sdk.pipeline.speculation.progressive import ProgressiveStage
from duet_sdk.pipeline.speculation.race import Asks, gated_by_tokens
from duet_sdk.receipt import ReasonerOnly
from duet_sdk.reply import GateDecision, Reply

_log = logging.getLogger(__name__)


async def answer(parts: Parts, draft: Draft, outbox: Outbox) -> Reply:
    """Everything that happens in one request, in order, sent to the outbox as it happens.

    Cancelling it ends the running stage and settles what it held.

    Raises:
        DuetError: what ended the request instead.
    """
    reasoner = parts.reasoners[0]
    reasoner_only_tokens = parts.calibration.alone_output_tokens if parts.calibration is not None else None
    draft.reasoner_only = ReasonerOnly(reasoner.name, reasoner.backend.price, parts.prices, reasoner_only_tokens)
    with parts.lifetime.working(), outbox.observer.request(draft):
        draft.begin_turn(parts.runs, models=(reasoner.identity, parts.generators[0].identity))
        try:
            flow = Flow(parts, draft, outbox)
            if flow.request.mode == "duet" and (decision := await flow.in_time(_decide(flow))) is not None:
                draft.gate = decision
                flow.tell(GateDecided(decision))
            try:
                await _stages(flow)
            except BackendError as error:
                await _stages(_taken_over(flow, error))
                if draft.served_by in ("pair", "pair_cut"):
                    draft.served_by = "fallback_pair"
            return draft.done()
        finally:
            draft.end_turn()


def _taken_over(flow: Flow, error: BackendError) -> Flow:
    """The request on its way through the pair behind the one that failed.

    Raises:
        BackendError: there is none, or it must not take over.
    """
    draft, other = flow.draft, flow.parts.fallback
    handed_on = draft.answered and not flow.request.whole
    if other is None or handed_on or not is_outage(error, spent=draft.account.spent):
        raise error
    name = f"{other.reasoners[0].name} with {other.generators[0].name}"
    said = cause(error)
    _log.warning("the pair failed with %s (%s); %s takes over", type(error).__name__, said, name)
    draft.causes.append(f"the pair failed ({said}) and {name} took over")
    discard = draft.start_over()
    flow.tell(FellBack("generator", "fallback_pair", type(error).__name__, discard, model=name, error=said))
    return Flow(other, draft, flow.outbox, allowed=flow.allowed)


async def _stages(flow: Flow) -> None:
    """The signal, where one is needed, and the answer."""
    mode = flow.request.mode
    guidance = await _signal(flow)
    if mode == "signal":
        return
    try:
        await AnswerStage(flow, guidance).run("reasoner" if mode == "reasoner" else "generator")
    finally:
        await guidance.abandon()


def _signal(flow: Flow) -> Awaitable[Guidance]:
    """Everything that comes before the answer, as mode and gate say."""
    parts, mode, decision = flow.parts, flow.request.mode, flow.draft.gate

    def stage(is_judging: Callable[[], bool]) -> Asks:
        if parts.progressive is None or mode != "duet":
            return SignalStage(flow)
        return ProgressiveStage(flow, parts.progressive, is_judging)

    if mode == "duet" and decision is None and not isinstance(parts.gate, Gate):
        return gated_by_tokens(flow, parts.gate, stage)
    if mode == "signal" or (mode == "duet" and (decision is None or decision.ask)):
        return stage(lambda: False).run()
    return _nobody_asked(flow)


async def _nobody_asked(flow: Flow) -> Guidance:
    if flow.request.mode == "duet":
        flow.draft.reuse_signal()
    return Guidance(flow.parts.reasoners[0])


async def _decide(flow: Flow) -> GateDecision | None:
    """Whether the reasoner is asked; None where the generator's first tokens are to tell."""
    agent, gate = flow.draft.agent, flow.parts.gate
    settled = agent.decide(gate) if agent is not None else None
    if settled is not None:
        return settled
    if isinstance(gate, Always | Never):
        with flow.outbox.observer.deciding(gate.name):
            decision = await gate.decide(flow.request)  # within no time limit, which would cost more than that
    elif isinstance(gate, Gate):
        decision = await decided(flow, gate, _watched(flow, gate))
    else:
        return None
    return decision if agent is None else agent.allow(decision)


async def _watched(flow: Flow, gate: Gate) -> object:
    with flow.outbox.observer.deciding(gate.name):
        return await gate.decide(flow.request)
