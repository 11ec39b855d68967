"""Lengths of time as commands take them: ``30m``, ``24h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_SPAN: Final = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def span(given: str) -> timedelta | None:
    """A length of time; None where it is none.

    >>> span("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    found = _SPAN.fullmatch(given)
    return None if found is None else int(found[1]) * _UNITS[found[2]]
