"""What the stages of one request share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol, TypeVar

from duet_sdk._tasks import apart
from duet_sdk.agents.history import guarded, untrusted
from duet_sdk.backends.base import Call
from duet_sdk.backends.resilience import wait_s
from duet_sdk.errors import (
    BackendError,
    BoundaryRefused,
    ConfigError,
    ConnectFailed,
    DuetError,
    EndpointResting,
    InvalidRequest,
)
from duet_sdk.events import AttemptEnded, AttemptStarted, FellBack, Retried
from duet_sdk.handoff import AGENT_PROMPT, PLAN_PROMPT, Handoff, Instruct, Think
from duet_sdk.pipeline.causes import cause
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.lifetime import OutOfTime
from duet_sdk.pipeline.models import Parts, StageModel
from duet_sdk.pipeline.outbox import Outbox
from duet_sdk.policies import Prompts
from duet_sdk.reply import Attempt, StageUsage
from duet_sdk.types import AttemptKind, HandoffName, Json, Message, Stage

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
_SETTLE_S: Final = 0.25
"""How long a settle is waited for where the deadline has passed: a ledger that works is done within milliseconds."""


class StageWork(Protocol):
    """What one stage does for a request, as `Flow.down_the_chain` has it done."""

    @property
    def stage(self) -> Stage:
        """Whose models do it."""

    @property
    def until(self) -> float | None:
        """When it must be over."""

    async def attempt(self, model: StageModel, number: int) -> None:
        """Let a model try, for the time of that number; raises where it fails."""

    def start_over(self) -> bool:
        """Make ready for another try of the same model; whether anything was forgotten."""

    def void(self) -> bool:
        """Forget what a model wrote, as another one is to begin; whether there was anything."""

    def may_retry(self) -> bool:
        """Whether another try of the same model is right."""

    def may_pass_on(self) -> bool:
        """Whether another model may begin after one that failed."""


class Flow:
    """One request on its way through a pair: the pair's parts, the draft of the reply, and where events go."""

    __slots__ = (
        "_awaited",
        "_chains",
        "_read",
        "_seen",
        "allowed",
        "budget",
        "draft",
        "outbox",
        "parts",
        "prompts",
        "request",
        "tell",
    )

    def __init__(self, parts: Parts, draft: Draft, outbox: Outbox, *, allowed: frozenset[str] | None = None) -> None:
        self.parts = parts
        self.draft = draft
        self.outbox = outbox
        self.tell = outbox.tell
        self.request = draft.request
        self.budget = draft.budget
        asked = allowed if allowed is not None else self.request.allowed
        if asked is None:
            asked = frozenset((parts.reasoners[0].backend.boundary, parts.generators[0].backend.boundary))
        self.allowed = asked
        self._awaited: set[str] = set()  # models whose rest this request has waited for
        self._chains: dict[Stage, Sequence[StageModel]] | None = None  # where they are shorter than the pair's own
        self._seen: dict[Stage, tuple[Message, ...]] = {}
        self._read: dict[tuple[Stage, str], tuple[Message, ...]] | None = None  # an agent's
        self.prompts = self._prompts()
        """System prompts by stage. An agent's are the same in every turn of a run, with a signal and without."""

    def chain(self, stage: Stage) -> Sequence[StageModel]:
        """The models of a stage that this request may reach, in the order in which they are tried.

        Raises:
            BoundaryRefused: there is none; names the first.
        """
        models, allowed = self.parts.chain(stage), self.allowed
        if "any" in allowed:
            return models
        for model in models:
            if model.backend.boundary != "local" and model.backend.boundary not in allowed:
                return self._near(stage, models)
        return models

    def _near(self, stage: Stage, models: Sequence[StageModel]) -> Sequence[StageModel]:
        if self._chains is None:
            self._chains = {}
        elif stage in self._chains:
            return self._chains[stage]
        allowed = {"local", *self.allowed}
        near = [model for model in models if model.backend.boundary in allowed]
        if not near:
            raise BoundaryRefused(model=models[0].name, boundary=models[0].backend.boundary, allowed=self.allowed)
        beyond = ", ".join(model.name for model in models if model not in near)
        _log.info("%s outside this request's boundary and skipped", beyond)
        self._chains[stage] = near
        return near

    async def handoff(self, reasoner: StageModel, generator: StageModel) -> Handoff:
        """How this request's signal is handed over.

        Raises:
            ConfigError: the pair's handoff cannot be rendered for the generator.
        """
        handoff = await self.parts.handoff(reasoner, generator)
        if handoff.name == "instruct" or self._why_notes(handoff) is None:
            return handoff
        return Instruct(generator)

    def _why_notes(self, handoff: Handoff) -> str | None:
        """What keeps this request's signal from being the generator's own thought, None if nothing does."""
        request = self.request
        if any(message.role == "tool" for message in request.messages):
            # What tools wrote may have got into a signal, which is then to be read as data.
            return "a signal after tools' results is data"
        if any(message.images for message in request.messages):
            return "a prompt of token ids cannot carry images"
        if request.tools and isinstance(handoff, Think) and handoff.placer is None:
            return "tools cannot be called from a prompt of token ids"
        return None

    def prompts_of(self, handoff: Handoff) -> Prompts:
        """System prompts by stage, as that handoff wants them: a pair trained together gets none but the caller's."""
        return self.parts.prompts if handoff.name == "think" else self.prompts

    def _prompts(self) -> Prompts:
        own, agent = self.parts.prompts, self.draft.agent
        if agent is None:
            return own
        plans = PLAN_PROMPT if self.request.signal_scope is not None else None
        return Prompts(own.reasoner or plans, own.generator or AGENT_PROMPT)

    async def guided(
        self,
        reasoner: StageModel,
        model: StageModel,
        seen: Sequence[Message],
        signal: str | None,
        tools: Sequence[Json],
    ) -> tuple[HandoffName, Call]:
        """The call that makes a generator answer from a signal, without its limits, and how the signal is in it.

        Args:
            reasoner: who wrote the signal.
            model: the generator.
            seen: what it sees.
            signal: a new one; None where those that the messages carry are all there is.
            tools: what it may call.
        """
        handoff = await self.parts.handoff(reasoner, model)
        reason = None if handoff.name == "instruct" else self._why_notes(handoff)
        if reason is None:
            try:
                call = await handoff.answer(seen, signal, prompts=self.prompts_of(handoff), tools=tools)
            except InvalidRequest as refused:
                call, reason = None, str(refused)
            if call is not None:
                return handoff.name, call
        why = reason or "its server would not parse this signal as one thought"
        _log.warning("%s gets the signal as notes (instruct): %s", model.name, why)
        self.parts.degraded.tell(
            ("notes", model.name, why),
            f"handoff='think' cannot be had for a request to {model.name}, which gets the signal as notes: {why}",
        )
        notes = Instruct(model)
        return notes.name, await notes.answer(seen, signal, prompts=self.prompts, tools=tools)

    def seen_by(self, stage: Stage) -> tuple[Message, ...]:
        """The messages that a stage sees.

        Raises:
            ConfigError: the user's policy left nothing to answer.
        """
        if stage in self._seen:
            return self._seen[stage]
        seen = self._seen[stage] = tuple(self.parts.context(self.request.messages, stage))
        for message in seen:
            if message.role == "user":
                return seen
        raise ConfigError(f"the context policy left the {stage} without a user message; it must keep the last one")

    async def read_by(self, stage: Stage, model: StageModel) -> tuple[Message, ...]:
        """The messages that a stage sees, as that model gets them: an agent's with its tools' results as mere data.

        Raises:
            ConfigError: as `seen_by`.
        """
        seen = self.seen_by(stage)
        if self.draft.agent is None:
            return seen
        if self._read is None:
            self._read = {}
        if (stage, model.name) not in self._read:
            characters = sum(len(text) for text in untrusted(seen))
            neutralise = await model.neutraliser(untrusted(seen))
            self._read[stage, model.name] = await apart(lambda: guarded(seen, neutralise), characters=characters)
        return self._read[stage, model.name]

    async def down_the_chain(self, work: StageWork) -> BackendError | None:
        """Let the models of a stage try in turn, each again where the policy says so.

        Returns:
            the last model's error where all failed.
        """
        chain, at, number = self.chain(work.stage), 0, 1
        while True:
            begun, begun_s = self.draft.account.begun(work.stage), self.budget.elapsed_s()
            try:
                await work.attempt(chain[at], number)
            except BackendError as error:
                if self.draft.account.begun(work.stage) == begun:
                    self._never_sent(chain[at], error, begun_s)
                passes_on = at + 1 < len(chain) and work.may_pass_on() and self.parts.failure.hands_over(error)
                # A model is left alone so that requests need not wait for it: where another may begin, they don't.
                skips = passes_on and isinstance(error, EndpointResting)
                pause_s = None if skips else self.pause_s(chain[at], number, error, until=work.until)
                if pause_s is None or not work.may_retry():
                    if not passes_on:
                        return error
                    self._pass_on(work, error, chain[at], chain[at + 1])
                    at, number = at + 1, 1
                    continue
                failed = error
            else:
                return None
            said = cause(failed, chain[at].backend)
            _log.info("%s failed with %s (%s); it is called again", chain[at].name, type(failed).__name__, said)
            await asyncio.sleep(pause_s)
            self.tell(Retried(work.stage, work.start_over(), said))
            number += 1

    def _never_sent(self, model: StageModel, error: BackendError, begun_s: float) -> None:
        """An attempt that failed before anything was sent, as where nothing answers at the model's address."""
        kind: AttemptKind = "signal" if model.stage == "reasoner" and self.request.mode != "reasoner" else "answer"
        number = self.draft.account.next_number(model.stage)
        span = self.outbox.observer.attempt(
            Call(max_tokens=0), stage=model.stage, model=model.name, backend=model.backend, number=number, kind=kind
        )
        self.tell(AttemptStarted(model.stage, model.name, number))
        record = Attempt(
            model.stage,
            model.name,
            number,
            StageUsage(),
            Decimal(0),
            begun_s,
            self.budget.elapsed_s() - begun_s,
            None,
            type(error).__name__,
            kind=kind,
            error=cause(error, model.backend),
        )
        self.draft.account.attempts.append(record)
        span.end(record)
        self.tell(ended(record))

    def pause_s(self, model: StageModel, number: int, error: BackendError, *, until: float | None) -> float | None:
        """Seconds until that model is called again after its call of that number; None where it is not.

        Its rest is waited for once: one that then rests again would keep the request from what else can answer.
        """
        rests = isinstance(error, EndpointResting)
        if rests and model.identity in self._awaited:
            return None
        pause_s = wait_s(self.parts.failure.retry, number, error, left_s=self.budget.left_s(until))
        if rests and pause_s is not None:
            self._awaited.add(model.identity)
        return pause_s

    def _pass_on(self, work: StageWork, error: BackendError, model: StageModel, successor: StageModel) -> None:
        name, said = type(error).__name__, cause(error, model.backend)
        _log.warning("%s failed with %s (%s); %s takes over", model.name, name, said, successor.name)
        self.draft.causes.append(f"{model.name} failed ({said}) and {successor.name} took over")
        discard = work.void()
        self.tell(FellBack(work.stage, self.draft.served_by, name, discard, model=successor.name, error=said))

    def in_time(
        self,
        work: Coroutine[Any, Any, Result],
        *,
        until: float | None = None,
        model: StageModel | None = None,
        what: str | None = None,
        unwanted: Callable[[Result], Coroutine[Any, Any, None]] | None = None,
    ) -> Awaitable[Result]:
        """Await within the request's deadline, or within a stage's own, which is not later.

        Args:
            work: what is awaited.
            until: the stage's own deadline, None for the request's.
            model: who is waited for, or whose turn it is.
            what: who is waited for where it is not the model.
            unwanted: undoes a result that came just as the request was cancelled.

        Raises:
            DeadlineExceeded: the request's deadline passed.
            ConnectFailed: the stage's own did.
        """
        end = until if until is not None else self.budget.deadline
        if end is None:
            return work
        within_s = self.budget.left_s(end) or 0.0
        own = until is not None and until != self.budget.deadline
        doing = self.parts.lifetime.in_time(work, within_s, unwanted=unwanted)
        return self._in_time(doing, (model or self.parts.reasoners[0], what) if own else None)

    async def _in_time(self, doing: Awaitable[Result], stage: tuple[StageModel, str | None] | None) -> Result:
        try:
            return await doing
        except OutOfTime:
            if stage is None:
                raise self.budget.deadline_error() from None
        slow, what = stage
        name = slow.name if what is None else f"{what} of {slow.name}"
        raise ConnectFailed(
            f"{name} was not ready within the signal's time; raise {self.budget.timed_by}",
            backend=slow.backend.name,
            model=slow.backend.model,
        )

    async def settled(self, settle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Book what was spent. It is waited for up to the deadline and a little more; what takes longer goes on."""
        left_s = self.budget.left_s(self.budget.deadline)
        await self.parts.lifetime.owed(settle, within_s=None if left_s is None else max(left_s, _SETTLE_S))


def ended(record: Attempt) -> AttemptEnded:
    """The event of an attempt that is over."""
    return AttemptEnded(record.stage, record.model, record.attempt, record.usage, record.error_type, record.error)


def is_outage(error: DuetError, *, spent: bool) -> bool:
    """Whether going on without this model is right.

    A wrong name or key at the first call is a mistake that falling back would hide; once money is spent, an answer
    is worth more.
    """
    return spent or not isinstance(error, BackendError) or error.replaceable
