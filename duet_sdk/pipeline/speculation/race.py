"""The generator tries alone, before the reasoner is asked or at the same time; if it is sure, its answer goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from duet_sdk.errors import BackendError, BudgetExceeded, DeadlineExceeded
from duet_sdk.events import GateDecided
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.asking import Guidance
from duet_sdk.pipeline.deciding import SHARE_OF_DEADLINE
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.speculation.room import Way, way_to_try
from duet_sdk.pipeline.speculation.tasks import Beside, Work
from duet_sdk.pipeline.speculation.trial import NO_LOGPROBS, NO_ROOM, Trial, check_logprobs
from duet_sdk.reply import GateDecision, Signal

_ONE_BY_ONE = "the budget has no room for both at once, so the generator tried first"
_TOO_LATE = "the signal came before the generator's first tokens"


class Asks(Protocol):
    """The reasoner's stage of a request."""

    async def run(self) -> Guidance:
        """Ask for the signal."""

    def not_needed(self) -> None:
        """No more of the signal is needed than there is."""


Ask: TypeAlias = Callable[[Callable[[], bool]], Asks]
"""Makes the reasoner's stage; it is given what says whether an answer is being judged already."""


async def gated_by_tokens(flow: Flow, gate: TokenGate, ask: Ask) -> Guidance:
    """Everything up to the answer: the generator's try, the gate's decision, and the signal where it is needed.

    Args:
        flow: the request.
        gate: who judges the try.
        ask: makes the reasoner's stage.

    Raises:
        ConfigError: the generator reports no logprobs; nothing was spent.
        DuetError: as the reasoner's stage.
    """
    way: Way
    try:
        await flow.in_time(check_logprobs(flow))
        if flow.chain("generator")[0].withholds_logprobs:
            way, untried = "not", NO_LOGPROBS
        else:
            way, untried = await way_to_try(flow, gate), NO_ROOM
    except BackendError as error:
        way, untried = "not", f"the generator failed with {type(error).__name__}"
    agent = flow.draft.agent
    waits = agent is not None and agent.waits_for_doubt
    if way == "before" or (way == "beside" and waits):
        return await _before(flow, gate, ask, note="" if gate.when == "before" or waits else _ONE_BY_ONE)
    # In a race the reasoner is asked whatever the verdict will be: an agent's limit must allow that first.
    permitted = _permitted(flow, GateDecision(True, gate.name, reason=untried))
    if way == "beside" and permitted.ask:
        return await _beside(flow, gate, ask)
    _decide(flow, permitted)
    if permitted.ask:
        return await ask(lambda: False).run()
    flow.draft.reuse_signal()
    return _nobody_asked(flow)


def _nobody_asked(flow: Flow) -> Guidance:
    return Guidance(flow.parts.reasoners[0])


async def _before(flow: Flow, gate: TokenGate, ask: Ask, *, note: str) -> Guidance:
    """The reasoner is asked once the generator was found to be in doubt."""
    budget = flow.budget
    deadline_s = budget.limits.deadline_s
    until = None if deadline_s is None else budget.started + deadline_s * SHARE_OF_DEADLINE
    trial = Trial(flow, gate, _nobody_asked(flow), until=until)
    try:
        await trial.judge()
        decision = trial.decision
        if note:
            decision = replace(decision, reason=f"{decision.reason}; {note}")
        decision = _permitted(flow, decision)
        _decide(flow, decision)
        if not decision.ask:
            _answers_alone(flow)
            return replace(_nobody_asked(flow), begun=trial.adopt())
    finally:
        await trial.drop()
    return await ask(lambda: False).run()


async def _beside(flow: Flow, gate: TokenGate, ask: Ask) -> Guidance:
    """Both begin at once; the reasoner is stopped where the generator is sure, the generator where it is not."""
    trial = Trial(flow, gate, _nobody_asked(flow))
    race: _Race | None = None
    try:
        async with Beside() as beside:
            race = _Race(flow, trial, beside, ask)
            return await race.run()
    except BaseException:
        await trial.abandon()
        if race is not None:
            await race.abandon()
        raise


