"""Blocks of Messages → messages in the form of chat completions, without thoughts and what is not known."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from duet_sdk.gateway.errors import Refused

Signed: TypeAlias = Callable[[object], str | None]
"""From a signature to the signal that it names."""
Turn: TypeAlias = dict[str, Any]

_IMAGE: Final = re.compile(r"image/[a-z0-9.+-]{1,40}", re.IGNORECASE)


def turns_of(body: Mapping[str, Any], signed: Signed) -> list[Turn]:
    """All messages of a body, its ``system`` first.

    Args:
        body: of a request.
        signed: finds the signal behind a thinking block of ours.

    Raises:
        Refused: 400, a message that cannot be read.
    """
    given = body.get("messages")
    if not isinstance(given, list):
        raise Refused(400, None, "messages must be a list of messages", param="messages")
    turns = []
    if body.get("system"):
        turns.append({"role": "system", "content": _joined(_parts(body["system"], "system"))})
    for at, message in enumerate(given):
        if not isinstance(message, Mapping):
            raise Refused(400, None, f"message {at} must be an object with role and content", param="messages")
        turns += _turns(message, f"message {at}", signed)
    return turns


def _turns(message: Mapping[str, Any], where: str, signed: Signed) -> list[Turn]:
    role, content = message.get("role"), message.get("content")
    if role == "assistant":
        return [_assistant(content, where, signed)]
    results = [_result(block, where) for block in _blocks(content, where) if block.get("type") == "tool_result"]
    parts = _parts(content, where)
    if not parts and (results or (isinstance(content, list) and content)):
        return results  # nothing else is left of it
    return [*results, {"role": role, "content": _joined(parts)}]


def _assistant(content: object, where: str, signed: Signed) -> Turn:
    turn: Turn = {"role": "assistant", "content": _joined(_parts(content, where))}
    calls = []
    for block in _blocks(content, where):
        if block.get("type") == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input")}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif block.get("type") == "thinking" and (signal := signed(block.get("signature"))) is not None:
            turn["signal"] = signal
    if calls:
        turn["tool_calls"] = calls
    return turn


def _result(block: Mapping[str, Any], where: str) -> Turn:
    content = block.get("content")
    parts = [] if content is None else _parts(content, where)
    failed = block.get("is_error") is True
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _joined(parts), "is_error": failed}


def _blocks(content: object, where: str) -> Sequence[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise Refused(400, None, f"{where}: content must be a string or a list of blocks", param="messages")
    return content


def _parts(content: object, where: str) -> list[Turn]:
    """What a model reads of the blocks; thoughts, calls, results and blocks of unknown types are no part of it."""
    parts: list[Turn] = []
    for block in _blocks(content, where):
        read = _READERS.get(str(block.get("type")))
        if read is not None:
            parts += read(block, where)
    return parts


def _text(block: Mapping[str, Any], where: str) -> list[Turn]:
    return _texts(block.get("text"), where, "text")


def _image(block: Mapping[str, Any], where: str) -> list[Turn]:
    source = _source(block)
    if source.get("type") == "url":
        url = source.get("url")
    else:
        kind, data = source.get("media_type"), source.get("data")
        is_given = source.get("type") == "base64" and isinstance(kind, str) and _IMAGE.fullmatch(kind)
        url = f"data:{kind};base64,{data}" if is_given and isinstance(data, str) and data else None
    if not isinstance(url, str):
        raise Refused(400, None, f"{where} has an image that is neither base64 nor a URL", param="messages")
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Mapping[str, Any], where: str) -> list[Turn]:
    source = _source(block)
    kind, data, media = source.get("type"), source.get("data"), source.get("media_type")
    title = [{"type": "text", "text": block["title"]}] if isinstance(block.get("title"), str) else []
    if kind == "text":
        return [*title, *_texts(data, where, "document")]
    if kind == "content":
        return [*title, *_parts(source.get("content"), where)]
    if kind == "base64" and isinstance(media, str) and media.startswith("text/") and isinstance(data, str):
        try:
            return [*title, {"type": "text", "text": base64.b64decode(data, validate=True).decode()}]
        except (binascii.Error, UnicodeError, ValueError):
            pass
    raise Refused(400, None, f"{where} has a document that cannot be read here; send its text", param="messages")


def _search_result(block: Mapping[str, Any], where: str) -> list[Turn]:
    titles = [block[name] for name in ("title", "source") if isinstance(block.get(name), str)]
    return [*({"type": "text", "text": title} for title in titles), *_parts(block.get("content"), where)]


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], str], list[Turn]]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
"""Types of blocks that a model reads; all others are left out."""


def _source(block: Mapping[str, Any]) -> Mapping[str, Any]:
    source = block.get("source")
    return source if isinstance(source, Mapping) else {}


def _texts(text: object, where: str, kind: str) -> list[Turn]:
    if not isinstance(text, str):
        raise Refused(400, None, f"{where} has a {kind} block without text", param="messages")
    return [{"type": "text", "text": text}] if text else []


def _joined(parts: list[Turn]) -> str | list[Turn]:
    """One text where there is nothing else: blocks are lines of their own, as servers' templates join them."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
