"""The stage that answers: the generator guided by the signal or alone, or the reasoner in its place."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from duet_sdk.answer_form import ask_again, strict_tools, unmet
from duet_sdk.backends.base import Call, Capabilities
from duet_sdk.context import flatten_tools
from duet_sdk.errors import BackendError, BudgetExceeded, ContextOverflow, InvalidRequest, StreamBroken
from duet_sdk.events import AnswerDelta, AnswerDone, Event, FellBack, Retried
from duet_sdk.handoff import alone
from duet_sdk.pipeline.admission import check_abilities, fitting_prompt, price_bound, prompt_size
from duet_sdk.pipeline.attempt import Begun, RunningCall
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.models import StageModel
from duet_sdk.policies import Prompts, Sampling
from duet_sdk.signal import LeadingThought
from duet_sdk.types import AttemptKind, Json, Message, Stage

_log = logging.getLogger(__name__)


class Answering:
    """Writes the draft's answers."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._asked_again: tuple[Message, ...] = ()

    async def events(self, stage: Stage) -> AsyncGenerator[Event, None]:
        """Let the models of that stage answer in turn; where all generators fail, the reasoner may.

        Raises:
            BackendError: they failed, and the ladder has no other rung.
            BudgetExceeded: a limit is used up.
        """
        flow, failure = self._flow, None
        chain = flow.chain(stage)
        for position, model in enumerate(chain):
            failure = None
            begun = flow.adopted if stage == "generator" and position == 0 else None
            async with aclosing(self._ask(stage, model, begun)) as asking:
                async for event in asking:
                    if isinstance(event, BackendError):
                        failure = event
                    else:
                        yield event
            if failure is None:
                break
            if self._must_not_start_over():
                raise self._broken(stage, failure) from failure
            if not flow.parts.failure.hands_over(failure):
                break
            if model is not chain[-1]:
                successor, error_type = chain[position + 1].name, type(failure).__name__
                _log.warning("%s failed with %s: %s answers", model.name, error_type, successor)
                discard = self._discard()
                yield FellBack(stage, flow.draft.served_by, error_type, discard=discard, model=successor)
        if failure is not None:
            yield self._fall_back(stage, failure)
            try:
                async with aclosing(self.events("reasoner")) as answering:
                    async for event in answering:
                        yield event
            except (InvalidRequest, ContextOverflow) as unable:
                raise failure from unable  # what the reasoner cannot do was asked of the generator
            return
        for index in range(flow.request.n):
            yield AnswerDone(flow.draft.answer(index), flow.draft.finish_of(index), index)

    async def _ask(
        self, stage: Stage, model: StageModel, begun: Begun | None
    ) -> AsyncGenerator[Event | BackendError, None]:
        """Let one model answer, again where the policy says so; the last item is its error where it failed.

        What it has ``begun`` already is its first attempt.
        """
        flow, tries = self._flow, 0
        self._asked_again = ()
        while True:
            tries += 1
            failure: BackendError | None = None
            running: Begun | None = begun
            fresh: RunningCall | None = None
            if begun is None:
                try:
                    running = fresh = await flow.in_time(self.plan(stage, model, signal=self._guide(stage)))
                except BackendError as error:
                    failure = error
            if running is not None:
                try:
                    async with running, aclosing(self._write(running)) as writing:
                        if fresh is not None:
                            yield fresh.started()
                        async for event in writing:
                            yield event
                except BackendError as error:
                    failure = error
                yield running.ended()
            begun = None
            if failure is None:
                break
            until = flow.budget.deadline
            if self._must_not_start_over() or not await flow.wait_before_retry(tries, failure, until=until):
                yield failure
                return
            yield Retried(stage, self._discard())
        if running is not None and running.timed_out:
            raise flow.budget.deadline_error()
        async with aclosing(self._hold_to_form(stage, model)) as correcting:
            async for item in correcting:
                yield item

    async def _hold_to_form(self, stage: Stage, model: StageModel) -> AsyncGenerator[Event | BackendError, None]:
        """Have an answer without the form that was asked for written once more, where the budget has room for that.

        Where it has none the answer stays as it is, and so does a second one that is no better; the last item is the
        model's error where it failed.
        """
        flow, draft = self._flow, self._flow.draft
        whole = flow.request.n == 1 and draft.finish_of(0) in ("stop", "tool_calls")
        calls = draft.calls_of(0)
        problem = unmet(flow.request, draft.answer(0), calls) if whole and not self._must_not_start_over() else None
        if problem is None:
            return
        _log.warning("the answer of %s has not the form that was asked for; it is asked for once more", model.name)
        self._asked_again = ask_again(draft.answer(0), calls, problem)
        failure: BackendError | None = None
        running: RunningCall | None = None
        try:
            running = await flow.in_time(self.plan(stage, model, signal=self._guide(stage)))
            async with running, aclosing(self._write(running)) as writing:
                yield Retried(stage, self._discard())
                yield running.started()
                async for event in writing:
                    yield event
        except (BudgetExceeded, ContextOverflow):
            if running is None or running.record is None:
                _log.warning("there is no room for asking %s once more; its answer stays", model.name)
                return
            raise
        except BackendError as error:
            failure = error
        if running is not None and running.record is not None:
            yield running.ended()
            if running.timed_out:
                raise flow.budget.deadline_error()
        if failure is not None:
            yield failure

    async def _write(self, running: Begun) -> AsyncGenerator[Event, None]:
        draft = self._flow.draft
        thoughts = [LeadingThought() for _ in range(self._flow.request.n)]
        async for chunk in running:
            text = thoughts[chunk.index].feed(chunk.text)
            if chunk.finish_reason is not None:
                text += thoughts[chunk.index].end()
                draft.end_answer(chunk.index, chunk.finish_reason)
            draft.add_logprobs(chunk.index, chunk.logprobs)
            if text:
                draft.add_text(text, chunk.index)
                yield AnswerDelta(text, chunk.index, chunk.logprobs)
            for delta in chunk.tool_calls:
                draft.add_call(delta)
                yield delta
        for index, thought in enumerate(thoughts):
            if rest := thought.end():  # held back, and the output was cut before it could be told
                draft.add_text(rest, index)
                yield AnswerDelta(rest, index)

    async def plan(self, stage: Stage, model: StageModel, *, signal: str, kind: AttemptKind = "answer") -> RunningCall:
        """The call that answers, guided by ``signal`` unless it is empty, with limits that fit what is left.

        A ``probe`` is streamed whatever the caller wants to see, and asks for logprobs.

        Raises:
            BackendError: the model is not there.
            InvalidRequest: it cannot do what the request asks.
            ContextOverflow: prompt and limit do not fit it.
            BudgetExceeded: not even one token is left.
        """
        parts, request, budget = self._flow.parts, self._flow.request, self._flow.budget
        budget.check_deadline()
        able = await model.connect()
        check_abilities(request, model.backend, able, stage)
        tools = strict_tools(request) if able.strict_tools else request.tools
        guided, call = await self._call(stage, model, able, signal, tools)
        if self._asked_again and call.messages:  # a rendered prompt has no turns to add to: it is only sent again
            call = replace(call, messages=call.messages + self._asked_again)
        sampling, whole = self._sampling(stage), request.whole
        if kind == "probe":
            sampling, whole = sampling.over(Sampling(logprobs=0)), False
        call = replace(
            call,
            tools=tools,
            tool_choice=request.tool_choice,
            response_format=request.response_format,
            n=request.n,
            whole=whole,
            tenant=request.labels.tenant,
            sampling=sampling,
        )
        want = budget.limits.answer_tokens or 1
        if guided:
            # The window was checked before the signal was bought; a tokenizer that makes more of it than
            # the reasoner's did only shortens the answer.
            exact = budget.counts or able.context_tokens is not None
            prompt = await prompt_size(model.backend, call, exact=exact)
            if able.context_tokens is not None:
                want = max(1, min(want, able.context_tokens - prompt.likely))
        else:
            prompt = await fitting_prompt(model.backend, call, able, budget, room=want, what=f"{stage}'s")
        usd_of = price_bound(parts.prices, model.name, model.backend, budget)
        limit = budget.largest_output(prompt.tokens, want=want, usd_of=usd_of, outputs=request.n)
        slot = self._flow.slot(stage, model, usd_of)
        return RunningCall(slot, replace(call, max_tokens=limit), kind=kind, prompt=prompt, until=budget.deadline)

    def _sampling(self, stage: Stage) -> Sampling:
        """The stage's own; a reasoner that stands in answers as the generator was to, but for what its server takes."""
        request = self._flow.request
        if stage == "generator":
            return request.generator_sampling
        if request.mode == "reasoner":
            return request.reasoner_sampling
        return replace(request.generator_sampling, extra_body=request.reasoner_sampling.extra_body)

    def _guide(self, stage: Stage) -> str:
        """The signal that guides an answer of this stage, empty for none."""
        draft = self._flow.draft
        return draft.signal.text if stage == "generator" and draft.handoff is not None else ""

    async def _call(
        self, stage: Stage, model: StageModel, able: Capabilities, signal: str, tools: Sequence[Json]
    ) -> tuple[bool, Call]:
        """Whether the signal was made for this answer, and the call without its limits."""
        flow = self._flow
        seen = await flow.read_by(stage, model)
        if not able.tools:
            seen = flatten_tools(seen)
        if stage == "reasoner":
            return False, alone(seen, prompts=Prompts(), thinking=None)
        carried = next((message.signal for message in reversed(seen) if message.signal), None)
        made = signal if signal != carried else ""
        if not made and carried is None:
            return False, alone(seen, prompts=flow.prompts)
        flow.draft.handoff, call = await flow.guided(model, seen, made or None, tools)
        return bool(made), call

    def _must_not_start_over(self) -> bool:
        """Whether a part of the answer was handed on, and the policy says not to void it."""
        flow = self._flow
        return flow.draft.answered and not flow.request.whole and flow.parts.failure.answer_broken == "error"

    def _discard(self) -> bool:
        """Void what has been answered so far; whether there was anything."""
        answered = self._flow.draft.answered
        self._flow.draft.discard_answers()
        return answered

    def _broken(self, stage: Stage, error: BackendError) -> StreamBroken:
        draft = self._flow.draft
        return StreamBroken(
            f"the answer broke off: {error}",
            partial=draft.answer(0),
            usage=draft.account.stage_usage(stage),
            backend=error.backend,
            model=error.model,
            status=error.status,
            retry_after=error.retry_after,
        )

    def _fall_back(self, stage: Stage, error: BackendError) -> Event:
        """Let the reasoner answer in place of generators that failed, or fail.

        Raises:
            BackendError: the ladder says to fail, another pair can take over, or there is nobody left.
        """
        flow, draft = self._flow, self._flow.draft
        can_fall = stage == "generator" and flow.request.mode == "duet" and not flow.reasoner_failed
        other_pair = flow.parts.fallback is not None
        outage = is_outage(error, spent=draft.account.spent)
        if flow.parts.failure.ladder.generator == "raise" or not can_fall or other_pair or not outage:
            if draft.answered:
                raise self._broken(stage, error) from error
            raise error
        discard = self._discard()
        draft.account.discard("signal", "wrap_up")
        draft.served_by, draft.handoff = "reasoner_fallback", None
        name = flow.parts.reasoners[0].name
        _log.warning("%s failed with %s: %s answers", error.model, type(error).__name__, name)
        return FellBack("generator", "reasoner_fallback", type(error).__name__, discard, model=name)