class _Race:
    """What is known while both are at work."""

    def __init__(self, flow: Flow, trial: Trial, beside: Beside, ask: Ask) -> None:
        self._flow = flow
        self._trial = trial
        self._beside = beside
        self._ask = ask
        self._trying = beside.start(trial.judge)
        self._stage = ask(self._is_judging)
        self._asking = beside.start(self._stage.run)
        self._undecided = True
        self._signalled: Guidance | None = None

    def _is_judging(self) -> bool:
        return self._trial.is_judged

    async def run(self) -> Guidance:
        """Until there is a signal, or an answer that goes on.

        Raises:
            BaseException: what ended one of the two; the other has been stopped.
        """
        while True:
            work = await self._beside.next()
            if work.cancelled() or work.exception() is not None:
                if work.cancelled() or not self._has_no_room(work):
                    await self._stop_asking()
                    await self._stop_trying()
                    work.result()  # raises
                await self._ask_alone()
                continue
            work.result()()  # raises what ended it otherwise
            found = await (self._tried() if work is self._trying else self._asked(self._asking.result()()))
            if found is not None:
                return found

    def _has_no_room(self, work: Work[Any]) -> bool:
        """Whether it is only the try that leaves the reasoner no room in a ledger."""
        error = work.exception()
        refused = isinstance(error, BudgetExceeded) and not isinstance(error, DeadlineExceeded)
        return refused and work is self._asking and self._undecided

    async def _ask_alone(self) -> None:
        """Let the reasoner begin again, without the concurrent try."""
        await self._stop_trying()
        self._undecided = False
        self._stage = self._ask(self._is_judging)
        self._asking = self._beside.start(self._stage.run)
        _decide(self._flow, GateDecision(True, self._flow.parts.gate.name, reason=NO_ROOM))

    async def _tried(self) -> Guidance | None:
        """The verdict is there."""
        trial, decision = self._trial, self._trial.decision
        self._undecided = False
        _decide(self._flow, decision)
        if not trial.runs or (decision.ask and self._signalled is None):
            await trial.drop()
            return self._signalled
        begun = trial.adopt()
        if self._signalled is not None:  # the reasoner failed, so that the generator answers alone, sure or not
            return replace(self._signalled, begun=begun)
        await self._stop_asking()
        _answers_alone(self._flow)
        return replace(_nobody_asked(self._flow), begun=begun)

    async def _asked(self, guidance: Guidance) -> Guidance | None:
        """The reasoner is done, with a signal or without one."""
        self._signalled = guidance
        if not self._undecided:
            return guidance
        if not self._flow.draft.signal.text:
            return None  # the generator answers alone, and it has begun already
        _decide(self._flow, GateDecision(True, self._flow.parts.gate.name, reason=_TOO_LATE))
        await self._stop_trying()
        return guidance

    async def abandon(self) -> None:
        """Settle an answer that the reasoner's stage has left, unless it was continued."""
        asking = self._asking
        if asking.done() and not asking.cancelled() and asking.exception() is None:
            with suppress(KeyboardInterrupt, SystemExit):  # raised already where somebody asked for the result
                await asking.result()().abandon()

    async def _stop_trying(self) -> None:
        await self._beside.stop(self._trying)
        await self._trial.drop()

    async def _stop_asking(self) -> None:
        self._stage.not_needed()
        await self._beside.stop(self._asking)


def _permitted(flow: Flow, decision: GateDecision) -> GateDecision:
    """The decision as far as an agent's run allows it."""
    return decision if flow.draft.agent is None else flow.draft.agent.allow(decision)


def _decide(flow: Flow, decision: GateDecision) -> None:
    flow.draft.gate = decision
    flow.tell(GateDecided(decision))


def _answers_alone(flow: Flow) -> None:
    """The generator's own answer stands; what there is of a new signal is discarded."""
    draft = flow.draft
    draft.account.discard("signal", "wrap_up")
    draft.signal, draft.handoff = Signal(), None
    draft.reuse_signal()
