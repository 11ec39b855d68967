"""LlamaIndex's messages → those of a request to a pair, and what a pair answers → responses."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    ContentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from duet_sdk import (
    AnswerDelta,
    ConfigError,
    Done,
    Event,
    FellBack,
    ImagePart,
    InvalidRequest,
    Message,
    Reply,
    Retried,
    SignalDelta,
    SignalDone,
    TextPart,
    ToolCall,
    ToolCallDelta,
)
from duet_sdk.types import Part, ProviderParts, Role

OWN: Final = {"provider": "duet"}
"""In the ``additional_information`` of thinking blocks that are signals."""
PARTS: Final = "duet_provider_parts"
"""In the ``additional_kwargs`` of messages that are a pair's: what their model wants back with them."""
_ROLES: Final[dict[MessageRole, Role]] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_duet(messages: Sequence[ChatMessage]) -> list[Message]:
    """The conversation.

    Raises:
        InvalidRequest: a block that a pair cannot read, such as audio.
    """
    return [_message(message) for message in messages]


def _message(message: ChatMessage) -> Message:
    role, signal, calls = _ROLES.get(message.role, "assistant"), None, list[ToolCall]()
    parts: list[Part] = []
    for block in message.blocks:
        match block:
            case TextBlock(text=text):
                parts.append(TextPart(text))
            case ImageBlock():
                parts.append(ImagePart(str(block.url) if block.url else block.inline_url()))
            case ToolCallBlock(tool_kwargs=given):
                arguments = given if isinstance(given, str) else json.dumps(given)
                calls.append(ToolCall(block.tool_call_id or "", block.tool_name, arguments))
            case ThinkingBlock():  # another model's thoughts mean nothing to a pair
                signal = block.content if block.additional_information == OWN else signal
            case CachePoint():
                continue
            case _:
                raise InvalidRequest(f"a pair accepts text and images, not {type(block).__name__}")
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    content = "\n".join(texts) if len(texts) == len(parts) else tuple(parts)
    call_id = message.additional_kwargs.get("tool_call_id") if role == "tool" else None
    parts_back = ProviderParts.parse(message.additional_kwargs.get(PARTS)) if role == "assistant" else None
    return Message(role, content, tuple(calls), call_id, signal=signal, provider_parts=parts_back)


def response_of(reply: Reply) -> ChatResponse:
    """The whole reply."""
    folded = Folded()
    folded.signal, folded.text, folded.calls = reply.new_signal, reply.text, list(reply.tool_calls)
    return folded.done(reply)


class Folded:
    """The events of a run, added up: each response has all that was written so far."""

    def __init__(self) -> None:
        self.signal = self.text = ""
        self.calls: list[ToolCall] = []

    def take(self, event: Event) -> Iterator[ChatResponse]:
        """The response that an event makes, if it makes one.

        Raises:
            ConfigError: the answer started over after a part of it had been shown.
        """
        match event:
            case SignalDelta(text):
                self.signal += text
                yield self._response(thinking_delta=text)
            case SignalDone(signal):  # cut, wrapped up, or from a cache
                self.signal = signal.text
            case FellBack(stage="reasoner"):
                self.signal = ""
            case AnswerDelta(text):
                self.text += text
                yield self._response(delta=text)
            case ToolCallDelta(at, call, name, arguments):
                while len(self.calls) <= at:
                    self.calls.append(ToolCall("", "", ""))
                known = self.calls[at]
                self.calls[at] = ToolCall(known.id or call or "", known.name or name or "", known.arguments + arguments)
                yield self._response()
            case Retried(stage="generator", discard=True) | FellBack(discard=True):
                raise ConfigError(
                    "the answer started over, but streamed text cannot be retracted: do not let on_failure restart it"
                )
            case Done(reply):
                yield self.done(reply)

    def done(self, reply: Reply) -> ChatResponse:
        """The last response: it says what was spent."""
        reasoner, generator = reply.usage.reasoner, reply.usage.generator
        usage = {
            "prompt_tokens": reasoner.input_tokens + generator.input_tokens,
            "completion_tokens": reasoner.output_tokens + generator.output_tokens,
            "total_tokens": reply.usage.total_tokens,
            "reasoning_tokens": reasoner.output_tokens,
        }
        last = self._response(**usage)
        if reply.provider_parts is not None:
            last.message.additional_kwargs[PARTS] = asdict(reply.provider_parts)
        last.raw = {"usage": usage, "duet": reply.summary()}
        return last

    def _response(self, delta: str = "", **told: str | int) -> ChatResponse:
        thought = [ThinkingBlock(content=self.signal, additional_information=OWN)] if self.signal else []
        calls = [ToolCallBlock(tool_call_id=c.id, tool_name=c.name, tool_kwargs=c.arguments) for c in self.calls]
        blocks: list[ContentBlock] = [*thought, *([TextBlock(text=self.text)] if self.text else []), *calls]
        # LlamaIndex's structured streams look for calls in this place only.
        beside = {"tool_calls": [call.model_dump() for call in calls]} if calls else {}
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=beside)
        return ChatResponse(message=message, delta=delta, additional_kwargs=told)
