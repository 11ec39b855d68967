"""LangChain's messages → DUET's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from duet_sdk import ImagePart, InvalidRequest, Message, TextPart, ToolCall
from duet_sdk.types import Part, ProviderParts, Role

PROVIDER = "duet"
"""What ``response_metadata["model_provider"]`` says on our own messages."""
PARTS = "provider_parts"
"""In the ``response_metadata`` of our own messages: what their model wants back with them."""
Content: TypeAlias = "str | tuple[Part, ...]"

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}
_TEXT = ("text", "input_text", "output_text")
_IMAGES = ("image_url", "image")


def to_duet(messages: Sequence[BaseMessage]) -> list[Message]:
    """The conversation as DUET takes it.

    A signal returns to the message that it guided only where that message is ours. The reasoning of other providers
    is left out: it is neither the answer nor a signal.

    Raises:
        InvalidRequest: a message of a role, or with content of a kind, that no stage can read; names which, from 0.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    return [_message(message, at, answered) for at, message in enumerate(messages)]


def _message(message: BaseMessage, at: int, answered: set[str]) -> Message:
    match message:
        case SystemMessage():
            return Message("system", _content(message.content, at))
        case HumanMessage():
            return Message("user", _content(message.content, at), name=message.name)
        case AIMessage():
            calls = _tool_calls(message, answered)
            return Message(
                "assistant",
                _said(message),
                calls,
                name=message.name,
                signal=signal_of(message),
                provider_parts=_parts_of(message),
            )
        case ToolMessage():
            return Message(
                "tool",
                _content(message.content, at),
                tool_call_id=message.tool_call_id,
                name=message.name,
                failed=message.status == "error",
            )
        case ChatMessage() if message.role in _ROLES:
            return Message(_ROLES[message.role], _content(message.content, at))
        case ChatMessage():
            raise InvalidRequest(f"message {at} has the role {message.role!r}; known: {', '.join(_ROLES)}")
        case FunctionMessage():
            raise InvalidRequest(f"message {at} is a FunctionMessage, which names no call; use a ToolMessage")
    raise InvalidRequest(f"message {at} is a {type(message).__name__}, which no model can read")


def signal_of(message: AIMessage) -> str | None:
    """The signal behind one of our own messages, None on any other's."""
    facts = message.response_metadata
    if facts.get("model_provider") != PROVIDER:
        return None
    told = facts.get("signal")
    # Streams show a signal while it is written; its final text then stands next to its figures.
    final = told.get("text") if isinstance(told, Mapping) else None
    shown = message.additional_kwargs.get("reasoning_content")
    found = final if isinstance(final, str) else shown
    return found if isinstance(found, str) and found.strip() else None


def _parts_of(message: AIMessage) -> ProviderParts | None:
    facts = message.response_metadata
    return ProviderParts.parse(facts.get(PARTS)) if facts.get("model_provider") == PROVIDER else None


def _said(message: AIMessage) -> str:
    """The text of an assistant's message, without calls and reasoning, which are not part of it."""
    if isinstance(message.content, str):
        return message.content
    return "".join(
        block if isinstance(block, str) else str(block.get("text", ""))
        for block in message.content
        if isinstance(block, str) or block.get("type") in _TEXT
    )


def _tool_calls(message: AIMessage, answered: set[str]) -> tuple[ToolCall, ...]:
    """The calls of a message; one that could not be read stands there only where a result answers it.

    Its arguments are left out: servers read them again, and refuse the whole history if they are not JSON.
    """
    calls = [ToolCall(call["id"] or "", call["name"], json.dumps(call["args"])) for call in message.tool_calls]
    broken = (call for call in message.invalid_tool_calls if call["id"] in answered)
    calls += [ToolCall(call["id"] or "", call["name"] or "unknown", "{}") for call in broken]
    return tuple(calls)


def _content(content: str | Sequence[str | Mapping[str, object]], at: int) -> Content:
    if isinstance(content, str):
        return content
    parts = tuple(part for block in content if (part := _part(block, at)) is not None)
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return parts


def _part(block: str | Mapping[str, object], at: int) -> Part | None:
    if isinstance(block, str):
        return TextPart(block)
    kind = block.get("type")
    if kind in _TEXT:
        return TextPart(str(block.get("text", "")))
    if kind in _IMAGES and (image := _image(block)) is not None:
        return image
    if kind == "tool_use":
        return None  # stands in the message's tool calls
    if kind == "text-plain" and isinstance(text := block.get("text"), str):
        return TextPart(text)
    raise InvalidRequest(f"message {at} has content of type {kind!r}; a pair reads text and images")


def _image(block: Mapping[str, object]) -> ImagePart | None:
    """An image as LangChain, OpenAI or Anthropic write it; None if there is none in it."""
    if block.get("type") == "image_url":
        given = block.get("image_url")
        url, detail = (given.get("url"), given.get("detail")) if isinstance(given, Mapping) else (given, None)
        known = detail if detail in ("auto", "low", "high") else None
        return ImagePart(url, known) if isinstance(url, str) else None
    source = block.get("source")
    place = source if isinstance(source, Mapping) else block
    if isinstance(url := place.get("url"), str):
        return ImagePart(url)
    data, media = place.get("base64") or place.get("data"), block.get("mime_type") or place.get("media_type")
    return ImagePart(f"data:{media};base64,{data}") if isinstance(data, str) and isinstance(media, str) else None
