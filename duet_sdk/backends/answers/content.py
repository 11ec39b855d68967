"""What a model said, in a message or a piece of one: text, thinking, refusal, calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from duet_sdk.backends.answers import spellings

_DEEPEST: Final = 4
"""Levels of parts in parts that are read: Mistral's thinking has two."""


@dataclass(slots=True)
class Said:
    """What a message holds."""

    text: str = ""
    reasoning: str = ""
    is_refusal: bool = False
    calls: list[object] = field(default_factory=list)
    """Tool calls as they were sent."""


def said_in(message: Mapping[str, object]) -> Said:
    """What a message, or a piece of one, holds."""
    said = Said()
    texts: list[str] = []
    thoughts: list[str] = []
    _read(message.get("content"), texts, thoughts, said)
    beside = (_text(message[name]) for name in spellings.REASONING_FIELDS if name in message)
    said.reasoning = next(filter(None, beside), "") or "".join(thoughts)
    if refusal := _text(message.get("refusal")):
        said.is_refusal = True
        texts.append(refusal)
    said.text = "".join(texts)
    calls = message.get("tool_calls")
    said.calls += calls if isinstance(calls, list) else [calls] if isinstance(calls, Mapping) else []
    if isinstance(legacy := message.get("function_call"), Mapping) and not said.calls:
        said.calls.append(legacy)
    return said


def _read(content: object, texts: list[str], thoughts: list[str], said: Said) -> None:
    """Take content apart: a text, or a list of texts and typed parts."""
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, Mapping):
            texts.append(_text(part))
            continue
        kind = part.get("type")
        kind = kind if isinstance(kind, str) else "text"
        if kind in spellings.CALL_PARTS:
            said.calls.append({**part, "arguments": part.get(spellings.CALL_PARTS[kind])})
        elif kind in spellings.THINKING_PARTS or part.get("thought") is True:
            thoughts.append(_text(part))
        elif kind in spellings.TEXT_PARTS:
            said.is_refusal |= kind == "refusal"
            texts.append(_text(part))


def _text(given: object, depth: int = 0) -> str:
    """The text of a value: a text itself, a part that holds one, or a list of such."""
    if isinstance(given, str):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        return str(given) if abs(given) < 1e18 else ""
    if depth > _DEEPEST:
        return ""
    if isinstance(given, list):
        return "".join([_text(part, depth + 1) for part in given])
    if not isinstance(given, Mapping):
        return ""
    kind = given.get("type")
    kind = kind if isinstance(kind, str) else ""
    named = spellings.TEXT_PARTS.get(kind) or spellings.THINKING_PARTS.get(kind)
    if kind and named is None:
        return ""  # encrypted, an image, a reference
    for name in (named, *spellings.PART_TEXTS):
        if name is not None and (text := _text(given.get(name), depth + 1)):
            return text
    return ""
