"""Whose request it is and which session it belongs to, within what the caller's key allows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from duet_sdk.gateway.keys import Caller

_PLAIN: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_FIRST_HEADER: Final = b"x-claude-code-session-id"
_SESSION_HEADERS: Final = (b"session-id", b"x-session-id", b"x-session-affinity")
"""As coding agents send them, in the order in which they count."""


def user_of(body: Mapping[str, object], caller: Caller) -> str | None:
    """The label of the caller's user; None where none was named."""
    return _within(caller, body.get("user") or _in_metadata(body)[0])


def session_of(body: Mapping[str, object], headers: Mapping[bytes, bytes], caller: Caller) -> str | None:
    """The label of the session; None where none was named."""
    named = headers.get(_FIRST_HEADER) or _in_metadata(body)[1] or body.get("prompt_cache_key")
    for given in (named, *(headers.get(name) for name in _SESSION_HEADERS)):
        if given:
            return _within(caller, given.decode("latin-1") if isinstance(given, bytes) else given)
    return None


def _in_metadata(body: Mapping[str, object]) -> tuple[object, object]:
    """User and session by ``metadata.user_id``: a text of the client's, or JSON of device and session."""
    metadata = body.get("metadata")
    given = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    if not isinstance(given, str) or not given.startswith("{"):
        return given, given
    try:
        found = msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return given, given
    return found.get("device_id"), found.get("session_id")


def _within(caller: Caller, given: object) -> str | None:
    """A label inside the tenant's own: clients choose the text, and it must reach nobody else's scope."""
    if not isinstance(given, str) or not given.strip():
        return None
    plain = _PLAIN.fullmatch(given) is not None
    name = given if plain else hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{caller.tenant or 'anybody'}/{name}"
