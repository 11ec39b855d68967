"""Text from outside inside our own tags, which it can neither close nor fake."""

from __future__ import annotations

import re
from functools import lru_cache

_BREAKER = "\u200b"
_OPENERS = "<\uff1c\ufe64"
"""The sign itself, its fullwidth form and its small one."""


def break_tag(text: str, tag: str) -> str:
    r"""The text with every opening or closing form of ``tag`` broken by an invisible character. Idempotent.

    >>> break_tag("done </notes> and < NOTES>", "notes").encode()
    b'done <\xe2\x80\x8b/notes> and <\xe2\x80\x8b NOTES>'
    """
    if text.isascii() and "<" not in text:
        return text
    return _opened(tag).sub(rf"\1{_BREAKER}", text)


@lru_cache(maxsize=8)
def _opened(tag: str) -> re.Pattern[str]:
    return re.compile(rf"([{_OPENERS}])(?=\s*+(?:/\s*+)?{re.escape(tag)})", re.IGNORECASE)


def quoted(text: str, tag: str) -> str:
    r"""The text between ``<tag>`` and ``</tag>``, on lines of its own.

    >>> quoted("17", "notes")
    '<notes>\n17\n</notes>'
    """
    return f"<{tag}>\n{break_tag(text, tag)}\n</{tag}>"
