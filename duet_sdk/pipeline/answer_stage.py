"""The stage that answers: the generator guided by the signal or alone, or the reasoner in its place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from duet_sdk.answer_form import ask_again, strict_tools, unmet
from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.provider_parts import with_own_parts
from duet_sdk.context import flatten_tools
from duet_sdk.errors import BackendError, BudgetExceeded, ContextOverflow, InvalidRequest, NoAnswer, StreamBroken
from duet_sdk.events import AnswerDelta, AnswerDone, FellBack, Retried
from duet_sdk.handoff import without_signal
from duet_sdk.pipeline.admission import check_abilities, fitting_prompt, price_bound, prompt_size
from duet_sdk.pipeline.asking import Guidance
from duet_sdk.pipeline.attempt import RunningAttempt
from duet_sdk.pipeline.causes import cause
from duet_sdk.pipeline.flow import Flow, is_outage
from duet_sdk.pipeline.models import StageModel
from duet_sdk.pipeline.outbox import LOOK_AHEAD
from duet_sdk.pipeline.outputs import Outputs, label_empty
from duet_sdk.policies import Prompts, Sampling
from duet_sdk.think_tags import LeadingThought
from duet_sdk.types import AttemptKind, Json, Message, Stage

_log = logging.getLogger(__name__)


class AnswerStage:
    """Writes the draft's answers.

    Args:
        flow: the request.
        guidance: what the signal's stage has left.
    """

    __slots__ = ("_asked_again", "_begun", "_flow", "_guidance", "stage")

    stage: Stage

    def __init__(self, flow: Flow, guidance: Guidance) -> None:
        self._flow = flow
        self._guidance = guidance
        self._asked_again: tuple[Message, ...] = ()
        self._begun: RunningAttempt | None = None

    async def run(self, stage: Stage) -> None:
        """Let the models of that stage answer in turn; where all generators fail, the reasoner may.

        Raises:
            BackendError: they failed, and the ladder has no other rung.
            BudgetExceeded: a limit is used up.
        """
        flow, self.stage = self._flow, stage
        self._begun = self._guidance.begun if stage == "generator" else None
        failure = await flow.down_the_chain(self)
        if failure is not None and not self.may_pass_on():
            raise self._broken(stage, failure) from failure
        if isinstance(failure, NoAnswer) and self._is_kept(stage):
            label_empty(flow.draft, failure)
            failure = None
        if failure is not None:
            self._fall_back(stage, failure)
            try:
                await self.run("reasoner")
            except (InvalidRequest, ContextOverflow) as unable:
                raise failure from unable  # what the reasoner cannot do was asked of the generator
            return
        for index in range(flow.request.n):
            flow.tell(AnswerDone(flow.draft.answer(index), flow.draft.finish_of(index), index))

    @property
    def until(self) -> float | None:
        """The request's deadline."""
        return self._flow.budget.deadline

    async def attempt(self, model: StageModel, number: int) -> None:
        """Let a model answer; what has begun already is the first attempt of all."""
        if number == 1:
            self._asked_again = ()
        begun, self._begun = self._begun, None
        await self._write(begun or await self._planned(self.stage, model))
        await self._hold_to_form(self.stage, model)

    def may_retry(self) -> bool:
        """As `may_pass_on`; a model that failed when it was asked once more is not asked a third time."""
        return not self._asked_again and self.may_pass_on()

    async def _planned(self, stage: Stage, model: StageModel) -> RunningAttempt:
        return await self._flow.in_time(self.plan(stage, model, signal=self._guide(stage)))

    async def _hold_to_form(self, stage: Stage, model: StageModel) -> None:
        """Have an answer without the form that was asked for written once more, where the budget has room for that.

        Where it has none the answer stays as it is, and so does a second one that is no better.
        """
        draft, problem = self._flow.draft, self._unmet()
        if problem is None:
            return
        if not self.may_pass_on():
            self._tell_form(model)
            return
        calls = draft.calls_of(0)
        _log.warning("the answer of %s does not match the requested format; asking once more", model.name)
        self._asked_again = ask_again(draft.answer(0), calls, problem)
        attempt: RunningAttempt | None = None
        try:
            attempt = await self._planned(stage, model)
            await self._write(attempt, again=stage)
        except (BudgetExceeded, ContextOverflow):
            if attempt is not None and attempt.record is not None:
                raise
            _log.warning("the budget has no room for asking %s once more; its answer stays", model.name)
        if self._unmet() is not None:
            self._tell_form(model)

    def _unmet(self) -> str | None:
        """What an answer that has ended by itself lacks of the form that was asked for, None if nothing."""
        request, draft = self._flow.request, self._flow.draft
        if request.n != 1 or draft.finish_of(0) not in ("stop", "tool_calls"):
            return None
        return unmet(request, draft.answer(0), draft.calls_of(0))

    def _tell_form(self, model: StageModel) -> None:
        asked = "tool_choice" if self._flow.request.tools and self._flow.request.tool_choice else "response_format"
        self._flow.parts.degraded.tell(
            (asked, model.name),
            f"{asked} cannot be had with {model.name}: its server does not hold answers to it, and one did not match",
        )

    async def _write(self, attempt: RunningAttempt, *, again: Stage | None = None) -> None:
        """One attempt: what the model writes goes into the draft, ``again`` in place of what is there."""
        flow = self._flow
        holds = flow.outbox.is_read and await flow.in_time(attempt.model.may_open_thought(attempt.call))
        outputs = Outputs(flow, attempt, holds=holds)
        async with attempt:
            if again is not None:
                flow.tell(Retried(again, self.void()))
            await attempt.run(partial(self._read, attempt, outputs.thoughts))
            outputs.complete()
            if not attempt.timed_out:
                outputs.check(attempt)
                self._look_for_what_was_asked(attempt)
        if attempt.timed_out:
            raise flow.budget.deadline_error()

    def _look_for_what_was_asked(self, attempt: RunningAttempt) -> None:
        """Say where logprobs, or several answers, were asked for and did not come."""
        draft, n = self._flow.draft, self._flow.request.n
        came = n if n == 1 else n - sum(map(draft.never_came, range(n)))
        if 0 < came < n and attempt.counter.complete and not attempt.counter.truncated:
            self._flow.parts.degraded.tell(
                ("n", attempt.model.name),
                f"n={n} cannot be had from {attempt.model.name}: its server was asked for {n} answers and gave {came}",
            )
        if self._sampling(self.stage).logprobs is not None and draft.answer(0) and not draft.has_logprobs:
            self._flow.parts.degraded.tell(
                ("logprobs", attempt.model.name),
                f"logprobs cannot be had from {attempt.model.name}: its server was asked for them and sends none",
            )

    async def _read(self, attempt: RunningAttempt, thoughts: Sequence[LeadingThought]) -> None:
        draft, outbox = self._flow.draft, self._flow.outbox
        async for arrived in attempt.incoming:
            for chunk in attempt.take(arrived):
                index, text, thought = chunk.index, chunk.text, thoughts[chunk.index]
                if not thought.is_over:
                    text = thought.feed(text, chunk.reasoning)
                if text:
                    draft.add_text(text, index)
                    if outbox.is_read:
                        outbox.tell(AnswerDelta(text, index, chunk.logprobs))
                if chunk.finish_reason is not None or chunk.logprobs or chunk.tool_calls or chunk.provider_parts:
                    self._note(chunk, attempt.backend)
            if attempt.counter.done or attempt.counter.stopped:
                return
            if len(outbox.events) >= LOOK_AHEAD:
                await outbox.room()
        attempt.exhausted()

    def _note(self, chunk: Chunk, backend: Backend) -> None:
        """What comes with few chunks only: logprobs, pieces of tool calls, the end of an output, what goes back."""
        draft = self._flow.draft
        if chunk.logprobs:
            draft.add_logprobs(chunk.index, chunk.logprobs)
        for delta in chunk.tool_calls:
            draft.add_call(delta)
            self._flow.tell(delta)
        if chunk.finish_reason is not None:
            draft.end_answer(chunk.index, chunk.finish_reason)
        if chunk.provider_parts is not None:
            draft.add_parts(chunk.index, backend, chunk.provider_parts)

    async def plan(
        self, stage: Stage, model: StageModel, *, signal: str, kind: AttemptKind = "answer"
    ) -> RunningAttempt:
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
        want = budget.limits.answer_tokens
        call = call.chosen(
            max_tokens=want,
            sampling=sampling,
            tenant=request.labels.tenant,
            session=request.labels.session,
            tools=tools,
            tool_choice=request.tool_choice,
            response_format=request.response_format,
            n=request.n,
            whole=whole,
        )
        if guided:
            # The window was checked before the signal was bought; a tokenizer that makes more of it than
            # the reasoner's did only shortens the answer.
            prompt = await prompt_size(model.backend, call, exact=budget.counts)
            window = able.context_tokens
            if window is not None and prompt.tokens + want > window:
                prompt = await prompt_size(model.backend, call, exact=True)
                want = max(1, min(want, window - prompt.likely))
        else:
            prompt = await fitting_prompt(model.backend, call, able, budget, room=want, what=f"{stage}'s")
        usd_of = price_bound(parts.prices, model.name, model.backend, budget)
        limit = budget.largest_output(prompt.tokens, want=want, usd_of=usd_of, outputs=request.n)
        if limit != call.max_tokens:
            call = replace(call, max_tokens=limit)
        return RunningAttempt(self._flow, model, call, kind=kind, prompt=prompt, usd_of=usd_of, until=budget.deadline)

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
        seen = flow.seen_by(stage) if flow.draft.agent is None else await flow.read_by(stage, model)
        seen = flatten_tools(seen) if not able.tools else with_own_parts(seen, model.backend)
        if stage == "reasoner":
            return False, without_signal(seen, prompts=Prompts(), thinking=None)
        carried = next((message.signal for message in reversed(seen) if message.signal), None)
        made = signal if signal != carried else ""
        if not made and carried is None:
            return False, without_signal(seen, prompts=flow.prompts)
        reasoner = self._guidance.reasoner
        flow.draft.handoff, call = await flow.guided(reasoner, model, seen, made or None, tools)
        return bool(made), call

    def may_pass_on(self) -> bool:
        """Whether the answer may start over: no part of it was handed on, or the policy says to void it then."""
        flow = self._flow
        return not flow.draft.answered or flow.request.whole or flow.parts.failure.answer_broken != "error"

    def start_over(self) -> bool:
        """As `void`."""
        return self.void()

    def void(self) -> bool:
        """Void what has been answered so far; whether there was anything."""
        answered = self._flow.draft.answered
        self._flow.draft.discard_answers()
        return answered

    def _broken(self, stage: Stage, error: BackendError) -> StreamBroken:
        draft = self._flow.draft
        return StreamBroken(
            f"the answer was cut off: {error}",
            partial=draft.answer(0),
            usage=draft.account.stage_usage(stage),
            backend=error.backend,
            model=error.model,
            status=error.status,
            retry_after=error.retry_after,
        )

    def _can_fall(self, stage: Stage) -> bool:
        """Whether the reasoner may answer in place of generators that failed."""
        return stage == "generator" and self._flow.request.mode == "duet" and not self._guidance.failed

    def _is_kept(self, stage: Stage) -> bool:
        """Whether an answer that says nothing is the reply: nothing else can answer, and that is no error."""
        parts = self._flow.parts
        return parts.failure.ladder.generator != "raise" and not self._can_fall(stage) and parts.fallback is None

    def _fall_back(self, stage: Stage, error: BackendError) -> None:
        """Let the reasoner answer in place of generators that failed, or fail.

        Raises:
            BackendError: the ladder says to fail, another pair can take over, or no model is left.
        """
        flow, draft = self._flow, self._flow.draft
        can_fall = self._can_fall(stage)
        other_pair = flow.parts.fallback is not None
        outage = is_outage(error, spent=draft.account.spent)
        if flow.parts.failure.ladder.generator == "raise" or not can_fall or other_pair or not outage:
            if draft.answered:
                raise self._broken(stage, error) from error
            raise error
        discard = self.void()
        draft.account.discard("signal", "wrap_up")
        draft.served_by, draft.handoff = "reasoner_fallback", None
        name = flow.parts.reasoners[0].name
        said = cause(error)
        _log.warning("%s failed with %s (%s); %s answers", error.model, type(error).__name__, said, name)
        draft.causes.append(said)
        flow.tell(FellBack("generator", "reasoner_fallback", type(error).__name__, discard, model=name, error=said))
