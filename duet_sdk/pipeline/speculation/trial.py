"""An answer of the generator that is judged by its first tokens: the one mechanism of every gate that lets it try."""

from __future__ import annotations

import logging
from functools import partial

from duet_sdk.backends.base import Chunk
from duet_sdk.errors import BackendError, BudgetExceeded, ConfigError, DeadlineExceeded, Rejected
from duet_sdk.gate import TokenGate
from duet_sdk.pipeline.answer_stage import AnswerStage
from duet_sdk.pipeline.asking import Guidance
from duet_sdk.pipeline.attempt import RunningAttempt
from duet_sdk.pipeline.deciding import decided
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.models import StageModel
from duet_sdk.reply import GateDecision
from duet_sdk.types import TokenLogprob

_log = logging.getLogger(__name__)

NO_LOGPROBS = "the generator reports no logprobs, as it has shown before"
NO_ROOM = "the budget leaves no room for the generator to try"


class Trial:
    """One attempt at an answer whose first tokens are held back until the gate has judged them.

    Await `judge` first. Then either `adopt` it and let the answering stage go on with it, as if it had just begun
    (nothing is generated twice); or `drop` it: the model is stopped and what it wrote is charged as a probe. Dropping
    it more than once, when it never ran, or after it was adopted, is harmless.

    Args:
        flow: the request.
        gate: who judges.
        guidance: who wrote the signal that guides the answer.
        signal: what guides the answer, empty for none.
        until: when the verdict must be there, on the budget's clock; None for the request's own deadline.

    Attributes:
        decision: the verdict, once `judge` is over.
        is_judged: whether it is under way, and neither adopted nor dropped.
    """

    def __init__(
        self, flow: Flow, gate: TokenGate, guidance: Guidance, *, signal: str = "", until: float | None = None
    ) -> None:
        self._flow = flow
        self._gate = gate
        self._guidance = guidance
        self.signal = signal
        self._until = until
        self._attempt: RunningAttempt | None = None
        self._is_adopted = False
        self._held: list[Chunk] = []
        self.is_judged = False
        self.decision = GateDecision(
            ask=True, policy=gate.name, reason="the generator's first tokens did not arrive in time"
        )

    async def judge(self) -> None:
        """Let the generator begin, and the gate judge; what the generator cannot do or fails in counts as yes.

        Raises:
            ConfigError: the generator reports no logprobs; nothing was spent.
            DeadlineExceeded: the request's time is used up.
        """
        self.is_judged = True
        attempt: RunningAttempt | None = None
        try:
            attempt = await self._flow.in_time(self._plan())
            await attempt.__aenter__()
            self._attempt = attempt
            self.decision = await self._verdict(attempt)
        except BackendError as error:
            if isinstance(error, Rejected) and "logprob" in str(error):
                withholds_logprobs(self._flow, self._flow.chain("generator")[0], self._gate)
            self._fail(f"the generator failed with {type(error).__name__}")
            await _leave(attempt, error)
        except DeadlineExceeded as error:
            await _leave(attempt, error)
            raise
        except BudgetExceeded as error:
            self._fail(NO_ROOM)
            await _leave(attempt, error)
        except BaseException as error:
            await _leave(attempt, error)
            raise
        if attempt is not None and attempt.timed_out and self._until is None:
            await self.drop()
            raise self._flow.budget.deadline_error()

    async def _plan(self) -> RunningAttempt:
        model = self._flow.chain("generator")[0]
        await check_logprobs(self._flow)
        stage = AnswerStage(self._flow, self._guidance)
        attempt = await stage.plan("generator", model, signal=self.signal, kind="probe")
        attempt.discarded = True
        if self._until is not None:
            attempt.extend(self._until)
        return attempt

    async def _verdict(self, attempt: RunningAttempt) -> GateDecision:
        tokens: list[TokenLogprob] = []
        await attempt.run(partial(self._hold_back, attempt, tokens))
        if attempt.timed_out:
            return self.decision
        if tokens:
            judging = self._gate.judge(self._flow.request, tokens[: self._gate.first_tokens])
            return await decided(self._flow, self._gate, judging)
        if any(chunk.text for chunk in self._held):  # a tool call may come without them
            withholds_logprobs(self._flow, attempt.model, self._gate)
        what = "reported no logprobs" if attempt.tokens else "wrote nothing"
        return GateDecision(ask=True, policy=self._gate.name, reason=f"the generator {what}")

    async def _hold_back(self, attempt: RunningAttempt, tokens: list[TokenLogprob]) -> None:
        """Hold back chunks until the first answer has as many tokens as the gate wants, or is over."""
        wanted, outputs = self._gate.first_tokens, self._flow.request.n
        async for arrived in attempt.incoming:
            is_over = False
            for chunk in attempt.take(arrived):
                self._held.append(chunk)
                if chunk.index == 0:
                    tokens += chunk.logprobs
                    is_over |= chunk.finish_reason is not None
            told_nothing = not tokens and attempt.tokens >= wanted * outputs
            counter = attempt.counter
            if len(tokens) >= wanted or is_over or told_nothing or counter.done or counter.stopped:
                return
        attempt.exhausted()

    def _fail(self, reason: str) -> None:
        self.decision = GateDecision(ask=True, policy=self._gate.name, reason=reason)

    @property
    def runs(self) -> bool:
        """Whether the attempt is under way, so that it can be adopted."""
        attempt = self._attempt
        return attempt is not None and attempt.record is None and not attempt.timed_out

    def adopt(self) -> RunningAttempt | None:
        """Make it the answer: the answering stage goes on with it, from its first token. None if it does not run."""
        attempt = self._attempt
        if attempt is None or not self.runs:
            return None
        attempt.kind, attempt.discarded = "answer", False
        attempt.extend(self._flow.budget.deadline)
        # The gate asked for logprobs; the caller may not have.
        attempt.replay(self._held, without_logprobs=self._flow.request.generator_sampling.logprobs is None)
        self.is_judged, self._is_adopted = False, True
        return attempt

    async def drop(self) -> None:
        """Stop the model and settle what it wrote as a probe."""
        self.is_judged = False
        if self._attempt is not None and not self._is_adopted:
            self._attempt.not_needed()
            await _leave(self._attempt, None)

    async def abandon(self) -> None:
        """As `drop`, also where it was adopted and the answering stage never began."""
        await self.drop()
        await _leave(self._attempt, None)


async def _leave(attempt: RunningAttempt | None, error: BaseException | None) -> None:
    if attempt is not None and attempt.is_entered:
        await attempt.__aexit__(type(error) if error else None, error, None)


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


def withholds_logprobs(flow: Flow, model: StageModel, gate: TokenGate) -> None:
    """Remember that a generator cannot be judged, so that no request pays for a try again, and say so once."""
    model.sent_no_logprobs()
    _log.warning("%s sends no logprobs, so that %s cannot judge it; the reasoner is asked", model.name, gate.name)
    flow.parts.degraded.tell(
        ("gate", gate.name, model.name),
        f"{gate.name!r} cannot be had with {model.name}, whose server sends no logprobs: the reasoner is asked every "
        "time, and no more tries are made; choose gate='heuristic', or leave progressive out",
    )
