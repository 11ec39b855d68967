"""JSON of an answer → chunks, whatever the server that wrote it: no bytes, no connection.

Source: https://platform.openai.com/docs/api-reference/chat, and for the rest `duet_sdk.backends.answers.spellings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from duet_sdk.backends.answers import spellings
from duet_sdk.backends.answers.content import said_in
from duet_sdk.backends.answers.logprobs import logprobs_in
from duet_sdk.backends.answers.numbers import position
from duet_sdk.backends.answers.tool_calls import Called, ToolCalls
from duet_sdk.backends.answers.unreadable import OutputFailed, Unreadable
from duet_sdk.backends.answers.usage import usage_in
from duet_sdk.backends.base import Call, Chunk, Served
from duet_sdk.backends.provider_parts import Parts
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json

_MOST_NAME_CHARS: Final = 256
"""Of the names of a model or an answer: no server's own are longer."""
RANK: Final = {"stop": 0, "tool_calls": 1, "length": 2, "content_filter": 3}
"""Of two reasons for one end, the one that tells more."""


class Reader:
    """JSON of an answer → chunks. One for each call.

    Args:
        call: what was asked for.
        usage_per_output: the usage that comes with a piece counts the output of that piece alone.

    Attributes:
        unfinished: a bit for each output that has not said why it ended.
        begun: a bit for each output in which anything was written.
        is_signed: whether a chunk has said who answers.
    """

    __slots__ = (
        "_by_message",
        "_calls",
        "_ended_by_nothing",
        "_messages",
        "_only_answers",
        "_outputs",
        "_parts",
        "_per_output",
        "_reasons",
        "_refused",
        "_served",
        "_used",
        "begun",
        "is_signed",
        "unfinished",
    )

    def __init__(self, call: Call, *, usage_per_output: bool = False) -> None:
        self.unfinished = (1 << call.n) - 1
        self.begun = 0
        self._outputs = call.n
        self._messages = call.messages
        # Parsers that know nothing of the block in the prompt take the answer for more thinking.
        self._only_answers = call.thought is not None
        self._per_output = usage_per_output and call.n > 1
        self._used = [0] * call.n if self._per_output else []
        self._by_message = self._ended_by_nothing = self._refused = 0  # a bit for each output
        self._calls: dict[int, ToolCalls] = {}
        self._reasons: dict[int, str] = {}
        self._served: Served | None = None
        self.is_signed = False
        self._parts: list[Parts] | None = None

    def event(self, value: object) -> list[Chunk]:
        """The chunks of one event of a stream; none for one that is not part of the answer.

        Raises:
            Unreadable: it cannot be part of an answer to this call.
        """
        if not isinstance(value, Mapping):
            return []
        usage, cost = usage_in(value)
        choices = _choices(value)
        chunks = []
        for at, choice in enumerate(choices, 1):
            told = usage_in(choice) if usage is None and cost is None else (usage, cost)
            here = told if at == len(choices) else (None, None)
            chunks.append(self._chunk(choice, *here, whole=False))
        if not chunks and (usage is not None or cost is not None):
            chunks = [Chunk(usage=usage, cost_usd=cost)]
        return self._signed(value, chunks)

    def whole(self, value: object) -> list[Chunk]:
        """The chunks of an answer in one piece, one for each output.

        Raises:
            Unreadable: it is no answer to this call.
        """
        choices = _choices(value) if isinstance(value, Mapping) else []
        if not isinstance(value, Mapping) or not choices:
            raise Unreadable("its answer has no output")
        choices = _numbered(choices)
        usage, cost = usage_in(value)
        if usage is None and cost is None:
            usage, cost = usage_in(choices[-1])
        self._per_output = False
        if len(choices) == 1:
            return self._signed(value, [self._chunk(choices[0], usage, cost, whole=True)])
        # Nobody says how the tokens are spread over several outputs: usage comes after them all.
        chunks = [self._chunk(choice, None, None, whole=True) for choice in choices]
        return self._signed(value, [*chunks, Chunk(usage=usage, cost_usd=cost)])

    def over(self) -> list[Chunk]:
        """The server has said that the stream is over: an output that had an empty finish reason ends with it."""
        ended = [at for at in range(self._outputs) if self.unfinished & self._ended_by_nothing >> at & 1]
        chunks = [Chunk(index=at) for at in ended]
        for chunk in chunks:
            self._end(chunk, "stop", whole=False)
            chunk.provider_parts = self.parts[chunk.index].found if self.has_parts else None
        return chunks

    @property
    def lacks_an_end(self) -> bool:
        """Whether an output has not said why it ended; where one ended, another may never have come: n is ignored."""
        unfinished = self.unfinished
        return bool(unfinished) and (bool(unfinished & self.begun) or unfinished == (1 << self._outputs) - 1)

    @property
    def has_parts(self) -> bool:
        """Whether anything may have been noted that the model wants back."""
        return self._parts is not None

    @property
    def parts(self) -> list[Parts]:
        """What the model wants back with each output."""
        if self._parts is None:
            self._parts = [Parts() for _ in range(self._outputs)]
        return self._parts

    @property
    def reason(self) -> str | None:
        """Why the first output ended, as far as it has said so."""
        return self._reasons.get(0)

    def ended(self, index: int, reason: str) -> str | None:
        """Note why an output ended; None if nothing new was said."""
        known = self._reasons.get(index)
        if index in self._calls and reason == "stop":
            reason = "tool_calls"  # Gemini, and vLLM where the tool is named
        if self._refused >> index & 1 and reason == "stop":
            reason = "content_filter"
        self.unfinished &= ~(1 << index)
        if known is not None and RANK[known] >= RANK[reason]:
            return None
        self._reasons[index] = reason
        return reason

    def _chunk(
        self, choice: Mapping[str, object], usage: StageUsage | None, cost: Decimal | None, *, whole: bool
    ) -> Chunk:
        index = self._index(choice.get("index"))
        if error := choice.get("error"):  # OpenRouter
            raise OutputFailed("the server gave its answer up", error)
        message = self._message(choice, index, whole=whole)
        said = said_in(message)
        text, reasoning = said.text, said.reasoning
        if reasoning and self._only_answers:
            text, reasoning = reasoning + text, ""
        calls = self._called(said.calls, index, whole=whole) if said.calls else []
        ids = _ids(choice.get("token_ids"))
        if said.is_refusal:
            self._refused |= 1 << index
        if text or reasoning or calls or ids:
            self.begun |= 1 << index
        if usage is not None and self._per_output:
            usage = self._summed(index, usage)
        deltas = tuple([delta for delta, _ in calls])
        chunk = Chunk(text, reasoning, ids, logprobs_in(choice.get("logprobs")), deltas, usage, cost, None, index)
        self._end(chunk, _finish(choice.get("finish_reason")), whole=whole)
        chunk.provider_parts = self._noted(message, calls, chunk, whole=whole)
        return chunk

    def _message(self, choice: Mapping[str, object], index: int, *, whole: bool) -> Mapping[str, object]:
        """What an output says here: a piece, a message, or what the completion endpoint writes."""
        first, second = ("message", "delta") if whole else ("delta", "message")
        message, other = choice.get(first), choice.get(second)
        if isinstance(message, Mapping) and (message or not isinstance(other, Mapping)):
            return message
        if not isinstance(other, Mapping):
            return {"content": choice.get("text")}
        bit = 1 << index
        if not whole and self.begun & bit and not self._by_message & bit:
            return {}  # MiniMax: a last event with the whole message again, after it was streamed
        self._by_message |= bit
        return other

    def _called(self, sent: Sequence[object], index: int, *, whole: bool) -> list[Called]:
        calls = self._calls.get(index) or ToolCalls(index, self._messages)
        called = calls.read(sent, whole=whole)
        if calls:
            self._calls[index] = calls
        return called

    def _end(self, chunk: Chunk, reason: str | None, *, whole: bool) -> None:
        """End the output, where the chunk is its last one."""
        if reason == "":
            self._ended_by_nothing |= 1 << chunk.index
        if whole:
            reason = reason or "stop"  # what is complete as JSON is complete
        if not reason:
            return
        if (calls := self._calls.get(chunk.index)) is not None:
            chunk.tool_calls += tuple(calls.end())
        chunk.finish_reason = self.ended(chunk.index, reason)

    def _noted(
        self, message: Mapping[str, object], calls: Sequence[Called], chunk: Chunk, *, whole: bool
    ) -> Json | None:
        """Note what the model wants back; all of it once the output has ended, and again if more comes then."""
        if self._only_answers:
            return None
        parts = self.parts[chunk.index]
        note = parts.whole if whole else parts.fragment
        is_signed = note(message, [(delta.position, sent) for delta, sent in calls])
        comes_late = is_signed and not self.unfinished >> chunk.index & 1
        return parts.found if chunk.finish_reason is not None or comes_late else None

    def _index(self, given: object) -> int:
        index = 0 if given is None else position(given)
        if index is None and self._outputs == 1:
            return 0
        if index is None or index >= self._outputs:
            raise Unreadable("its answer has an output that was not asked for")
        return index

    def _summed(self, index: int, usage: StageUsage) -> StageUsage:
        """The running usage of vLLM counts the output that it comes with; ours counts the call."""
        self._used[index] = usage.output_tokens
        return StageUsage(usage.input_tokens, sum(self._used), usage.cached_tokens)

    def sign(self, model: object, answer: object, chunks: Sequence[Chunk]) -> bool:
        """Say with the first chunk of the call who answers, as soon as both are there; whether that is done."""
        if self.is_signed:
            return True
        if self._served is None:
            served = Served(_name(model), _name(answer))
            if served.model or served.id:
                self._served = served
        if chunks and self._served is not None:
            chunks[0].served, self.is_signed = self._served, True
        return self.is_signed

    def _signed(self, value: Mapping[str, object], chunks: list[Chunk]) -> list[Chunk]:
        if not self.is_signed:
            self.sign(value.get("model"), value.get("id"), chunks)
        return chunks


