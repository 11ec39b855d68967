"""The reasoner's stage: ask for a signal within its limit, and settle what a cut, broken or missing one becomes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from duet_sdk.backends.base import Call, Capabilities
from duet_sdk.cache import CacheError, CacheKey, signal_key, storable
from duet_sdk.errors import (
    BackendError,
    BudgetExceeded,
    ContextOverflow,
    DuetError,
    EndpointResting,
    SignalError,
)
from duet_sdk.events import Event, FellBack, SignalDelta, SignalDone
from duet_sdk.pipeline.admission import PromptSize, prompt_size
from duet_sdk.pipeline.asking import Asking, Guidance, plan_signal
from duet_sdk.pipeline.attempt import RunningAttempt
from duet_sdk.pipeline.causes import cause
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.lifetime import OutOfTime
from duet_sdk.pipeline.models import StageModel
from duet_sdk.pipeline.outbox import LOOK_AHEAD
from duet_sdk.signal import Extractor
from duet_sdk.think_tags import split
from duet_sdk.types import AttemptKind

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

CACHE_S: Final = 1.0
"""Longest wait for the signal cache: a look-up takes milliseconds, and one that waits for a lock or a network drive
would take the time of the reasoner, which can do without."""
_CACHE_SHARE: Final = 0.25
"""Most of what is left of the signal's time that a wait for the cache may take."""


