"""Whose request it is and which session it belongs to, within what the caller's key allows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from duet_sdk.gateway.keys import Caller

_PLAIN: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SESSION_HEADERS: Final = (b"session-id", b"x-session-id", b"x-session-affinity")
"""As coding agents send them, in the order in which they count."""


def user_of(body: Mapping[str, object], caller: Caller) -> str | None:
    """The label of the caller's user; None where none was named."""
    return _within(caller, body.get("user"))


def session_of(body: Mapping[str, object], headers: Mapping[bytes, bytes], caller: Caller) -> str | None:
    """The label of the session; None where none was named."""
    for given in (body.get("prompt_cache_key"), *(headers.get(name) for name in _SESSION_HEADERS)):
        if given:
            return _within(caller, given.decode("latin-1") if isinstance(given, bytes) else given)
    return None


def _within(caller: Caller, given: object) -> str | None:
    """A label inside the tenant's own: clients choose the text, and it must reach nobody else's scope."""
    if not isinstance(given, str) or not given.strip():
        return None
    plain = _PLAIN.fullmatch(given) is not None
    name = given if plain else hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{caller.tenant or 'anybody'}/{name}"
