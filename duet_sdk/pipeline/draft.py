"""What is known about a reply while it is produced; a reply can be made from it at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from duet_sdk.agents.history import without_signals
from duet_sdk.agents.run import AgentRun, RunMemory, has_tools
from duet_sdk.backends.base import Backend
from duet_sdk.budget import RequestBudget
from duet_sdk.events import ToolCallDelta
from duet_sdk.pipeline.causes import why
from duet_sdk.pipeline.charging import Charging
from duet_sdk.pipeline.votes import choose
from duet_sdk.receipt import Account, ReasonerOnly
from duet_sdk.reply import GateDecision, ReasonerOnlyEstimate, Reply, Signal
from duet_sdk.request import Request
from duet_sdk.think_tags import gather
from duet_sdk.types import HandoffName, Json, ProviderParts, ServedBy, Stage, TokenLogprob, ToolCall

_SERVED_BY: dict[str, ServedBy] = {
    "duet": "pair",
    "generator": "generator",
    "reasoner": "reasoner",
    "signal": "reasoner",
}


class Draft:
    """The reply of one request so far."""

    __slots__ = (
        "_calls",
        "_finishes",
        "_logprobs",
        "_parts",
        "_texts",
        "account",
        "agent",
        "budget",
        "causes",
        "charging",
        "finish",
        "gate",
        "handoff",
        "models",
        "reasoner_only",
        "request",
        "served_by",
        "signal",
    )

    def __init__(
        self,
        request: Request,
        budget: RequestBudget,
        models: Mapping[Stage, str],
        *,
        charging: Charging | None = None,
    ) -> None:
        self.request = request
        self.budget = budget
        self.models = models
        self.charging = charging
        self.account = Account()
        self.reasoner_only: ReasonerOnly | None = None
        self.agent: AgentRun | None = None
        self.gate: GateDecision | None = None
        self.handoff: HandoffName | None = None
        self.signal = Signal()
        self.served_by: ServedBy = _SERVED_BY[request.mode]
        self.finish: str | None = None
        self.causes: list[str] = []
        """What failed on the way, in words for `Reply.why`."""
        self.discard_answers()

    def begin_turn(self, memory: RunMemory, models: Sequence[str]) -> None:
        """Take the request as a turn of an agent's run, where it is one; `end_turn` books it there."""
        if self.request.mode == "duet" and has_tools(self.request):
            self.agent = AgentRun(self.request, memory, models)
            self.request = self.agent.request
        elif any(message.signal for message in self.request.messages):
            self.request = replace(self.request, messages=without_signals(self.request.messages))

    def end_turn(self) -> None:
        """Book the request on its run, where `done` has not; harmless otherwise."""
        if self.agent is not None and not self.agent.left:
            self.agent.leave(self.reply("cancelled").message, self.account)

    def done(self) -> Reply:
        """The complete reply.

        Raises:
            InvalidRequest: as `reply`.
        """
        reply = self.reply()
        if self.agent is not None:
            self.agent.leave(reply.message, self.account)
        return reply

    def reuse_signal(self) -> None:
        """Let the run's signal guide the answer, where there is one."""
        if self.agent is not None and self.agent.signal:
            self.signal, self.handoff = self.agent.guiding(), "instruct"
        else:
            self.served_by = "generator"

    def discard_answers(self) -> None:
        """Forget what has been answered so far: another model starts over."""
        if self.account.attempts:
            self.account.discard("answer")
        self._texts: list[list[str]] = [[] for _ in range(self.request.n)]
        self._finishes: list[str | None] = [None] * self.request.n
        self._calls: dict[tuple[int, int], list[str]] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._parts: dict[int, tuple[Backend, Json]] = {}

    def start_over(self) -> bool:
        """Forget signal and answers, but not what they cost: another pair takes over. Whether there was an answer."""
        answered = self.answered
        self.signal, self.handoff, self.served_by = Signal(), None, _SERVED_BY[self.request.mode]
        self.account.discard("signal", "wrap_up")
        self.discard_answers()
        return answered

    def add_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        """Append to those of answer number ``index``."""
        self._logprobs.setdefault(index, []).extend(logprobs)

    def never_came(self, index: int) -> bool:
        """Whether nothing at all has come of answer number ``index``, not even its end."""
        return self._finishes[index] is None and self.says_nothing(index)

    @property
    def has_logprobs(self) -> bool:
        """Whether any have come."""
        return any(self._logprobs.values())

    def add_text(self, text: str, index: int) -> None:
        """Append to answer number ``index``."""
        if self.account.first_answer_s is None:
            self.account.first_answer_s = self.budget.elapsed_s()
        gather(self._texts[index], text)

    def replace_text(self, text: str, index: int) -> None:
        """This is answer number ``index`` in place of what there is of it."""
        self._texts[index] = [text] if text else []

    def says_nothing(self, index: int) -> bool:
        """Whether answer number ``index`` has neither text nor tool calls."""
        for piece in self._texts[index]:
            if piece and not piece.isspace():
                return False
        return not self.calls_of(index)

    def add_call(self, delta: ToolCallDelta) -> None:
        """Append to a tool call."""
        if self.account.first_answer_s is None:
            self.account.first_answer_s = self.budget.elapsed_s()
        call = self._calls.setdefault((delta.index, delta.position), ["", "", ""])
        call[0] = delta.id or call[0]
        call[1] = delta.name or call[1]
        call[2] += delta.arguments

    def add_parts(self, index: int, backend: Backend, parts: Json) -> None:
        """What the model wants back with answer number ``index``, in place of what there was."""
        self._parts[index] = backend, parts

    def end_answer(self, index: int, finish_reason: str | None) -> None:
        """Answer number ``index`` is complete."""
        self._finishes[index] = finish_reason

    def finish_of(self, index: int) -> str:
        """Why answer number ``index`` ended; one that its model did not end itself was cut."""
        return self._finishes[index] or "length"

    def answer(self, index: int) -> str:
        """Answer number ``index``, as far as it has come."""
        return "".join(self._texts[index])

    @property
    def answered(self) -> bool:
        """Whether any part of an answer has arrived."""
        return bool(self._calls) or any(self._texts)

    def reply(self, finish_reason: str | None = None) -> Reply:
        """The reply as it stands; ``finish_reason`` says how it ended, None takes the answer's own.

        Raises:
            InvalidRequest: the user's vote named no answer.
        """
        request = self.request
        if self.agent is not None:
            self.account.run = self.agent.totals(self.account)
        answers = tuple([self.answer(index) for index in range(request.n)])
        winner, agreement = 0, None
        if request.n > 1:
            winner = next((index for index in range(request.n) if not self.says_nothing(index)), 0)
        if finish_reason is None and request.vote is not None and request.mode != "signal":
            all_calls = [self.calls_of(index) for index in range(request.n)]
            winner, agreement = choose(answers, request.vote, calls=all_calls)
        ended = finish_reason or self.finish or self.finish_of(winner)
        usage, cost, receipt = self.account.books(self.budget.elapsed_s(), self._estimate_reasoner_only())
        text, calls = answers[winner], self.calls_of(winner)
        parsed, misfit = None, ""
        if request.parser is not None and text and not calls and request.mode != "signal":
            parsed, misfit = request.parser.read(text)
        return Reply(
            text=text,
            signal=self.signal,
            usage=usage,
            cost=cost,
            mode=request.mode,
            served_by=self.served_by,
            handoff=self.handoff,
            gate=self.gate,
            finish_reason=ended,
            tool_calls=calls,
            answers=() if request.mode == "signal" else answers,
            agreement=agreement,
            logprobs=tuple(self._logprobs.get(winner, ())),
            models=self.models,
            receipt=receipt,
            why=why(
                request.mode,
                self.served_by,
                self.gate,
                self.causes,
                finish_reason=ended,
                answer_tokens=self.budget.limits.answer_tokens,
                misfit=misfit,
            ),
            parsed=parsed,
            provider_parts=self._parts_of(winner) if self._parts else None,
        )

    def calls_of(self, index: int) -> tuple[ToolCall, ...]:
        """The tool calls of answer number ``index``."""
        if not self._calls:
            return ()
        return tuple(ToolCall(*self._calls[at]) for at in sorted(self._calls) if at[0] == index)

    def _parts_of(self, index: int) -> ProviderParts | None:
        if index not in self._parts:
            return None
        backend, parts = self._parts[index]
        ids = {at[1]: call[0] for at, call in self._calls.items() if at[0] == index}
        calls = {ids[position]: fields for position, fields in parts["calls"].items() if position in ids}
        text = json.dumps({"message": parts["message"], "calls": calls}, ensure_ascii=False)
        return ProviderParts(backend.endpoint_id, backend.model, text)

    def _estimate_reasoner_only(self) -> ReasonerOnlyEstimate | None:
        if self.reasoner_only is None or self.request.mode == "signal":
            return None
        if self.reasoner_only.output_tokens is None and self.request.mode == "duet" and self.served_by == "pair":
            return None  # no answer of the reasoner and no calibration to estimate from
        return self.reasoner_only.estimate(self.account.attempts, answers=self.request.n)
