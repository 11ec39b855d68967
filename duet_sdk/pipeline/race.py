"""The generator tries alone, before the reasoner is asked or beside it; where it is sure, its answer goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from duet_sdk.errors import BackendError
from duet_sdk.events import Event, GateDecided
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.beside import Beside
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.gating import SHARE_OF_DEADLINE
from duet_sdk.pipeline.room import way_to_try
from duet_sdk.pipeline.tentative import Tentative, check_logprobs
from duet_sdk.types import GateDecision, Signal

_NO_ROOM = "the budget leaves the generator no room to try"
_ONE_BY_ONE = "the budget does not hold both at once, so the generator tried first"
_TOO_LATE = "the signal was there before the generator's first tokens"


async def gated_by_tokens(
    flow: Flow, gate: TokenGate, asked: AsyncGenerator[Event, None]
) -> AsyncGenerator[Event, None]:
    """Everything up to the answer: the generator's try, the gate's decision, and the signal where it is needed.

    An answer that goes on is left as ``flow.adopted``.

    Args:
        flow: the request.
        gate: who judges the try.
        asked: the reasoner's stage; it begins and is closed here.

    Raises:
        ConfigError: the generator reports no logprobs; nothing was spent.
        DuetError: as the reasoner's stage.
    """
    async with aclosing(asked):
        try:
            await flow.in_time(check_logprobs(flow))
            way = await way_to_try(flow, gate)
        except BackendError as error:
            yield _decide(
                flow, GateDecision(True, gate.name, reason=f"the generator failed with {type(error).__name__}")
            )
            way = None
        if way == "beside":
            stages = _beside(flow, gate, asked)
        elif way == "before":
            stages = _before(flow, gate, asked, note="" if gate.when == "before" else _ONE_BY_ONE)
        else:
            if way == "not":
                yield _decide(flow, GateDecision(True, gate.name, reason=_NO_ROOM))
            stages = asked
        async with aclosing(stages):
            async for event in stages:
                yield event


async def _before(
    flow: Flow, gate: TokenGate, asked: AsyncGenerator[Event, None], *, note: str
) -> AsyncGenerator[Event, None]:
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
        reason = f"{decision.reason}; {note}" if note else decision.reason
        yield _decide(flow, replace(decision, reason=reason))
        if not decision.ask and tentative.runs:
            tentative.adopt()
            _answers_alone(flow)
            return
        for event in await tentative.drop():
            yield event
    finally:
        if flow.adopted is not tentative:
            await tentative.drop()
    async for event in asked:
        yield event


async def _beside(flow: Flow, gate: TokenGate, asked: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Both begin at once; the reasoner is stopped where the generator is sure, the generator where it is not."""
    tentative = Tentative(flow, gate)
    try:
        async with Beside() as beside, aclosing(_Race(flow, tentative, beside, asked).events()) as racing:
            async for event in racing:
                yield event
    finally:
        if flow.adopted is not tentative:
            await tentative.drop()


class _Race:
    """What is known while both are at work."""

    def __init__(self, flow: Flow, tentative: Tentative, beside: Beside, asked: AsyncGenerator[Event, None]) -> None:
        self._flow = flow
        self._tentative = tentative
        self._beside = beside
        self._trying = beside.start(tentative.judging())
        self._asking = beside.start(asked)
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
            if work.error is not None:
                for event in [*await self._stop_asking(), *await self._stop_trying()]:
                    yield event
                raise work.error
            for event in await (self._tried() if work is self._trying else self._asked()):
                yield event

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
        told = await self._beside.stop(self._trying)
        await self._tentative.drop()
        return [*told, *self._trying.ends(self._flow.draft.account)]

    async def _stop_asking(self) -> list[Event]:
        if self._flow.writing is not None:
            self._flow.writing.not_needed()
        told = await self._beside.stop(self._asking)
        return [*told, *self._asking.ends(self._flow.draft.account)]


def _decide(flow: Flow, decision: GateDecision) -> GateDecided:
    flow.draft.gate = decision
    return GateDecided(decision)


def _answers_alone(flow: Flow) -> None:
    """The generator's own answer stands; what there is of a signal was in vain."""
    draft = flow.draft
    draft.account.discard("signal", "wrap_up")
    draft.signal, draft.handoff, draft.served_by = Signal(), None, "generator"
