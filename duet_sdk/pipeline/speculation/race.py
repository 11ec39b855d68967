"""The generator tries alone, before the reasoner is asked or beside it; where it is sure, its answer goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias

from duet_sdk.errors import BackendError, BudgetExceeded, DeadlineExceeded
from duet_sdk.events import Event, GateDecided
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.deciding import SHARE_OF_DEADLINE
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.speculation.room import way_to_try
from duet_sdk.pipeline.speculation.tasks import Beside, Work
from duet_sdk.pipeline.speculation.trial import NO_ROOM, Tentative, check_logprobs
from duet_sdk.reply import GateDecision, Signal

_ONE_BY_ONE = "the budget does not hold both at once, so the generator tried first"
_TOO_LATE = "the signal was there before the generator's first tokens"

Ask: TypeAlias = Callable[[], AsyncGenerator[Event, None]]
"""Makes the reasoner's stage of this request."""


async def gated_by_tokens(flow: Flow, gate: TokenGate, ask: Ask) -> AsyncGenerator[Event, None]:
    """Everything up to the answer: the generator's try, the gate's decision, and the signal where it is needed.

    An answer that goes on is left as ``flow.adopted``.

    Args:
        flow: the request.
        gate: who judges the try.
        ask: makes the reasoner's stage.

    Raises:
        ConfigError: the generator reports no logprobs; nothing was spent.
        DuetError: as the reasoner's stage.
    """
    try:
        await flow.in_time(check_logprobs(flow))
        way, untried = await way_to_try(flow, gate), NO_ROOM
    except BackendError as error:
        way, untried = "not", f"the generator failed with {type(error).__name__}"
    agent = flow.draft.agent
    waits = agent is not None and agent.waits_for_doubt
    if way == "before" or (way == "beside" and waits):
        stages = _before(flow, gate, ask, note="" if gate.when == "before" or waits else _ONE_BY_ONE)
    else:
        # In a race the reasoner is asked whatever the verdict will be: an agent's limit must allow that first.
        permitted = _permitted(flow, GateDecision(True, gate.name, reason=untried))
        both = way == "beside" and permitted.ask
        stages = _beside(flow, gate, ask) if both else _untried(flow, permitted, ask)
    async with aclosing(stages):
        async for event in stages:
            yield event


async def _untried(flow: Flow, decision: GateDecision, ask: Ask) -> AsyncGenerator[Event, None]:
    """The generator's try would be in vain or cannot be: the reasoner is asked at once, if it may be."""
    yield _decide(flow, decision)
    if not decision.ask:
        flow.draft.reuse_signal()
        return
    async with aclosing(ask()) as asking:
        async for event in asking:
            yield event


async def _before(flow: Flow, gate: TokenGate, ask: Ask, *, note: str) -> AsyncGenerator[Event, None]:
    """The reasoner is asked once the generator was found to be in doubt."""
    budget = flow.budget
    deadline_s = budget.limits.deadline_s
    until = None if deadline_s is None else budget.started + deadline_s * SHARE_OF_DEADLINE
    tentative = Tentative(flow, gate, until=until)
    try:
        async with aclosing(tentative.judging()) as judging:
            async for event in judging:
                yield event
        decision = tentative.decision
        if note:
            decision = replace(decision, reason=f"{decision.reason}; {note}")
        decision = _permitted(flow, decision)
        yield _decide(flow, decision)
        if not decision.ask:
            if tentative.runs:
                tentative.adopt()
            _answers_alone(flow)
            return
        for event in await tentative.drop():
            yield event
    finally:
        if flow.adopted is not tentative:
            await tentative.drop()
    async with aclosing(ask()) as asking:
        async for event in asking:
            yield event


