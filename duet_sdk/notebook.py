"""HTML for notebooks, which show it in place of a line. All text is escaped: models wrote it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def paragraph(name: str, text: str) -> str:
    """A text under its name."""
    return f"<p><b>{escape(name)}</b> {escape(text).replace(chr(10), '<br>')}</p>"


def table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table, its values as text."""
    return f"<table>{_row('th', heads)}{''.join(_row('td', row) for row in rows)}</table>"


def _row(cell: str, values: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(str(value))}</{cell}>' for value in values)}</tr>"
