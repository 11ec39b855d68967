"""What the site shows in place of links that GitHub follows by itself: hooks of MkDocs, see mkdocs.yml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
WHOLE = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Pages that are a file of the repository's root."""

_MODULE = re.compile(r"^- \[`(duet_sdk[\w.]*)`\]\(\S+\.py\)$", re.MULTILINE)
"""A line of a page in reference/api/: a name and the file that defines it."""


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page's text: the file that it stands for, or documentation from docstrings in place of links to sources."""
    path = page.file.src_uri
    if path in WHOLE:
        return (ROOT / WHOLE[path]).read_text(encoding="utf-8")
    return _MODULE.sub(r"\n::: \1\n", markdown) if path.startswith("reference/api/") else markdown