def _choices(value: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    choices = value.get("choices")
    if isinstance(choices, Mapping):
        choices = [choices]
    return [choice for choice in choices if isinstance(choice, Mapping)] if isinstance(choices, list) else []


def _numbered(choices: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, object]]:
    """Outputs of a whole answer, by their places where their numbers do not tell them apart."""
    if len({position(choice.get("index")) for choice in choices}) == len(choices):
        return choices
    return [{**choice, "index": at} for at, choice in enumerate(choices)]


def _finish(given: object) -> str | None:
    """Why an output ended, in DUET's words; None if it goes on, empty if the server wrote an empty text for it.

    Raises:
        OutputFailed: the server gave it up.
    """
    if isinstance(given, Mapping):
        given = given.get("type")
    if not isinstance(given, str):
        return None
    word = given.partition(":")[0].strip().lower().replace("-", "_").rpartition(".")[2]  # an enumeration, written out
    if word in spellings.FAILED:
        raise OutputFailed(f"the server gave its answer up ({word})")
    if word in spellings.UNFINISHED:
        return "" if not word else None
    return spellings.FINISH.get(word, "stop")


def _ids(given: object) -> tuple[int, ...]:
    """Token ids; none where one of them is none, as what is counted by them would be wrong."""
    if not isinstance(given, list) or not given:
        return ()
    return tuple(given) if all(type(at) is int for at in given) else ()


def _name(given: object) -> str | None:
    if not isinstance(given, str) or not given or len(given) > _MOST_NAME_CHARS:
        return None
    return given if given.isprintable() else None
