"""What clients of Messages send to have it measured, which need not end with a question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_WRITTEN: Final = ("text", "thinking")
"""Blocks of an answer that are words, which have the block's name."""


def measured(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body; an answer at its end, which clients send to have its thinking or calls measured, read as words."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return body
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return body
    content = last.get("content")
    if isinstance(content, list):
        content = [{"type": "text", "text": _written(block)} for block in content if isinstance(block, Mapping)]
    return {**body, "messages": [*messages[:-1], {"role": "user", "content": content}]}


def _written(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind == "tool_use":
        return f"{block.get('name')}{json.dumps(block.get('input'))}"
    return str(block.get(kind) or "") if kind in _WRITTEN else ""
