"""An answer of the generator that is judged by its first tokens: the one mechanism of every gate that lets it try."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, cast

from duet_sdk.backends.base import Chunk
from duet_sdk.errors import BackendError, BudgetExceeded, ConfigError, DeadlineExceeded
from duet_sdk.events import AttemptEnded, Event
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.answer_stage import Answering
from duet_sdk.pipeline.attempt import RunningCall
from duet_sdk.pipeline.deciding import decided
from duet_sdk.pipeline.flow import Flow
from duet_sdk.reply import GateDecision
from duet_sdk.types import TokenLogprob

NO_ROOM = "the budget leaves the generator no room to try"


class Tentative:
    """One attempt at an answer whose first tokens are held back until the gate has judged them.

    Iterate `judging` to its end first. Then either `adopt` it and let the answering stage go on with it, as if it had
    just begun (nothing is generated twice); or `drop` it: the model is stopped and what it wrote is charged as a
    probe. Dropping it more than once, or when it never ran, is harmless.

    Args:
        flow: the request.
        gate: who judges.
        signal: what guides the answer, empty for none.
        until: when the verdict must be there, on the budget's clock; None for the request's own deadline.

    Attributes:
        decision: the verdict, once `judging` is at its end.
    """

    def __init__(self, flow: Flow, gate: TokenGate, *, signal: str = "", until: float | None = None) -> None:
        self._flow = flow
        self._gate = gate
        self.signal = signal
        self._until = until
        self._running: RunningCall | None = None
        self._entered = AsyncExitStack()
        self._held: deque[Chunk] = deque()
        self.decision = GateDecision(
            ask=True, policy=gate.name, reason="the generator's first tokens did not come in time"
        )

    async def judging(self) -> AsyncGenerator[Event, None]:
        """Let the generator begin, and the gate judge; what the generator cannot do or fails in counts as yes.

        Raises:
            ConfigError: the generator reports no logprobs; nothing was spent.
            DeadlineExceeded: the request's time is used up.
        """
        self._flow.judged = True
        try:
            running = await self._flow.in_time(self._plan())
            async with AsyncExitStack() as stack:
                self._running = await stack.enter_async_context(running)
                yield running.started()
                self.decision = await self._verdict(running)
                self._entered = stack.pop_all()
        except BackendError as error:
            self._fail(f"the generator failed with {type(error).__name__}")
            if self._running is not None and self._running.record is not None:
                yield self._running.ended()
        except DeadlineExceeded:
            raise
        except BudgetExceeded:
            self._fail(NO_ROOM)
        if self.timed_out and self._until is None:
            for event in await self.drop():
                yield event
            raise self._flow.budget.deadline_error()

    async def _plan(self) -> RunningCall:
        model = self._flow.chain("generator")[0]
        await check_logprobs(self._flow)
        running = await Answering(self._flow).plan("generator", model, signal=self.signal, kind="probe")
        running.discarded = True
        if self._until is not None:
            running.extend(self._until)
        return running

    async def _verdict(self, running: RunningCall) -> GateDecision:
        tokens = await self._first_tokens(running)
        if running.timed_out:
            return self.decision
        if tokens:
            return await decided(self._flow, self._gate, self._gate.judge(self._flow.request, tokens))
        what = "reported no logprobs" if running.tokens else "wrote nothing"
        return GateDecision(ask=True, policy=self._gate.name, reason=f"the generator {what}")

    async def _first_tokens(self, running: RunningCall) -> list[TokenLogprob]:
        """Hold back chunks until the first answer has as many tokens as the gate wants, or is over."""
        wanted, outputs = self._gate.first_tokens, self._flow.request.n
        tokens: list[TokenLogprob] = []
        async for chunk in running:
            self._held.append(chunk)
            if chunk.index != 0:
                continue
            tokens += chunk.logprobs
            told_nothing = not tokens and running.tokens >= wanted * outputs
            if len(tokens) >= wanted or chunk.finish_reason is not None or told_nothing:
                break
        return tokens[:wanted]

    def _fail(self, reason: str) -> None:
        self.decision = GateDecision(ask=True, policy=self._gate.name, reason=reason)

    @property
    def runs(self) -> bool:
        """Whether the attempt is under way, so that it can be adopted."""
        return self._running is not None and self._running.record is None and not self._running.timed_out

    def adopt(self) -> None:
        """Make it the answer: the answering stage goes on with it, from its first token."""
        running = cast("RunningCall", self._running)
        running.kind, running.discarded = "answer", False
        running.extend(self._flow.budget.deadline)
        self._flow.judged, self._flow.adopted = False, self

    @property
    def timed_out(self) -> bool:
        """Whether the request's deadline ended it."""
        return self._running is not None and self._running.timed_out

    def ended(self) -> AttemptEnded:
        """The event that closes the attempt; only after leaving its context."""
        return cast("RunningCall", self._running).ended()

    async def __aenter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._running is None:
            raise StopAsyncIteration
        chunk = self._held.popleft() if self._held else await anext(self._running)
        if self._flow.request.generator_sampling.logprobs is None:
            chunk.logprobs = ()  # the gate asked for them, not the caller
        return chunk

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered.__aexit__(exc_type, exc, traceback)

    async def drop(self) -> list[Event]:
        """Stop the model and settle what it wrote as a probe; gives the event that closes the attempt if it ran."""
        self._flow.judged = False
        if self._running is None or self._running.record is not None:
            return []
        self._running.not_needed()
        await self._entered.aclose()
        return [self._running.ended()]


async def check_logprobs(flow: Flow) -> None:
    """Whether the generator can be judged by its tokens.

    Raises:
        ConfigError: it cannot; nothing was spent.
        BackendError: it is not there.
    """
    model = flow.chain("generator")[0]
    if not (await model.connect()).logprobs:
        raise ConfigError(
            f"{model.name} reports no logprobs, and a gate or progressive signal judges the generator by them; "
            "choose gate='heuristic', or leave progressive out"
        )