async def _beside(flow: Flow, gate: TokenGate, ask: Ask) -> AsyncGenerator[Event, None]:
    """Both begin at once; the reasoner is stopped where the generator is sure, the generator where it is not."""
    tentative = Tentative(flow, gate)
    try:
        async with (
            Beside() as beside,
            aclosing(_Race(flow, tentative, beside, ask).events()) as racing,
        ):
            async for event in racing:
                yield event
    finally:
        if flow.adopted is not tentative:
            await tentative.drop()


class _Race:
    """What is known while both are at work."""

    def __init__(self, flow: Flow, tentative: Tentative, beside: Beside, ask: Ask) -> None:
        self._flow = flow
        self._tentative = tentative
        self._beside = beside
        self._ask = ask
        self._trying = beside.start(tentative.judging())
        self._asking = beside.start(ask())
        self._undecided = True
        self._reasoner_done = False
        self._over = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Until there is a signal, or an answer that goes on.

        Raises:
            BaseException: what ended one of the two; the other has been stopped.
        """
        while not self._over:
            work, event = await self._beside.next()
            if event is not None:
                yield event
                continue
            if work.error is not None and not self._has_no_room(work):
                for event in [*await self._stop_asking(), *await self._stop_trying()]:
                    yield event
                raise work.error
            for event in await self._step(work):
                yield event

    async def _step(self, work: Work) -> list[Event]:
        if work is self._trying:
            return await self._tried()
        return await (self._asked() if work.error is None else self._ask_alone())

    def _has_no_room(self, work: Work) -> bool:
        """Whether it is only the try that leaves the reasoner no room in a ledger."""
        refused = isinstance(work.error, BudgetExceeded) and not isinstance(work.error, DeadlineExceeded)
        return refused and work is self._asking and self._undecided

    async def _ask_alone(self) -> list[Event]:
        """Let the reasoner begin again, without the try beside it."""
        told = await self._stop_trying()
        self._undecided = False
        self._asking = self._beside.start(self._ask())
        return [*told, _decide(self._flow, GateDecision(True, self._flow.parts.gate.name, reason=NO_ROOM))]

    async def _tried(self) -> list[Event]:
        """The verdict is there."""
        tentative, decision = self._tentative, self._tentative.decision
        self._undecided = False
        told: list[Event] = [_decide(self._flow, decision)]
        if not tentative.runs or (decision.ask and not self._reasoner_done):
            self._over = self._reasoner_done
            return [*told, *await tentative.drop()]
        self._over = True
        tentative.adopt()
        if self._reasoner_done:
            return told  # it failed, so that the generator answers alone, sure or not
        told += await self._stop_asking()
        _answers_alone(self._flow)
        return told

    async def _asked(self) -> list[Event]:
        """The reasoner is done, with a signal or without one."""
        self._reasoner_done = True
        if not self._undecided:
            self._over = True
            return []
        if not self._flow.draft.signal.text:
            return []  # the generator answers alone, and it has begun already
        self._over = True
        decision = GateDecision(True, self._flow.parts.gate.name, reason=_TOO_LATE)
        return [_decide(self._flow, decision), *await self._stop_trying()]

    async def _stop_trying(self) -> list[Event]:
        return [*await self._beside.stop(self._trying), *await self._tentative.drop()]

    async def _stop_asking(self) -> list[Event]:
        if self._flow.writing is not None:
            self._flow.writing.not_needed()
        return await self._beside.stop(self._asking)


def _permitted(flow: Flow, decision: GateDecision) -> GateDecision:
    """The decision as far as an agent's run allows it."""
    return decision if flow.draft.agent is None else flow.draft.agent.allow(decision)


def _decide(flow: Flow, decision: GateDecision) -> GateDecided:
    flow.draft.gate = decision
    return GateDecided(decision)


def _answers_alone(flow: Flow) -> None:
    """The generator's own answer stands; what there is of a new signal was in vain."""
    draft = flow.draft
    draft.account.discard("signal", "wrap_up")
    draft.signal, draft.handoff = Signal(), None
    draft.reuse_signal()