class SignalStage:
    """Writes the draft's signal, or leaves the generator to answer alone.

    Args:
        flow: the request.
        tell: who receives the events, in place of the request's outbox.

    Attributes:
        asking: the signal in the making, None before it begins and when it has to start over.
        until: when it must be over.
    """

    __slots__ = ("_flow", "_generator", "_reasoner", "_shows", "_tell", "asking", "until")

    stage: Final = "reasoner"

    def __init__(self, flow: Flow, *, tell: Callable[[Event], None] | None = None) -> None:
        self._flow = flow
        self._tell = tell or flow.tell
        self._reasoner = flow.parts.reasoners[0]
        self.asking: Asking | None = None
        self._shows = flow.outbox.is_read or tell is not None
        self._generator: tuple[StageModel, Capabilities] | None = None
        """Who will answer, and what it can do; None if no answer is wanted."""
        until = flow.budget.signal_deadline
        if flow.request.mode == "signal" and flow.budget.limits.signal_deadline_s is None:
            until = flow.budget.deadline
        self.until = until

    async def run(self) -> Guidance:
        """Ask the reasoners in turn; `SignalDone` comes last unless all failed.

        Raises:
            BackendError: they failed, and the ladder says to fail.
            SignalError: nothing useful was written, or it was cut, and the policy says to fail.
            BudgetExceeded: a limit is used up; nothing was spent.
        """
        flow = self._flow
        flow.chain("reasoner")  # a boundary that none may cross is refused before the generator is connected
        if flow.request.mode != "signal":
            self._generator = await flow.in_time(self._reachable_generator())
            if self._generator is None:
                # Its own stage finds out for good; a signal would be money for nothing.
                return Guidance(self._reasoner)
        failure = await flow.down_the_chain(self)
        if failure is not None:
            self._without_signal(failure)
        return Guidance(self._reasoner, failed=failure is not None)

    def not_needed(self, since_tokens: int | None = None) -> None:
        """No more of the signal is needed than its first ``since_tokens``; by default than there is now."""
        attempts = self.asking.attempts if self.asking is not None else []
        if attempts and since_tokens is None:
            attempts[-1].not_needed()
        elif attempts and since_tokens is not None:
            attempts[-1].not_needed(max(0, since_tokens - sum(earlier.tokens for earlier in attempts[:-1])))

    async def _reachable_generator(self) -> tuple[StageModel, Capabilities] | None:
        """The first generator that answers, None where none does for now; the last one's rest is waited for.

        Raises:
            BackendError: its name or key is wrong, and no other may take over.
        """
        flow, at = self._flow, 0
        chain = flow.chain("generator")
        while at < len(chain):
            try:
                return chain[at], await chain[at].connect()
            except BackendError as error:
                if not error.replaceable and (len(chain) == 1 or not flow.parts.failure.hands_over(error)):
                    raise
                rests = at + 1 == len(chain) and isinstance(error, EndpointResting)
                pause_s = flow.pause_s(chain[at], 1, error, until=flow.budget.deadline) if rests else None
            if pause_s is None:
                at += 1
            else:
                await asyncio.sleep(pause_s)
        return None

    async def attempt(self, model: StageModel, number: int) -> None:
        """Ask one reasoner, or let it go on where its last attempt stopped."""
        flow = self._flow
        if number == 1:
            self.asking, self._reasoner = None, model
        if self.asking is None:
            planning = plan_signal(flow, model, self._generator, joined=not self._shows)
            self.asking = await flow.in_time(planning, until=self.until, model=model)
            if number == 1 and flow.parts.signal_cache is not None and await self._take_cached(self.asking):
                return
        await self._write(self.asking)
        await self._finish(self.asking)

    def may_retry(self) -> bool:
        """Whether the policy lets a signal that broke off be asked for once more."""
        asking = self.asking
        return self._flow.parts.failure.signal_broken != "error" or asking is None or not asking.extractor.text

    def may_pass_on(self) -> bool:
        """Another reasoner may always begin."""
        return True

    def start_over(self) -> bool:
        """Go on where the last attempt stopped, or else forget it; whether anything was forgotten."""
        asking = self.asking
        if asking is None or self._resume(asking):
            return False
        self.void()
        return bool(asking.extractor.text)

    def void(self) -> bool:
        """Forget the signal."""
        self._flow.draft.account.discard("signal")
        self.asking = None
        return True

    def _key(self, asking: Asking) -> CacheKey:
        request = self._flow.request
        return signal_key(
            asking.model.identity,
            revision=None,
            handoff=asking.handoff.name,
            messages=asking.call.messages,
            sampling=asking.call.sampling,
            tools=request.tools,
            limit=asking.limit,
            cut=self._flow.parts.cut.name,
            labels=request.labels,
        )

    async def _take_cached(self, asking: Asking) -> bool:
        """Take the signal from the cache where it is there; a cache that fails is as good as empty."""
        cache, draft = self._flow.parts.signal_cache, self._flow.draft
        if cache is None:
            return False
        try:
            asking.key = self._key(asking)
            found = await self._cached(cache.get(asking.key))
        except OutOfTime:
            _log.warning("the signal cache took too long to look up a signal")
            return False
        except CacheError as error:
            _log.warning("the signal cache failed: %s", error)
            return False
        if found is None:
            return False
        draft.signal, draft.handoff = replace(found, tokens=0), asking.handoff.name
        draft.finish = "stop" if self._flow.request.mode == "signal" else None
        draft.served_by = "cache"
        self._tell(SignalDone(draft.signal, asking.handoff.name))
        return True

    def _cached(self, work: Coroutine[Any, Any, Result]) -> Awaitable[Result]:
        """Await the cache, within a small part of the signal's time: without it there is the reasoner.

        Raises:
            OutOfTime: the cache took longer.
        """
        left_s = self._flow.budget.left_s(self.until)
        within_s = CACHE_S if left_s is None else min(CACHE_S, left_s * _CACHE_SHARE)
        return self._flow.parts.lifetime.in_time(work, within_s)

    async def _keep(self, key: CacheKey) -> None:
        """Store a signal that is whole; it must not be lost to a cache that fails or takes the answer's time."""
        cache, signal = self._flow.parts.signal_cache, self._flow.draft.signal
        if cache is None or not storable(signal):
            return
        try:
            await self._cached(cache.put(key, signal))
        except OutOfTime:
            _log.warning("the signal cache took too long to store a signal")
        except CacheError as error:
            _log.warning("the signal cache failed: %s", error)

    def _is_kept(self, asking: Asking) -> bool:
        """Whether a broken signal is handed on as a cut one."""
        return self._flow.parts.failure.signal_broken == "keep" and bool(asking.extractor.text)

    def _resume(self, asking: Asking) -> bool:
        """Let the next attempt go on where this one stopped; False where it has to start over."""
        left = asking.limit - asking.tokens
        if self._flow.parts.failure.signal_broken != "continue" or not asking.extractor.text or left < 1:
            return False
        call = asking.handoff.resume(asking.call, asking.extractor.text, asking.ids, limit=left)
        if call is None:
            self._flow.parts.degraded.tell(
                ("continue", asking.model.name),
                f"signal_broken='continue' cannot be had with {asking.model.name}: its signals are asked for from the "
                "start, as only a prompt of the think handoff that is rendered here can go on",
            )
            return False
        asking.call, asking.prompt = call, PromptSize(len(call.prompt_ids), exact=True)
        return True

    async def _write(self, asking: Asking) -> None:
        """One attempt: what the reasoner writes goes into ``asking``, its error too."""
        draft, extractor = self._flow.draft, asking.extractor
        draft.handoff = asking.handoff.name
        limit = asking.limit - asking.tokens - self._reserve(asking)
        attempt = self._attempt(asking, asking.call, asking.prompt, limit)
        asking.failure = None
        try:
            async with attempt:
                asking.attempts.append(attempt)
                await attempt.run(partial(self._read, attempt, asking))
        except BaseException as error:
            asking.failure = error if isinstance(error, BackendError) else None
            draft.signal = asking.signal(extractor.text)
            if asking.failure is None or not self._is_kept(asking):
                raise

    async def _read(self, attempt: RunningAttempt, asking: Asking) -> None:
        extractor, outbox, ids = asking.extractor, self._flow.outbox, asking.ids
        async for arrived in attempt.incoming:
            for chunk in attempt.take(arrived):
                ids += chunk.token_ids
                shown = extractor.feed(chunk.text, chunk.reasoning)
                if shown and self._shows:
                    self._tell(SignalDelta(shown))
            if extractor.ended or attempt.counter.done or attempt.counter.stopped:
                return
            if len(outbox.events) >= LOOK_AHEAD:
                await outbox.room()
        attempt.exhausted()

    def _reserve(self, asking: Asking) -> int:
        """Tokens of the limit that are kept back for a wrap-up."""
        share = self._flow.parts.cut.reserve
        return min(asking.limit - 1, math.ceil(asking.limit * share)) if share and not asking.attempts else 0

    def _attempt(
        self, asking: Asking, call: Call, prompt: PromptSize, limit: int, *, kind: AttemptKind = "signal"
    ) -> RunningAttempt:
        if call.max_tokens != limit:
            call = replace(call, max_tokens=limit)
        return RunningAttempt(
            self._flow, asking.model, call, kind=kind, prompt=prompt, usd_of=asking.usd_of, until=self.until
        )

    async def _finish(self, asking: Asking) -> None:
        """Apply the cut policy, announce the signal, and leave the ladder's rung where there is none."""
        flow, draft, cut = self._flow, self._flow.draft, self._flow.parts.cut
        text, truncated = asking.extractor.text, asking.truncated
        thought = text or _said_within(asking.extractor.thinking)
        if not truncated or cut.name == "keep":
            text = thought  # a reasoner that only thought has still said something, unless it was cut off
        if asking.attempts and asking.attempts[-1].counter.finish_reasons == ("content_filter",):
            text, truncated = "", False  # a refusal would have the generator refuse, too
        if truncated:
            wrapped = ""
            left = asking.limit - asking.tokens
            if cut.reserve and left > 0 and asking.failure is None and not asking.attempts[-1].timed_out:
                draft.signal = asking.signal(thought)  # should it be left while it is wrapped up
                wrapped = await self._wrap_up(asking, asking.handoff.wrap_up(asking.call, thought, limit=left), left)
            text = wrapped or cut.cut(text, limit=asking.limit)
        draft.signal = asking.signal(text)
        if truncated != draft.signal.truncated:
            draft.signal = replace(draft.signal, truncated=truncated)
        if truncated and flow.request.mode == "duet":
            draft.served_by = "pair_cut"
            if text:
                draft.causes.append(_cut_by(asking))
        if flow.request.mode == "signal":
            draft.finish = "length" if truncated else "stop"
        if asking.key is not None:
            await self._keep(asking.key)
        self._tell(SignalDone(draft.signal, asking.handoff.name, self._cut(asking) if truncated else ""))
        if not text:
            what = "was still thinking when it was cut off" if truncated and thought else "wrote no signal"
            why = _nothing_by(asking, self._flow.budget.timed_by, thought=bool(thought))
            self._without_signal(SignalError(f"the reasoner {what}; {why}"))

    def _cut(self, asking: Asking) -> str:
        """What ended a signal that was cut, for an event."""
        if asking.failure is not None:
            return "by an error"
        if self.until is not None and any(attempt.timed_out for attempt in asking.attempts):
            return f"by its deadline of {self.until - self._flow.budget.started:g} s"
        return f"at {asking.limit} tokens"

    async def _wrap_up(self, asking: Asking, call: Call, limit: int) -> str:
        """Let the reasoner end a cut signal; empty where it gave nothing."""
        cut, extractor = self._flow.parts.cut, asking.handoff.extractor()
        try:
            counting = prompt_size(asking.model.backend, call, exact=self._flow.budget.counts)
            size = await self._flow.in_time(counting, until=self.until, model=asking.model)
            attempt = self._attempt(asking, call, size, limit, kind="wrap_up")
            async with attempt:
                asking.attempts.append(attempt)
                await attempt.run(partial(self._read_rest, attempt, extractor))
        except (BackendError, BudgetExceeded, ContextOverflow) as error:
            self._flow.draft.account.discard("wrap_up")
            _log.info("the wrap-up of a signal failed with %s (%s)", type(error).__name__, cause(error))
            return ""
        text = extractor.text
        return cut.cut(text, limit=limit) if text and attempt.truncated else text

    async def _read_rest(self, attempt: RunningAttempt, extractor: Extractor) -> None:
        async for arrived in attempt.incoming:
            for chunk in attempt.take(arrived):
                extractor.feed(chunk.text, chunk.reasoning)
            if extractor.ended or attempt.counter.done or attempt.counter.stopped:
                return
        attempt.exhausted()

    def _without_signal(self, error: DuetError) -> None:
        """Go on with the generator alone, or fail as the ladder says.

        Raises:
            DuetError: the ladder says to fail, another pair can take over, or only the signal was asked for.
        """
        flow, draft = self._flow, self._flow.draft
        ladder = flow.parts.failure.ladder
        rung = ladder.empty_signal if isinstance(error, SignalError) else ladder.reasoner
        other_pair = flow.parts.fallback is not None and isinstance(error, BackendError)
        outage = is_outage(error, spent=draft.account.spent)
        if rung == "raise" or flow.request.mode == "signal" or other_pair or not outage:
            raise error
        draft.account.discard("signal", "wrap_up")
        draft.served_by, draft.handoff = "generator_fallback", None
        failed = isinstance(error, BackendError)
        draft.signal = replace(draft.signal, text="", truncated=draft.signal.truncated and not failed)
        name = flow.parts.generators[0].name
        said = cause(error, self._reasoner.backend)
        _log.warning("no signal (%s: %s); %s answers alone", type(error).__name__, said, name)
        draft.causes.append(said)
        self._tell(FellBack("reasoner", "generator_fallback", type(error).__name__, model=name, error=said))


def _cut_by(asking: Asking) -> str:
    """What ended a signal that was cut: an error, the time, or its limit."""
    if asking.failure is not None:
        return f"it broke off ({cause(asking.failure, asking.model.backend)})"
    if any(attempt.timed_out for attempt in asking.attempts):
        return "its time was up"
    return f"its limit was {asking.limit} tokens"


def _said_within(thinking: str) -> str:
    """What a parser that took a whole output for thinking has hidden in it, else the thinking."""
    return split(thinking)[1].strip() or thinking


def _nothing_by(asking: Asking, timed_by: str, *, thought: bool) -> str:
    """Why there is no signal, or what helps."""
    if asking.attempts and "content_filter" in asking.attempts[-1].counter.finish_reasons:
        return "a content filter ended it"
    if any(attempt.timed_out for attempt in asking.attempts):
        return f"its time was up: raise {timed_by}"
    if not asking.truncated:
        return "it ended by itself"
    return "raise signal_tokens, or set on_cut='wrap_up'" if thought else "raise signal_tokens"
