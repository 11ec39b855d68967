"""The Python blocks of a page in Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<ticks>`{3,})(?P<info>.*)")
NOT_RUN = re.compile(r"\s*<!-- not run: .+ -->\s*")


@dataclass(frozen=True)
class Block:
    line: int
    """Of its first line of code, from 1."""
    source: str
    runs: bool

    def compile(self, path: Path) -> CodeType:
        # The empty lines make tracebacks name the line in the page.
        return compile("\n" * (self.line - 1) + self.source, str(path), "exec")


def blocks(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.fullmatch(lines[at])
        at += 1
        if opened is None:
            continue
        first = at
        closing = re.compile(rf"\s*{opened['ticks']}`*\s*")
        while at < len(lines) and not closing.fullmatch(lines[at]):
            at += 1
        language, *words = opened["info"].replace("{", " ").replace("}", " ").split() or [""]
        if language.lstrip(".") in {"python", "py", "python3"}:
            before = lines[first - 2] if first > 1 else ""
            yield Block(
                line=first + 1,
                source=textwrap.dedent("\n".join(lines[first:at])) + "\n",
                runs="no-run" not in words and not NOT_RUN.fullmatch(before),
            )
        at += 1
