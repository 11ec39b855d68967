"""One signal in the making: how it is asked for, within which limits, what has come of it, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from duet_sdk._tasks import apart
from duet_sdk.backends.base import Call, Capabilities
from duet_sdk.backends.provider_parts import without_parts
from duet_sdk.budget import UsdOf
from duet_sdk.cache import CacheKey
from duet_sdk.context import flatten_tools, without_images
from duet_sdk.errors import BackendError
from duet_sdk.handoff import Handoff, review, without_signal
from duet_sdk.pipeline.admission import PromptSize, check_abilities, check_sampling, fitting_prompt, price_bound
from duet_sdk.pipeline.attempt import RunningAttempt
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.models import StageModel
from duet_sdk.reply import Signal
from duet_sdk.signal import Extractor


@dataclass(slots=True)
class Asking:
    """One signal in the making: how its reasoner is asked, and what has come so far."""

    model: StageModel
    handoff: Handoff
    call: Call
    prompt: PromptSize
    limit: int
    usd_of: UsdOf
    extractor: Extractor
    attempts: list[RunningAttempt] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    failure: BackendError | None = None
    key: CacheKey | None = None
    """What it is kept under, where there is a cache."""

    @property
    def tokens(self) -> int:
        """What has been billed for this signal."""
        tokens = 0
        for attempt in self.attempts:
            tokens += attempt.tokens
        return tokens

    def signal(self, text: str) -> Signal:
        """The signal with this text."""
        tokens, honoured = 0, True
        for attempt in self.attempts:
            tokens += attempt.tokens
            honoured &= attempt.honoured
        counted_by = self.attempts[0].counted_by if self.attempts else "none"
        return Signal(text, tokens, self.limit, self.truncated, honoured, counted_by)

    @property
    def truncated(self) -> bool:
        """Whether something other than the model ended it."""
        if self.extractor.ended:
            return False
        for attempt in self.attempts:
            if attempt.counter.truncated:
                return True
        return self.failure is not None


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the signal's stage leaves to the stage that answers; the signal itself is in the draft."""

    reasoner: StageModel
    """Who wrote the signal, or was the last to be asked for one."""
    failed: bool = False
    """Whether the reasoner has failed, so that it cannot answer in the generator's place."""
    begun: RunningAttempt | None = None
    """An answer that is under way already, and goes on."""

    async def abandon(self) -> None:
        """Settle an answer that was not continued; does nothing if it was."""
        if self.begun is not None:
            async with self.begun:
                pass


async def plan_signal(
    flow: Flow, model: StageModel, generator: tuple[StageModel, Capabilities] | None, *, joined: bool
) -> Asking:
    """Check that the whole request fits, before the reasoner spends a token.

    Args:
        flow: the request.
        model: who is asked.
        generator: who will answer, and what it can do; None if only the signal is asked for.
        joined: its pieces are not shown.

    Raises:
        BackendError: the model is not there.
        ContextOverflow: prompts and limits do not fit.
        BudgetExceeded: not even a signal and an answer of one token fit.
    """
    parts, budget = flow.parts, flow.budget
    want = budget.limits.signal_tokens
    able = await model.connect()
    handoff = await flow.handoff(model, generator[0] if generator else parts.generators[0])
    ask = await way_of_asking(flow, model, handoff, able, joined=joined)
    call = ask(want)
    check_sampling(call.sampling, model.backend, able, "reasoner")
    usd_of = price_bound(parts.prices, model.name, model.backend, budget)
    prompt = await fitting_prompt(model.backend, call, able, budget, room=want, what="reasoner's")
    if generator is None:
        limit = budget.largest_output(prompt.tokens, want=want, usd_of=usd_of)
    else:
        limit = await _largest_signal(flow, handoff, *generator, prompt=prompt, want=want, usd_of=usd_of)
    return Asking(model, handoff, call if limit == want else ask(limit), prompt, limit, usd_of, handoff.extractor())


async def _largest_signal(
    flow: Flow,
    handoff: Handoff,
    model: StageModel,
    able: Capabilities,
    *,
    prompt: PromptSize,
    want: int,
    usd_of: UsdOf,
) -> int:
    """The longest signal that leaves the generator its window and its share of the budget."""
    parts, request, budget = flow.parts, flow.request, flow.budget
    want_answer = budget.limits.answer_tokens
    check_abilities(request, model.backend, able, "generator")
    call = await unfilled_answer(flow, model, handoff)
    room = want + want_answer
    answer_prompt = await fitting_prompt(model.backend, call, able, budget, room=room, what="generator's")
    # A wrap-up pays for the prompt and the signal once more.
    again = prompt.tokens + want if parts.cut.reserve else 0
    return budget.largest_signal(
        prompt.tokens + again,
        answer_prompt.tokens,
        want=want,
        want_answer=want_answer * request.n,
        signal_usd=usd_of,
        answer_usd=price_bound(parts.prices, model.name, model.backend, budget),
    )


async def way_of_asking(
    flow: Flow, model: StageModel, handoff: Handoff, able: Capabilities, *, joined: bool = False
) -> Callable[[int], Call]:
    """How this request's signal is asked for: limit → call; ``joined`` if its pieces are not shown."""
    agent = flow.draft.agent
    read = flow.seen_by("reasoner") if agent is None else await flow.read_by("reasoner", model)
    if len(read) > 1:  # one message has no neighbour, and no call before it
        read = await apart(lambda: flatten_tools(read), characters=sum([len(message.text) for message in read]))
    seen = without_parts(read)
    if agent is not None and any(message.signal for message in seen):
        seen = review(seen, agent.why)
    seen = seen if able.images else without_images(seen)
    sampling = flow.request.reasoner_sampling

    def ask(limit: int) -> Call:
        call = handoff.ask(seen, limit=limit, prompts=flow.prompts_of(handoff), tools=flow.request.tools)
        stops = call.sampling.stop
        return call.chosen(
            max_tokens=call.max_tokens,
            sampling=replace(sampling, stop=(*sampling.stop, *stops)) if stops else sampling,
            tenant=flow.request.labels.tenant,
            session=flow.request.labels.session,
            joined=joined,
        )

    return ask


async def unfilled_answer(flow: Flow, model: StageModel, handoff: Handoff) -> Call:
    """The call that answers, as far as its prompt is known before there is a signal."""
    seen = flow.seen_by("generator") if flow.draft.agent is None else await flow.read_by("generator", model)
    guided: Call | None = None
    if handoff.name == "instruct":
        guided = await handoff.answer(seen, "", prompts=flow.prompts, tools=flow.request.tools)
    if guided is None:
        guided = without_signal(seen, prompts=flow.prompts)
    return replace(guided, tools=flow.request.tools) if flow.request.tools else guided
