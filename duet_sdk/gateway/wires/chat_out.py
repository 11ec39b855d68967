"""Replies and events → chat completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.exchange import encode

if TYPE_CHECKING:
    from duet_sdk.events import ToolCallDelta
    from duet_sdk.gateway.wires.wire import Answer
    from duet_sdk.gateway_policy import SignalField
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob

FINISHES: Final[Mapping[str | None, str]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "empty": "stop",
    "deadline": "length",
    "cancelled": "length",
    "error": "length",
    None: "stop",
}
"""Why an answer ended → the word of the protocol, which knows no others."""
SIGNAL_FIELDS: Final[Mapping[SignalField, tuple[str, ...]]] = {
    "none": (),
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
    "reasoning_details": ("reasoning_details",),
}
"""Where the signal stands in a message."""
_DETAIL: Final = {"type": "reasoning.text", "format": "text", "index": 0}
"""Of ``reasoning_details``, as OpenRouter has it: a list of one, each piece of a stream a part of its text."""
DONE: Final = b"data: [DONE]\n\n"


def usage_of(reply: Reply) -> dict[str, Any]:
    """Tokens as clients count them: the prompt of the stage that answered, and all that both stages wrote.

    Clients compare the prompt with their window and shorten their history by it, so that the reasoner's reading of the
    same messages is not added; `receipt_of` has both stages in full.
    """
    signal, answer = reply.usage.reasoner, reply.usage.generator
    hidden = answer.reasoning_tokens or 0
    if reply.mode == "reasoner" or not answer.total_tokens:
        hidden, signal, answer = signal.reasoning_tokens or 0, answer, signal
    output = signal.output_tokens + answer.output_tokens
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": output,
        "total_tokens": answer.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": signal.output_tokens + hidden},
    }


def receipt_of(reply: Reply, name: str) -> dict[str, Any]:
    """What the request took, by stage; without the models' names and errors, which may name servers."""
    told = reply.summary()
    del told["models"], told["why"]
    return {"receipt": name, **told}


def shown_signal(reply: Reply) -> str:
    """The signal that this request brought; nothing where it went by an earlier turn's, which was shown there."""
    return "" if reply.gate is not None and not reply.gate.ask else reply.signal.text


def completion(head: Head, answers: Sequence[Answer], reply: Reply, *, signal_field: SignalField) -> dict[str, Any]:
    """A whole chat completion."""
    text = shown_signal(reply)
    signal = _signal(text, SIGNAL_FIELDS[signal_field]) if text else {}
    return {
        "id": head.name,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [_choice(at, answer, signal) for at, answer in enumerate(answers)],
        "usage": usage_of(reply),
        "duet": receipt_of(reply, head.receipt),
    }


def _choice(index: int, answer: Answer, signal: Mapping[str, object]) -> dict[str, Any]:
    text = answer.text or (None if answer.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, **signal}
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(answer.logprobs),
        "finish_reason": finish_of(answer.finish_reason, has_calls=bool(answer.calls)),
    }


def _signal(text: str, fields: Sequence[str]) -> dict[str, object]:
    return {field: [{**_DETAIL, "text": text}] if field == "reasoning_details" else text for field in fields}


def finish_of(reason: str | None, *, has_calls: bool) -> str:
    """The protocol's word; an answer that ends with calls says so, as agents go by that."""
    word = FINISHES.get(reason, "stop")
    return "tool_calls" if has_calls and word == "stop" else word


def _logprobs(given: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    return {"content": logprobs_of(given), "refusal": None} if given else None


def logprobs_of(given: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities, as OpenAI's protocols have them."""
    return [_logprob(one) for one in given]


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    top = [{"token": token, "logprob": value, "bytes": _bytes(token)} for token, value in one.top]
    return {"token": one.token, "logprob": one.logprob, "bytes": _bytes(one.token), "top_logprobs": top}


def _bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of a response have in common."""

    receipt: str
    model: str
    """As the client wrote it."""
    created: int
    """Seconds since the epoch."""
    _before: bytes = field(init=False, default=b"", repr=False)

    def __post_init__(self) -> None:
        """Write the beginning of every chunk once."""
        common = {"id": self.name, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        object.__setattr__(self, "_before", b"data: " + encode(common)[:-1] + b',"choices":[')

    @property
    def name(self) -> str:
        """The completion's id."""
        return f"chatcmpl-{self.receipt}"

    def role(self, index: int) -> bytes:
        """The first chunk of an answer."""
        return self._delta(index, {"role": "assistant", "content": ""})

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """A piece of an answer."""
        if logprobs:
            return self._delta(index, {"content": text}, _logprobs(logprobs))
        choice = b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}\n\n'
        return self._before + choice % (index, encode(text))

    def signal(self, text: str, fields: Sequence[str]) -> bytes:
        """A piece of the signal."""
        return self._delta(0, _signal(text, fields))

    def call(self, delta: ToolCallDelta) -> bytes:
        """A piece of a tool call."""
        function = {"arguments": delta.arguments}
        if delta.name is not None:
            function["name"] = delta.name
        call: dict[str, Any] = {"index": delta.position, "function": function}
        if delta.id is not None:
            call |= {"id": delta.id, "type": "function"}
        return self._delta(delta.index, {"tool_calls": [call]})

    def finish(self, index: int, reason: str, more: Mapping[str, Any] | None = None) -> bytes:
        """The last chunk of an answer."""
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
        return self._chunk(encode(choice), more)

    def usage(self, usage: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
        """The chunk of usage, which belongs to no answer."""
        return self._chunk(b"", {"usage": usage, **more})

    def _delta(self, index: int, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None) -> bytes:
        return self._chunk(encode({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}))

    def _chunk(self, choice: bytes, more: Mapping[str, Any] | None = None) -> bytes:
        after = b"," + encode(more)[1:] if more else b"}"
        return self._before + choice + b"]" + after + b"\n\n"
