"""The stage that answers: the generator guided by the signal or alone, or the reasoner in its place."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from duet_sdk.backends.protocol import Call, Capabilities
from duet_sdk.context import flatten_tools
from duet_sdk.errors import BackendError, BudgetExceeded, StreamBroken
from duet_sdk.events import AnswerDelta, AnswerDone, Event, FellBack
from duet_sdk.handoff import alone
from duet_sdk.pipeline.attempt import RunningCall
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.fit import check_abilities, fitting_prompt, price_bound, prompt_size
from duet_sdk.pipeline.flow import Flow
from duet_sdk.signal import LeadingThought
from duet_sdk.types import Prompts, Stage

_log = logging.getLogger(__name__)


class Answering:
    """Writes the draft's answers."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def events(self, stage: Stage) -> AsyncGenerator[Event, None]:
        """Let the model of that stage answer; where the generator fails, the reasoner may.

        Raises:
            BackendError: the model failed and the ladder has no other rung.
            BudgetExceeded: a limit is used up.
        """
        flow = self._flow
        failure: BackendError | None = None
        try:
            running = await flow.in_time(self._plan(stage))
        except BackendError as error:
            failure = error
        else:
            yield running.started()
            try:
                async with running, aclosing(self._write(running)) as writing:
                    async for event in writing:
                        yield event
            except BackendError as error:
                failure = error
            yield running.ended()
        if failure is not None:
            yield self._fall_back(stage, failure)
            async with aclosing(self.events("reasoner")) as answering:
                async for event in answering:
                    yield event
            return
        if running.timed_out:
            late = flow.budget.deadline_error()
            late.reply = flow.draft.reply("deadline")
            raise late
        for index in range(flow.request.n):
            yield AnswerDone(flow.draft.answer(index), flow.draft.finish_of(index), index)

    async def _write(self, running: RunningCall) -> AsyncGenerator[Event, None]:
        draft = self._flow.draft
        thoughts = [LeadingThought() for _ in range(self._flow.request.n)]
        async for chunk in running:
            text = thoughts[chunk.index].feed(chunk.text)
            if chunk.finish_reason is not None:
                text += thoughts[chunk.index].end()
                draft.end_answer(chunk.index, chunk.finish_reason)
            if text:
                draft.add_text(text, chunk.index, chunk.logprobs)
                yield AnswerDelta(text, chunk.index, chunk.logprobs)
            for delta in chunk.tool_calls:
                draft.add_call(delta)
                yield delta

    async def _plan(self, stage: Stage) -> RunningCall:
        """The call that answers, with limits that fit what is left."""
        parts, request, budget = self._flow.parts, self._flow.request, self._flow.budget
        model = parts.model(stage)
        can = await model.connect()
        check_abilities(request, model.backend, can, stage)
        guided, call = await self._answer_call(stage, can)
        call = replace(
            call,
            tools=request.tools,
            tool_choice=request.tool_choice,
            response_format=request.response_format,
            n=request.n,
            whole=request.whole,
            sampling=request.generator_sampling if stage == "generator" else request.reasoner_sampling,
        )
        want = budget.limits.answer_tokens or 1
        if guided:
            # The window was checked before the signal was bought; a tokenizer that makes more of it than
            # the reasoner's did only shortens the answer.
            prompt = await prompt_size(model.backend, call, exact=budget.counts or can.context_tokens is not None)
            if can.context_tokens is not None:
                want = max(1, min(want, can.context_tokens - prompt.likely))
        else:
            prompt = await fitting_prompt(model.backend, call, can, budget, room=want, what=f"{stage}'s")
        usd_of = price_bound(parts.prices, model.name, model.backend, budget)
        try:
            limit = budget.largest_output(prompt.tokens, want=want, usd_of=usd_of, outputs=request.n)
        except BudgetExceeded as error:
            error.reply = self._flow.draft.reply("length") if self._flow.draft.account.attempts else None
            raise
        call = replace(call, max_tokens=limit)
        slot = self._flow.slot(stage, usd_of)
        return RunningCall(slot, call, prompt=prompt, until=budget.deadline)

    async def _answer_call(self, stage: Stage, can: Capabilities) -> tuple[bool, Call]:
        """Whether a signal guides the answer, and the call without its limits."""
        seen = self._flow.seen_by(stage)
        if not can.tools:
            seen = flatten_tools(seen)
        if stage == "reasoner":
            return False, alone(seen, prompts=Prompts(), thinking=None)
        prompts = self._flow.parts.prompts
        if self._flow.draft.handoff is not None and self._flow.draft.signal.text:
            handoff = await self._flow.parts.handoff()
            return True, handoff.answer(seen, self._flow.draft.signal.text, prompts=prompts)
        return False, alone(seen, prompts=prompts)

    def _fall_back(self, stage: Stage, error: BackendError) -> Event:
        """Let the reasoner answer in place of a generator that failed, or fail.

        Raises:
            BackendError: the ladder says to fail, there is nobody left, or a part of the answer was handed on.
        """
        draft, request = self._flow.draft, self._flow.request
        handed_on = draft.answered and not request.whole
        can_fall = stage == "generator" and request.mode == "duet" and not self._flow.reasoner_failed
        if self._flow.parts.ladder.generator == "raise" or not can_fall or handed_on or not _is_outage(error, draft):
            if not draft.answered:
                raise error
            raise StreamBroken(
                f"the answer broke off: {error}",
                partial=draft.answer(0),
                usage=draft.account.usage().generator,
                backend=error.backend,
                model=error.model,
                status=error.status,
                retry_after=error.retry_after,
            ) from error
        discard = draft.answered
        draft.discard_answers()
        draft.served_by, draft.handoff = "reasoner_fallback", None
        _log.warning("%s failed with %s: %s answers", error.model, type(error).__name__, self._flow.parts.reasoner.name)
        return FellBack("generator", "reasoner_fallback", type(error).__name__, discard)


def _is_outage(error: BackendError, draft: Draft) -> bool:
    """Whether a fallback is right: a wrong name or key at the first call is a mistake that falling back would hide."""
    return error.retryable or bool(draft.account.attempts)
