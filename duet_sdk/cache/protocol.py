"""What the pipeline expects of every signal cache, and what all of them refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from duet_sdk._checks import seconds, whole
from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.cache.key import CacheKey
    from duet_sdk.reply import Signal


@runtime_checkable
class SignalCache(Protocol):
    """Keeps signals by key. One object serves many concurrent requests and never blocks their event loop.

    Two kinds of error: `CacheError` is the cache's own trouble and no reason to fail a request; `ConfigError` means
    that it was set up wrongly, and is to reach the caller.
    """

    async def get(self, key: CacheKey) -> Signal | None:
        """The signal as it was stored, None if there is none or its time is over.

        Raises:
            CacheError: the store failed; ask the reasoner instead.
            ConfigError: the key is another tenant's, or the store cannot be used as it is set up.
        """

    async def put(self, key: CacheKey, signal: Signal, *, ttl_s: float | None = None) -> None:
        """Keep a signal, in place of an older one of that key; one that is not `storable` is left out.

        Args:
            key: what it is found by.
            signal: as the reasoner wrote it, its tokens included.
            ttl_s: seconds until it expires; None for the cache's own time.

        Raises:
            CacheError: the store failed; nothing was kept.
            ConfigError: the key is another tenant's, or the store cannot be used as it is set up.
        """

    async def purge(self, scope: str | None = None) -> int:
        """Delete what was stored under a scope (``tenant:a``, ``session:7``), everything for None; returns how many.

        A cache bound to a tenant deletes that tenant's signals only. A signal that another session stored and this
        one merely reused stays.

        Raises:
            CacheError: the store failed; nothing was deleted.
            ConfigError: the store cannot be used as it is set up.
        """

    async def aclose(self) -> None:
        """Free what the cache holds; calling it twice is harmless."""


def storable(signal: Signal) -> bool:
    """Whether a signal is whole: not empty, not cut, and written within its limit.

    A cut one is left out whatever the cut policy made of it: asked again, the reasoner may get to its end.
    """
    return bool(signal.text.strip()) and not signal.truncated and signal.honoured


def check_limits(*, ttl_s: float, max_entries: int = 1) -> None:
    """Refuse a cache that could keep nothing.

    Raises:
        ConfigError: a time or size that is not positive.
    """
    seconds("ttl_s of a signal cache", ttl_s)
    whole("max_entries of a signal cache", max_entries)


def check_tenant(bound_to: str | None, key: CacheKey) -> None:
    """Refuse keys of tenants other than the one that the cache is bound to; None binds it to none.

    Raises:
        ConfigError: the key is another tenant's, or has no tenant.
    """
    if bound_to is not None and key.tenant != bound_to:
        whose = "a request without tenant" if key.tenant is None else f"tenant {key.tenant!r}"
        raise ConfigError(
            f"a signal cache is not shared across tenants: this one is bound to {bound_to!r} and was used for {whose}; "
            "give each tenant its own, or omit tenant=, as keys keep tenants apart anyway"
        )
