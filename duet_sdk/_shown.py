"""Foreign text as a terminal may get it: what a terminal would obey is written out instead."""

from __future__ import annotations

import re
from typing import Final

OBEYED: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # ECMA-48: C0 but tab and newline, DEL, C1
    "\u202a-\u202e\u2066-\u2069"  # Unicode UAX 9: what sets another direction for what follows
    "\ud800-\udfff"  # no stream takes lone surrogates
    "]"
)
"""Characters that a terminal obeys: they set its title, its clipboard, or lines that were printed before."""


def shown(text: str) -> str:
    r"""The text with what a terminal would obey written as Python writes it; carriage returns go.

    >>> shown("done\r\n\x1b[31mred")
    'done\n\\x1b[31mred'
    """
    return OBEYED.sub(_notation, text.replace("\r", ""))


def _notation(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
