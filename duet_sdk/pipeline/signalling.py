"""The reasoner's stage: ask for a signal within its limit, and settle what a cut or missing one becomes."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from duet_sdk.backends.protocol import Call
from duet_sdk.budget import UsdOf
from duet_sdk.context import flatten_tools, without_images
from duet_sdk.errors import BackendError, BudgetExceeded, DuetError, SignalError
from duet_sdk.events import Event, FellBack, SignalDelta, SignalDone
from duet_sdk.handoff import Handoff, alone
from duet_sdk.pipeline.attempt import RunningCall
from duet_sdk.pipeline.fit import PromptSize, check_abilities, fitting_prompt, price_bound, prompt_size
from duet_sdk.pipeline.flow import Flow
from duet_sdk.signal import Extractor
from duet_sdk.types import Signal

_log = logging.getLogger(__name__)


class SignalPlan(NamedTuple):
    """How the reasoner will be asked."""

    handoff: Handoff
    call: Call
    prompt: PromptSize
    limit: int
    usd_of: UsdOf


class Signalling:
    """Writes the draft's signal, or leaves the generator to answer alone."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def events(self) -> AsyncGenerator[Event, None]:
        """Ask the reasoner; `SignalDone` comes last unless it failed.

        Raises:
            BackendError: it failed, and the ladder says to fail.
            SignalError: it wrote nothing of use, or was cut, and the policy says to fail.
            BudgetExceeded: a limit is used up; nothing was spent.
        """
        try:
            plan = await self._flow.in_time(self._plan_signal())
        except BackendError as error:
            if not error.retryable:
                raise  # a wrong name or key is no outage: falling back would hide it
            if not self._flow.generator_down:  # else its own stage will say so; a signal would be money for nothing
                yield self._without_signal(error)
            return
        draft, cut = self._flow.draft, self._flow.parts.cut
        draft.handoff = plan.handoff.name
        reserve = min(plan.limit - 1, math.ceil(plan.limit * cut.reserve)) if cut.reserve else 0
        extractor = plan.handoff.extractor()
        running = self._reason(plan, plan.call, plan.prompt, plan.limit - reserve)
        yield running.started()
        failure: BackendError | None = None
        try:
            async with running:
                async for chunk in running:
                    if shown := extractor.feed(chunk.text, chunk.reasoning):
                        yield SignalDelta(shown)
                    if extractor.ended:
                        break
        except BackendError as error:
            failure = error
        finally:
            draft.signal = _read_signal(extractor, [running], plan.limit, extractor.text)
        yield running.ended()
        if failure is not None:
            yield self._without_signal(failure)
            return
        async with aclosing(self._finish_signal(plan, running, extractor, reserve)) as finishing:
            async for event in finishing:
                yield event

    async def _finish_signal(
        self, plan: SignalPlan, running: RunningCall, extractor: Extractor, reserve: int
    ) -> AsyncGenerator[Event, None]:
        """Apply the cut policy, announce the signal, and leave the ladder's rung where there is none."""
        draft, cut = self._flow.draft, self._flow.parts.cut
        text, runs = extractor.text, [running]
        truncated = running.truncated and not extractor.ended
        if truncated:
            wrapped = ""
            if reserve and not running.timed_out:
                call = plan.handoff.wrap_up(plan.call, text, limit=reserve)
                async with aclosing(self._wrap_up(plan, call, reserve, runs)) as wrapping:
                    async for event in wrapping:
                        if isinstance(event, str):
                            wrapped = event
                        else:
                            yield event
            text = wrapped or cut.cut(text, limit=plan.limit)
        draft.signal = _read_signal(extractor, runs, plan.limit, text)
        if truncated:
            draft.served_by = "pair_cut" if self._flow.request.mode == "duet" else draft.served_by
        draft.finish = ("length" if truncated else "stop") if self._flow.request.mode == "signal" else None
        yield SignalDone(draft.signal, plan.handoff.name)
        if not text:
            yield self._without_signal(SignalError("the reasoner wrote no signal; raise signal_tokens"))

    async def _wrap_up(
        self, plan: SignalPlan, call: Call, limit: int, runs: list[RunningCall]
    ) -> AsyncGenerator[Event | str, None]:
        """Let the reasoner end a cut signal; the last item is the text, empty where it gave none."""
        parts, extractor = self._flow.parts, plan.handoff.extractor()
        backend = self._flow.parts.reasoner.backend
        prompt = await prompt_size(backend, call, exact=self._flow.budget.counts)
        running = self._reason(plan, call, prompt, limit)
        try:
            async with running:
                runs.append(running)
                yield running.started()
                async for chunk in running:
                    extractor.feed(chunk.text, chunk.reasoning)
                    if extractor.ended:
                        break
        except (BackendError, BudgetExceeded) as error:
            _log.info("the wrap-up of a signal failed with %s; the signal is trimmed", type(error).__name__)
        if running.record is not None:
            yield running.ended()
            failed = running.record.error_type is not None
            text = "" if failed else extractor.text
            yield parts.cut.cut(text, limit=limit) if text and running.truncated else text

    def _reason(self, plan: SignalPlan, call: Call, prompt: PromptSize, limit: int) -> RunningCall:
        until = self._flow.budget.signal_deadline
        if self._flow.request.mode == "signal" and self._flow.budget.limits.signal_deadline_s is None:
            until = self._flow.budget.deadline
        return RunningCall(
            self._flow.slot("reasoner", plan.usd_of),
            replace(call, max_tokens=limit),
            prompt=prompt,
            until=until,
        )

    async def _plan_signal(self) -> SignalPlan:
        """Check that the whole request fits, before the reasoner spends a token."""
        parts, request, budget = self._flow.parts, self._flow.request, self._flow.budget
        limits = budget.limits
        want, want_answer = limits.signal_tokens or 1, limits.answer_tokens or 1
        can = await parts.reasoner.connect()
        handoff = await parts.handoff()
        seen = flatten_tools(self._flow.seen_by("reasoner"))
        seen = seen if can.images else without_images(seen)
        call = handoff.ask(seen, limit=want, prompts=parts.prompts, tools=request.tools)
        sampling = request.reasoner_sampling
        call = replace(call, sampling=replace(sampling, stop=(*sampling.stop, *call.sampling.stop)))
        usd_of = price_bound(parts.prices, parts.reasoner.name, parts.reasoner.backend, budget)
        prompt = await fitting_prompt(parts.reasoner.backend, call, can, budget, room=want, what="reasoner's")
        if request.mode == "signal":
            limit = budget.largest_output(prompt.tokens, want=want, usd_of=usd_of)
            return SignalPlan(handoff, call, prompt, limit, usd_of)
        try:
            answer_can = await parts.generator.connect()
        except BackendError:
            self._flow.generator_down = True
            raise
        check_abilities(request, parts.generator.backend, answer_can, "generator")
        guided = alone(self._flow.seen_by("generator"), prompts=parts.prompts)
        if handoff.name == "instruct":
            guided = handoff.answer(self._flow.seen_by("generator"), "", prompts=parts.prompts)
        answer_prompt = await fitting_prompt(
            parts.generator.backend,
            replace(guided, tools=request.tools),
            answer_can,
            budget,
            room=want + want_answer,
            what="generator's",
        )
        # A wrap-up pays for the prompt and the signal once more.
        again = prompt.tokens + want if parts.cut.reserve else 0
        limit = budget.largest_signal(
            prompt.tokens + again,
            answer_prompt.tokens,
            want=want,
            want_answer=want_answer * request.n,
            signal_usd=usd_of,
            answer_usd=price_bound(parts.prices, parts.generator.name, parts.generator.backend, budget),
        )
        if limit < want:  # the prompt names the limit
            call = replace(
                handoff.ask(seen, limit=limit, prompts=parts.prompts, tools=request.tools),
                sampling=call.sampling,
            )
        return SignalPlan(handoff, call, prompt, limit, usd_of)

    def _without_signal(self, error: DuetError) -> Event:
        """Go on with the generator alone, or fail as the ladder says.

        Raises:
            DuetError: the ladder says to fail, or only the signal was asked for.
        """
        rung = (
            self._flow.parts.ladder.empty_signal if isinstance(error, SignalError) else self._flow.parts.ladder.reasoner
        )
        if rung == "raise" or self._flow.request.mode == "signal":
            raise error
        self._flow.reasoner_failed = isinstance(error, BackendError)
        self._flow.draft.served_by, self._flow.draft.handoff = "generator_fallback", None
        self._flow.draft.signal = replace(self._flow.draft.signal, text="")
        _log.warning("no signal (%s): %s answers alone", type(error).__name__, self._flow.parts.generator.name)
        return FellBack("reasoner", "generator_fallback", type(error).__name__)


def _read_signal(extractor: Extractor, runs: list[RunningCall], limit: int, text: str) -> Signal:
    first = runs[0]
    return Signal(
        text=text,
        tokens=sum(run.tokens for run in runs),
        limit=limit,
        truncated=first.truncated and not extractor.ended,
        honoured=all(run.honoured for run in runs),
        counted_by=first.counted_by,
    )
