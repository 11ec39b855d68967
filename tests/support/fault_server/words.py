"""Words as tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def tokens(text: str) -> list[str]:
    """Words, each with the blanks before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def said(message: dict[str, Any]) -> str:
    """All text of a message on the wire."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def is_probe(body: dict[str, Any]) -> bool:
    """Whether a request asks for nothing: to go on from a token that no vocabulary has, or for an answer to nobody."""
    return body.get("prompt") == [2**31 - 1] or body.get("messages") == []


def prompt_of(body: dict[str, Any]) -> str:
    return "\n".join(said(message) for message in body.get("messages", ())) or str(body.get("prompt"))


def until_stop(text: str, stops: Sequence[str]) -> str:
    return text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]
