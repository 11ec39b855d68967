"""What the stages of one request share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TypeVar

from duet_sdk.agents.history import guarded
from duet_sdk.backends.base import Call
from duet_sdk.backends.resilience import wait_s
from duet_sdk.budget import UsdOf
from duet_sdk.errors import BackendError, BoundaryRefused, ConfigError, ConnectFailed, DuetError, InvalidRequest
from duet_sdk.handoff import AGENT_PROMPT, PLAN_PROMPT, Handoff, Instruct, Think
from duet_sdk.pipeline.attempt import Begun, RunningCall, Slot
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.models import Parts, StageModel
from duet_sdk.policies import Prompts
from duet_sdk.rendering import neutralise_unknown
from duet_sdk.types import HandoffName, Json, Message, Stage

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Flow:
    """One request on its way through a pair: its parts, its draft, and what one stage must know of another.

    Attributes:
        reasoner_failed: the reasoner cannot take over, as it has failed itself.
        reasoner: the model that wrote the signal, or is about to.
        writing: the call that writes the signal at this moment.
        judged: whether the beginning of an answer is being judged; there is never more than one.
        adopted: an answer of the generator that is under way already and that the answering stage goes on with.
    """

    def __init__(self, parts: Parts, draft: Draft, *, allowed: frozenset[str] | None = None) -> None:
        self.parts = parts
        self.draft = draft
        self.request = draft.request
        self.budget = draft.budget
        self.reasoner_failed = False
        self.reasoner = parts.reasoners[0]
        self.writing: RunningCall | None = None
        self.judged = False
        self.adopted: Begun | None = None
        first = (parts.reasoners[0], parts.generators[0])
        own = frozenset(model.backend.boundary for model in first)
        asked = allowed if allowed is not None else self.request.allowed
        self.allowed = own if asked is None else asked
        self._read: dict[tuple[Stage, str], tuple[Message, ...]] = {}

    def chain(self, stage: Stage) -> list[StageModel]:
        """The models of a stage that this request may reach, in the order in which they are tried.

        Raises:
            BoundaryRefused: there is none; names the first.
        """
        models = self.parts.chain(stage)
        near = [model for model in models if self._may_reach(model)]
        if not near:
            raise BoundaryRefused(model=models[0].name, boundary=models[0].backend.boundary, allowed=self.allowed)
        if len(near) < len(models):
            beyond = ", ".join(model.name for model in models if model not in near)
            _log.info("%s beyond this request's boundary and left out", beyond)
        return near

    def _may_reach(self, model: StageModel) -> bool:
        boundary = model.backend.boundary
        return boundary == "local" or boundary in self.allowed or "any" in self.allowed

    async def handoff(self, reasoner: StageModel, generator: StageModel) -> Handoff:
        """How this request's signal is handed over.

        Raises:
            ConfigError: the pair's handoff cannot be rendered for the generator.
        """
        handoff = await self.parts.handoff(reasoner, generator)
        if handoff.name == "instruct" or self._why_notes(handoff) is None:
            return handoff
        return Instruct(await generator.find_renderer())

    def _why_notes(self, handoff: Handoff) -> str | None:
        """What keeps this request's signal from being the generator's own thought, None where nothing does."""
        request = self.request
        if any(message.role == "tool" for message in request.messages):
            # What tools wrote may have got into a signal, which is then to be read as data.
            return "a signal after tools' results is data"
        if any(message.images for message in request.messages):
            return "a prompt of token ids carries no images"
        if request.tools and isinstance(handoff, Think) and handoff.placer is None:
            return "tools cannot be called from a prompt of token ids"
        return None

    def prompts_of(self, handoff: Handoff) -> Prompts:
        """System prompts by stage, as that handoff wants them: a pair trained together gets none but the caller's."""
        return self.parts.prompts if handoff.name == "think" else self.prompts

    @property
    def prompts(self) -> Prompts:
        """System prompts by stage. An agent's are the same in every turn of a run, with a signal and without."""
        own, agent = self.parts.prompts, self.draft.agent
        if agent is None:
            return own
        plans = PLAN_PROMPT if self.request.signal_scope is not None else None
        return Prompts(own.reasoner or plans, own.generator or AGENT_PROMPT)

    async def guided(
        self, model: StageModel, seen: Sequence[Message], signal: str | None, tools: Sequence[Json]
    ) -> tuple[HandoffName, Call]:
        """The call that makes a generator answer from a signal, without its limits, and how the signal is in it.

        Args:
            model: the generator.
            seen: what it sees.
            signal: a new one; None where those that the messages carry are all there is.
            tools: what it may call.
        """
        handoff = await self.parts.handoff(self.reasoner, model)
        reason = None if handoff.name == "instruct" else self._why_notes(handoff)
        if reason is None:
            try:
                call = await handoff.answer(seen, signal, prompts=self.prompts_of(handoff), tools=tools)
            except InvalidRequest as refused:
                call, reason = None, str(refused)
            if call is not None:
                return handoff.name, call
        _log.warning(
            "%s gets notes (instruct): %s", model.name, reason or "its server would not read this signal as one thought"
        )
        notes = Instruct(await model.find_renderer())
        return notes.name, await notes.answer(seen, signal, prompts=self.prompts, tools=tools)

    def seen_by(self, stage: Stage) -> tuple[Message, ...]:
        """The messages that a stage sees.

        Raises:
            ConfigError: the user's policy left nothing to answer.
        """
        seen = tuple(self.parts.context(self.request.messages, stage))
        if not any(message.role == "user" for message in seen):
            raise ConfigError(f"the context policy left the {stage} no user message; it must keep the last one")
        return seen

    async def read_by(self, stage: Stage, model: StageModel) -> tuple[Message, ...]:
        """The messages that a stage sees, as that model gets them: an agent's with its tools' results as mere data.

        Raises:
            ConfigError: as `seen_by`.
        """
        seen = self.seen_by(stage)
        if self.draft.agent is None:
            return seen
        if (stage, model.name) not in self._read:
            renderer = await model.find_renderer()
            self._read[stage, model.name] = guarded(seen, renderer.neutralise if renderer else neutralise_unknown)
        return self._read[stage, model.name]

    def slot(self, stage: Stage, model: StageModel, usd_of: UsdOf) -> Slot:
        """Who is called for a stage, on this request's account."""
        count_text = model.renderer.count_text if model.renderer is not None else None
        draft = self.draft
        return Slot(
            stage,
            model.name,
            model.backend,
            self.parts.prices,
            draft.account,
            self.budget,
            usd_of,
            count_text,
            draft.charging,
            draft.observer,
            self.parts.closings,
        )

    async def wait_before_retry(self, attempt: int, error: BackendError, *, until: float | None) -> bool:
        """Wait as the retry policy says; False where it says not to call again."""
        pause_s = wait_s(self.parts.failure.retry, attempt, error, left_s=self.budget.left_s(until))
        if pause_s is None:
            return False
        await asyncio.sleep(pause_s)
        return True

    async def in_time(self, work: Coroutine[object, object, Result], *, until: float | None = None) -> Result:
        """Await within the request's deadline, or within a stage's own, which is not later.

        Raises:
            DeadlineExceeded: the request's deadline passed.
            ConnectFailed: the stage's own did.
        """
        left_s = self.budget.left_s(until if until is not None else self.budget.deadline)
        if left_s is None:
            return await work
        timeout = asyncio.timeout(left_s)
        try:
            async with timeout:
                return await work
        except TimeoutError as error:
            if not timeout.expired():
                raise
            if until is not None and until != self.budget.deadline:
                backend = self.reasoner.backend
                raise ConnectFailed(
                    f"{self.reasoner.name} was not ready within the signal's time; raise signal_deadline_s",
                    backend=backend.name,
                    model=backend.model,
                ) from error
            raise self.budget.deadline_error() from error


def is_outage(error: DuetError, *, spent: bool) -> bool:
    """Whether going on without this model is right.

    A wrong name or key at the first call is a mistake that falling back would hide; once money is spent, an answer
    is worth more.
    """
    return spent or not isinstance(error, BackendError) or error.retryable
