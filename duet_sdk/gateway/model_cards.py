"""What ``/v1/models`` says about a name, in OpenAI's form or in Anthropic's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_MADE_AT: Final = "1970-01-01T00:00:00Z"
"""Clients demand a time; that of a configured name is nobody's concern."""


def cards(names: Sequence[str], *, anthropic: bool) -> dict[str, Any]:
    """The list of all."""
    data = [card(name, anthropic=anthropic) for name in names]
    if not anthropic:
        return {"object": "list", "data": data}
    first, last = (names[0], names[-1]) if names else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def card(name: str, *, anthropic: bool) -> dict[str, Any]:
    """One of them."""
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": _MADE_AT}
    return {"id": name, "object": "model", "created": 0, "owned_by": "duet"}
