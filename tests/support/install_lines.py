"""Every `pip install …` that our texts tell people to run: pages, the package's messages, comments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = (
    "*.md",
    "constraints.txt",
    "docs/**/*.md",
    "duet_sdk/**/*.py",
    "examples/**/*.md",
    "examples/**/*.py",
    "integrations/**/*.md",
    "integrations/**/*.py",
    "recipes/*.yaml",
)
# Up to the end of the line, or of the code within a line; an f-string's holes are filled where it is run.
LINE = re.compile(r"(?P<pip>[\w./-]*pip) install (?P<arguments>[^`{}\n]+)")


class InstallLine(NamedTuple):
    page: str
    pip: str
    """The command as it is written: `pip`, or a path to one."""
    arguments: tuple[str, ...]


def install_lines() -> list[InstallLine]:
    """Each line once for each page that has it."""
    found = {}
    for path in sorted({path for pattern in TEXTS for path in ROOT.glob(pattern)}):
        page = str(path.relative_to(ROOT))
        for match in LINE.finditer(path.read_text(encoding="utf-8")):
            found[InstallLine(page, match["pip"], tuple(shlex.split(match["arguments"], comments=True)))] = None
    return list(found)
