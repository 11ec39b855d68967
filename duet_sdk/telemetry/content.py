"""Messages in spans and events: off, unless the standard's variable turns it on; bounded, and of any shape."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.telemetry.attributes import readable
from duet_sdk.think_tags import split
from duet_sdk.types import ImagePart, TextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.backends.base import Call, Chunk
    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.types import Json, Message, ToolCall

_log = logging.getLogger(__name__)

VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LIMIT_CHARS: Final = 16_384
"""Most characters of one attribute: a trace must not become a copy of every long conversation.

The standard's OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT and OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT lower it. They are kept
here, too, as the SDK would cut the JSON in the middle."""
_CUT: Final = " […]"
_LEAST: Final = 16
"""Characters that are not worth cutting: the names of roles and types are that short."""


class Capture(Enum):
    """Where content goes; the names are those that opentelemetry-util-genai takes."""

    NO_CONTENT = (False, False)
    SPAN_ONLY = (True, False)
    EVENT_ONLY = (False, True)
    SPAN_AND_EVENT = (True, True)

    @property
    def on_spans(self) -> bool:
        """Whether spans hold content."""
        return self.value[0]

    @property
    def in_events(self) -> bool:
        """Whether log events hold content."""
        return self.value[1]


def capture() -> Capture:
    """What the environment asks for now; anything unknown counts as no."""
    word = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").strip().upper()
    if not word:
        return Capture.NO_CONTENT
    try:
        return Capture[word]
    except KeyError:
        _log.warning("%s must be one of %s; no content is captured", VARIABLE, ", ".join(Capture.__members__))
        return Capture.NO_CONTENT


def limit_chars() -> int:
    """Most characters of one attribute's value."""
    given = (
        os.environ.get("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
        os.environ.get("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
    )
    return min([LIMIT_CHARS, *(int(text) for text in given if text and text.isdecimal())])


class Heard:
    """What a model writes in one attempt, by output; no more of it is kept than an attribute holds."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._outputs: dict[int, dict[str, list[str]]] = {}
        self._calls: dict[tuple[int, int], list[str]] = {}
        self._finish: dict[int, str] = {}

    def hear(self, chunk: Chunk) -> None:
        """Take a piece."""
        output = self._outputs.setdefault(chunk.index, {"reasoning": [], "text": []})
        self._take(chunk.reasoning, output["reasoning"])
        self._take(chunk.text, output["text"])
        for delta in chunk.tool_calls:
            call = self._calls.setdefault((delta.index, delta.position), ["", "", ""])
            call[0], call[1] = delta.id or call[0], delta.name or call[1]
            if self._left > 0:
                call[2] += delta.arguments[: self._left]
                self._left -= len(delta.arguments)
        if chunk.finish_reason is not None:
            self._finish[chunk.index] = chunk.finish_reason

    def _take(self, text: str, into: list[str]) -> None:
        if text and self._left > 0:
            into.append(text[: self._left])
            self._left -= len(text)

    def messages(self) -> list[Json]:
        """The outputs as messages of the conventions."""
        found: list[Json] = []
        for index in sorted(self._outputs):
            thinking, text = split("".join(self._outputs[index]["text"]))
            said = {"reasoning": "".join(self._outputs[index]["reasoning"]) or thinking, "text": text}
            parts: list[Json] = [{"type": kind, "content": words} for kind, words in said.items() if words]
            parts += [_call_part(*call) for (at, _), call in sorted(self._calls.items()) if at == index]
            found.append({"role": "assistant", "parts": parts, "finish_reason": self._finish.get(index, "error")})
        return found


def input_of(call: Call) -> list[Json]:
    """The prompt of a call as messages; a prompt of token ids has none."""
    return [message_of(message) for message in call.messages]


def tools_of(call: Call) -> list[Json]:
    """The tools that a call offers."""
    return [{"type": "function", **tool.get("function", {})} for tool in call.tools]


def answers_of(draft: Draft) -> list[Json]:
    """What a request came to, as messages: its answers, or its signal where only that was asked for."""
    finish = draft.finish or draft.finish_of(0)
    reply = draft.reply(finish)
    calls = [_asked(call) for call in reply.tool_calls]
    texts = reply.answers or (reply.signal.text,)
    return [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": text}, *(calls if at == 0 else [])],
            "finish_reason": finish,
        }
        for at, text in enumerate(texts)
    ]


def message_of(message: Message) -> Json:
    """A message as the conventions write it."""
    if message.role == "tool":
        part = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}
        return {"role": "tool", "parts": [part]}
    content = (TextPart(message.content),) if isinstance(message.content, str) else message.content
    parts = [_part(part) for part in content if part != TextPart("")]
    return {"role": message.role, "parts": [*parts, *(_asked(call) for call in message.tool_calls)]}


def _asked(call: ToolCall) -> Json:
    return _call_part(call.id, call.name, call.arguments)


def _call_part(id: str, name: str, arguments: str) -> Json:  # noqa: A002  # as the wire calls it
    return {"type": "tool_call", "id": id, "name": name, "arguments": arguments}


def _part(part: TextPart | ImagePart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "content": part.text}
    # The bytes of an image are not text: only the head of a data URL is kept.
    url = part.url if not part.url.startswith("data:") else part.url.partition(",")[0]
    return {"type": "uri", "mime_type": None, "modality": "image", "uri": url}


def bounded(messages: Sequence[Json], limit: int) -> list[Any]:
    """The messages with their texts cut, so that their JSON stays within ``limit`` characters.

    The end of a conversation counts most: older messages are cut, then left out, first.
    """
    found = [_clean(message, limit) for message in messages]
    room = limit
    while found and len(_json(found)) > limit:
        room //= 2
        if room >= _LEAST:
            found = _cut(found, room)
        else:
            del found[: 1 + len(found) // 8]
    return found


def as_attribute(messages: Sequence[Json], limit: int) -> str:
    """The messages as a span has them."""
    return _json(bounded(messages, limit))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _clean(value: object, limit: int) -> Any:
    """The value in texts that every exporter can carry, none of them longer than the whole may be."""
    if isinstance(value, str):
        return readable(value if len(value) <= limit else value[:limit] + _CUT)
    if isinstance(value, Mapping):
        return {readable(str(key)): _clean(item, limit) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, limit) for item in value]
    return value


def _cut(messages: list[Any], room: int) -> list[Any]:
    """Texts within ``room`` characters in all, given to the last messages first."""
    left = room

    def cut(value: Any) -> Any:
        nonlocal left
        if isinstance(value, str):
            kept = value if len(value) <= max(left, _LEAST) else value[: max(left, 0)] + _CUT
            left -= len(kept)
            return kept
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        return [cut(item) for item in value] if isinstance(value, list) else value

    return [cut(message) for message in reversed(messages)][::-1]
