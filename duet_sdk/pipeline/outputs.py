"""What the outputs of an attempt come to: the answer and not the thinking, and whether there is one at all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from duet_sdk.answer_form import calls_written
from duet_sdk.backends.answers.tool_calls import ToolCalls
from duet_sdk.errors import NoAnswer
from duet_sdk.events import AnswerDelta
from duet_sdk.pipeline.causes import cause
from duet_sdk.think_tags import LeadingThought, split

if TYPE_CHECKING:
    from duet_sdk.pipeline.attempt import RunningAttempt
    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.pipeline.flow import Flow

_log = logging.getLogger(__name__)
_BY_CALLS: Final = ("tool_calls", "stop")
"""How an output ends by itself, with and without calls."""


class Outputs:
    """The outputs of one attempt while they are written.

    In a stream a text is held back where it may be thinking that a template has opened: where the template, or its
    server, says so, or where the model's last answer held a closing tag alone. The first answer of a model that nothing
    is known of is shown as it comes; the reply, and `AnswerDone`, are right all the same.

    Args:
        flow: the request.
        attempt: who writes them.
        holds: hold texts back.

    Attributes:
        thoughts: by output, what takes its thinking off.
    """

    __slots__ = ("_flow", "_holds", "_model", "thoughts")

    def __init__(self, flow: Flow, attempt: RunningAttempt, *, holds: bool) -> None:
        self._flow = flow
        self._model = attempt.model
        self._holds = holds
        self.thoughts = [LeadingThought(opened=self._holds) for _ in range(flow.request.n)]

    def complete(self) -> None:
        """The attempt has ended: give what was held back, and take off thinking whose end alone was marked."""
        for index, thought in enumerate(self.thoughts):
            self._complete(index, thought)

    def _complete(self, index: int, thought: LeadingThought) -> None:
        draft = self._flow.draft
        ended = draft.finish_of(index)
        if not thought.is_over:
            rest = thought.end(was_cut=ended == "length")
            if not rest.strip():
                # A parser that found no end of the thinking has taken the answer for more of it.
                is_answer = ended == "stop" and not thought.found and draft.says_nothing(index)
                rest = split(thought.separate)[1].strip() if is_answer else ""
                if rest and self._calls(index, rest):
                    return
            if rest:
                draft.add_text(rest, index)
                self._flow.tell(AnswerDelta(rest, index))
        if ended in _BY_CALLS and ended != (fitting := _BY_CALLS[not draft.calls_of(index)]):
            draft.end_answer(index, fitting)  # some say so without a call, or end before the call
        if thought.separate:
            return
        if not thought.found:
            thinking, answer = split(draft.answer(index))
            if thinking:
                draft.replace_text(answer, index)
                thought.found = self._model.leaves_thoughts_open = True
        if self._holds and not thought.found:
            self._model.leaves_thoughts_open = False

    def _calls(self, index: int, text: str) -> bool:
        """Take a text for the tool calls that had to be made; whether it is some."""
        draft = self._flow.draft
        calls = ToolCalls(index)
        read = calls.read([{"function": call} for call in calls_written(self._flow.request, text)], whole=True)
        for delta in (*(delta for delta, _ in read), *calls.end()):
            draft.add_call(delta)
            self._flow.tell(delta)
        if read:
            draft.end_answer(index, "tool_calls")
        return bool(read)

    def check(self, attempt: RunningAttempt) -> None:
        """Take an answer that says nothing for what it is.

        Raises:
            NoAnswer: no output says anything, and another model may.
        """
        draft = self._flow.draft
        outputs = range(self._flow.request.n)
        said = [index for index in outputs if not draft.says_nothing(index)]
        if said:
            for index in outputs if len(said) < len(outputs) else ():
                if draft.says_nothing(index) and draft.finish_of(index) == "stop":
                    draft.end_answer(index, "empty")
            return
        ended = draft.finish_of(0)
        has_thought = any(thought.found or thought.separate for thought in self.thoughts)
        if ended == "length":
            what = f"its limit of {attempt.call.max_tokens} tokens was used up" + (
                " by thinking" if has_thought else ""
            )
            hint = "; raise answer_tokens, or turn its thinking off"
        elif ended == "content_filter":
            what, hint = "a content filter ended it", ""
        else:
            what, hint = "it wrote nothing but thinking" if has_thought else "its text is empty", ""
        backend = attempt.backend
        error = NoAnswer(
            f"{backend.name}/{backend.model} gave no answer: {what}{hint}",
            backend=backend.name,
            model=backend.model,
            retryable=ended not in ("length", "content_filter"),
        )
        if self._flow.parts.failure.answer_empty == "next":
            raise error
        label_empty(draft, error)


def label_empty(draft: Draft, error: NoAnswer) -> None:
    """Make the empty answers of a draft say that they are."""
    said = cause(error)
    _log.warning("the reply says nothing: %s", said)
    draft.causes.append(said)
    for index in range(draft.request.n):
        if draft.finish_of(index) in ("stop", "tool_calls"):
            draft.end_answer(index, "empty")
