"""Everything that shapes a signal → the key that it is kept under."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duet_sdk.errors import CacheError
from duet_sdk.policies import Sampling
from duet_sdk.request import Labels
from duet_sdk.types import Json, Message

_FORMAT = 1
"""Goes up when the meaning of an ingredient changes, or how a signal is read from the same output."""

_NOT_READ = ("provider_parts",)
"""Of a message, what no reasoner is given when it is asked for a signal."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a signal is kept under; made by `signal_key`."""

    digest: str
    """SHA-256 over all that shapes the signal, the tenant included; 64 hexadecimal digits."""
    tenant: str | None = None
    """Whose signal it is; requests without tenant share a place of their own."""
    scopes: tuple[str, ...] = ()
    """Labels to purge by, such as ``tenant:a`` and ``session:7``; not part of the digest."""


def signal_key(
    model: str,
    *,
    revision: str | None,
    handoff: str,
    messages: Sequence[Message],
    sampling: Sampling,
    tools: Sequence[Json],
    limit: int,
    cut: str,
    labels: Labels,
) -> CacheKey:
    """The key of the signal that one call of the reasoner would give.

    Mappings count by their content, not by their order; numbers by their value (``0`` is ``0.0``); everything else
    exactly, texts to the code point.

    Args:
        model: full name of the model that writes it, its server included.
        revision: of its weights, None if unknown.
        handoff: the handoff's name.
        messages: as the reasoner gets them: prompts, request and tools' listing added.
        sampling: of that call, its stop texts included.
        tools: as the request has them.
        limit: signal tokens.
        cut: the cut policy's name.
        labels: the tenant is part of the key; tenant, session, user and scopes are what it can be purged by.

    Raises:
        CacheError: an ingredient is not a JSON value, so that the key would be ambiguous; continue without the cache.

    >>> facts = dict(revision=None, handoff="instruct", sampling=Sampling(), tools=(), limit=64, cut="sentence")
    >>> key = signal_key("scripted/17", messages=[Message("user", "?")], labels=Labels(session="7"), **facts)
    >>> key.scopes, len(key.digest)
    (('session:7',), 64)
    """
    facts = {
        "format": _FORMAT,
        "model": model,
        "revision": revision,
        "handoff": handoff,
        "messages": messages,
        "sampling": sampling,
        "tools": tools,
        "limit": limit,
        "cut": cut,
        "tenant": labels.tenant,
    }
    try:
        # JSON is unambiguous: every text is quoted, and each ingredient has its name. It is not escaped to ASCII, as
        # a pair of lone surrogates would then read like the character that they make together.
        text = json.dumps(
            _plain(facts), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        ).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError) as error:
        raise CacheError(f"the request has no unambiguous key ({type(error).__name__}); it is not cached") from None
    named = (("tenant", labels.tenant), ("session", labels.session), ("user", labels.user))
    scopes = (*(f"{kind}:{name}" for kind, name in named if name is not None), *labels.scopes)
    return CacheKey(hashlib.sha256(text).hexdigest(), labels.tenant, tuple(dict.fromkeys(scopes)))


def _plain(value: object) -> object:
    """The value in JSON's own types, equal ones alike.

    Raises:
        CacheError: it has no such form.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name not in _NOT_READ]
        return {name: _plain(getattr(value, name)) for name in names}
    raise CacheError(f"a parameter of type {type(value).__name__} is not a JSON value; the request is not cached")
