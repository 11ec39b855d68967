"""Side requests: what agents ask next to a conversation, such as its title, which no reasoner need think about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_TITLE: Final = re.compile(
    r"\b(title generator|(generate|create|write|produce|come up with|summari[sz]e)\b[^.\n]{0,80}\btitle)\b",
    re.IGNORECASE,
)
"""What the instructions of such a request say, as "You are a title generator" or "Generate a concise title"."""
_LONGEST: Final = 8000
"""Characters of such instructions: agents' have 2,200 and 3,300; whole system prompts, which may speak of titles, have
more."""
_MOST_TURNS: Final = 3
"""Messages next to the instructions: the question, and what leads to it."""


def is_side_request(body: Mapping[str, Any]) -> bool:
    """Whether a body in the form of chat completions asks for a title alone.

    That is: no tools, no turn of an assistant, and a form of the answer with ``title`` alone, or short instructions for
    a title. A summary of a conversation is none.
    """
    messages = body.get("messages")
    if body.get("tools") or not isinstance(messages, Sequence) or isinstance(messages, str):
        return False
    turns = [message for message in messages if isinstance(message, Mapping)]
    told = [turn for turn in turns if turn.get("role") in ("system", "developer")]
    asked = [turn for turn in turns if turn.get("role") not in ("system", "developer")]
    if len(asked) > _MOST_TURNS or any(turn.get("role") != "user" for turn in asked):
        return False
    if _wants_title(body.get("response_format")):
        return True
    text = "\n".join(_text(turn.get("content")) for turn in told)
    return len(text) <= _LONGEST and _TITLE.search(text) is not None


def _wants_title(form: object) -> bool:
    schema = form.get("json_schema") if isinstance(form, Mapping) else None
    schema = schema.get("schema") if isinstance(schema, Mapping) else None
    fields = schema.get("properties") if isinstance(schema, Mapping) else None
    return isinstance(fields, Mapping) and list(fields) == ["title"]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
