"""The messages of one model as its server takes them, learned from what it refuses: order, missing and odd fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from duet_sdk.backends.provider_parts import PART_FIELDS, own_parts, parts_of, put_parts
from duet_sdk.errors import BackendError, Rejected
from duet_sdk.rendering.folding import AS_IT_IS, Folding, Turn, folded
from duet_sdk.types import Message


@dataclass(frozen=True, slots=True)
class Form:
    """What a conversation is brought into."""

    level: int = AS_IT_IS
    """How far it is folded."""
    stand_ins: frozenset[str] = frozenset()
    """What is put where another model's turn, or one from elsewhere, has nothing to give back."""
    left_out: frozenset[str] = frozenset()
    """Fields that the server writes and does not read."""


_AS_IT_IS: Final = Form()


class WireTurns:
    """Writes the conversations of one model.

    Args:
        endpoint: the backend's `endpoint_id`.
        model: as the backend knows it.

    Attributes:
        form: of every conversation from now on.
    """

    __slots__ = ("_endpoint", "_model", "form")

    def __init__(self, endpoint: str, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        self.form = _AS_IT_IS

    def of(self, messages: Sequence[Message]) -> list[Turn]:
        """The messages in OpenAI's form, with those parts that this model at this endpoint wrote."""
        form = self.form
        if form is _AS_IT_IS and not any(map(parts_of, messages)):
            return [message.on_wire() for message in messages]
        turns, took_tools = [], "reasoning_content" in form.stand_ins
        for message in messages:
            turn = message.on_wire()
            if message.role == "user":
                took_tools = "reasoning_content" in form.stand_ins
            took_tools = took_tools or bool(message.tool_calls)
            if (parts := own_parts(message, self._endpoint, self._model)) is not None:
                put_parts(turn, parts, took_tools=took_tools)
            turns.append(turn)
        for name in form.stand_ins:
            _STAND_INS[name].fill(turns)
        for fields in _with_calls(turns) if form.left_out else ():
            for name in form.left_out:
                fields.pop(name, None)
        return folded(turns, form.level) if form.level else turns

    def learns(self, messages: Sequence[Message], form: Form, error: BackendError) -> bool:
        """Take another form, if that may help; whether the conversation is to be sent again.

        Args:
            messages: a conversation that was refused.
            form: what it was sent in.
            error: the refusal.
        """
        if type(error) not in (
            Rejected,
            BackendError,
        ):  # a template's error is 400 or 500; a filter would stop it again
            return False
        words = str(error)
        missing = {name for name, kind in _STAND_INS.items() if kind.asked_by.search(words)}
        if missing - form.stand_ins - form.left_out and any(message.role == "assistant" for message in messages):
            self.form = replace(self.form, stand_ins=self.form.stand_ins | missing)
            return True
        if odd := self._odd(messages, words) - form.left_out:
            self.form = replace(self.form, left_out=self.form.left_out | odd)
            return True
        folding = Folding(self.form.level)
        turns = [message.on_wire() for message in messages]
        learned = folding.learns(turns, level=form.level, words=words)
        self.form = replace(self.form, level=folding.level)
        return learned

    def _odd(self, messages: Sequence[Message], words: str) -> set[str]:
        """What the server says that it does not know, of the fields that only come from its own answers."""
        if not _UNKNOWN.search(words):
            return set()
        sent = self.form.stand_ins or any(own_parts(m, self._endpoint, self._model) for m in messages)
        return {name for name in PART_FIELDS if re.search(rf"\b{name}\b", words)} if sent else set()


_UNKNOWN: Final = re.compile(
    # Groq ("property 'reasoning_content' is unsupported"), Mistral ("Extra inputs are not permitted")
    r"unsupported|not (?:permitted|supported|allowed)|unexpected|unrecogni[sz]ed|unknown|extra_forbidden",
    re.IGNORECASE,
)


def _with_calls(turns: Sequence[Turn]) -> Iterator[Turn]:
    for turn in turns:
        yield turn
        yield from turn.get("tool_calls") or ()


def _fill_reasoning(turns: Sequence[Turn]) -> None:
    """DeepSeek wants it on all turns, Kimi on those with calls and not empty.

    No two are alike: from turns that all think the same words a model learns to say nothing else
    (https://github.com/Lingtai-AI/lingtai-kernel/issues/9).
    """
    for at, turn in enumerate(turns):
        if turn["role"] == "assistant" and not turn.get("reasoning_content"):
            calls = [f"{call['function']['name']} ({call['id']})" for call in turn.get("tool_calls") or ()]
            turn["reasoning_content"] = f"I call {', '.join(calls)}." if calls else f"I answer turn {at}."


def _fill_signature(turns: Sequence[Turn]) -> None:
    """What Google names for calls that its models did not write; only a turn's first call has a signature."""
    for turn in turns:
        for call in (turn.get("tool_calls") or ())[:1]:
            call.setdefault("extra_content", {"google": {"thought_signature": "skip_thought_signature_validator"}})


@dataclass(frozen=True, slots=True)
class _StandIn:
    asked_by: re.Pattern[str]
    fill: Callable[[Sequence[Turn]], None]


_STAND_INS: Final[Mapping[str, _StandIn]] = {
    # "The reasoning_content in the thinking mode must be passed back to the API.", "thinking is enabled but
    # reasoning_content is missing in assistant tool call message at index 2", "Missing `reasoning_content` field in …"
    "reasoning_content": _StandIn(
        re.compile(r"reasoning_content[^.]{0,80}(?:missing|passed? back|required)|missing\W+reasoning_content", re.I),
        _fill_reasoning,
    ),
    # "Function call is missing a thought_signature in functionCall parts."
    # https://ai.google.dev/gemini-api/docs/thought-signatures#faqs
    "thought_signature": _StandIn(re.compile(r"missing\W+(?:a\W+)?thought_?signature", re.I), _fill_signature),
}
