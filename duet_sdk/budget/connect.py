"""A ledger's URL → the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urldefrag

from duet_sdk.budget.ledger import Ledger
from duet_sdk.budget.memory import MemoryLedger
from duet_sdk.budget.redis_ledger import RedisLedger
from duet_sdk.budget.sqlite import SqliteLedger
from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.endpoints import LedgerStore

LedgerLike: TypeAlias = "str | Ledger | LedgerStore"
"""A ledger, its URL, or its settings."""


def connect_ledger(given: LedgerLike) -> Ledger:
    """The ledger; nothing is opened or sent yet.

    ``sqlite:///ledger.db`` is a path from the working directory, ``sqlite:////var/lib/duet/ledger.db`` one from the
    root. ``redis://host:6379/0`` and ``rediss://…`` are a Redis; ``#name`` at the end names one of several ledgers on
    it. ``memory:`` lives in this process.

    Raises:
        ConfigError: a URL that names no ledger, or holds a password.
        MissingExtra: the store's library is not installed.

    >>> type(connect_ledger("sqlite:///ledger.db")).__name__
    'SqliteLedger'
    """
    if isinstance(given, Ledger):
        return given
    if not isinstance(given, str) and not hasattr(given, "resolve_password"):
        raise ConfigError(f"a ledger must be a URL or an object with a ledger's methods, got {type(given).__name__}")
    url, password = (given, None) if isinstance(given, str) else (given.url, given.resolve_password())
    if url in ("memory:", "memory://"):
        return MemoryLedger()
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return SqliteLedger(url.removeprefix("sqlite:///"))
    if url.startswith(("redis://", "rediss://")):
        address, name = urldefrag(url)
        return RedisLedger(address, name=name or "default", password=password)
    # Not quoted: it may hold a password.
    raise ConfigError(
        "a ledger is named by a URL: sqlite:///ledger.db, sqlite:////var/lib/duet/ledger.db, redis://host:6379/0, "
        "rediss://host:6379/0#name, or memory:"
    )
