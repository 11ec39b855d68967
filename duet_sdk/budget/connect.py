"""A ledger's URL → the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urldefrag

from duet_sdk.budget.ledger import BaseLedger
from duet_sdk.budget.memory import MemoryLedger
from duet_sdk.budget.redis_ledger import RedisLedger
from duet_sdk.budget.sqlite import SqliteLedger
from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.endpoints import LedgerStore

LedgerLike: TypeAlias = "str | BaseLedger | LedgerStore"
"""A ledger, its URL, or its settings."""


def connect_ledger(given: LedgerLike) -> BaseLedger:
    """The ledger; nothing is opened or sent yet, but the folder of an SQLite file must be there.

    ``sqlite:///ledger.db`` is a path from the working directory, ``sqlite:////var/lib/duet/ledger.db`` one from the
    root. ``redis://host:6379/0`` and ``rediss://…`` are a Redis; ``#name`` at the end names one of several ledgers on
    it. ``memory:`` lives in this process.

    Raises:
        ConfigError: a URL that names no ledger, a missing folder or holds a password, or an object of another type.
        MissingExtra: the store's library is not installed.

    >>> type(connect_ledger("sqlite:///ledger.db")).__name__
    'SqliteLedger'
    """
    named: object = given  # callers without a type checker pass other things, too
    if isinstance(named, BaseLedger):
        return named
    if isinstance(named, str):
        return _at(named, None)
    from duet_sdk.endpoints import LedgerStore  # here, as pydantic takes a while to load

    if isinstance(named, LedgerStore):
        return _at(named.url, named.resolve_password())
    kind = f"the class {named.__name__}" if isinstance(named, type) else f"an object of type {type(named).__name__}"
    raise ConfigError(f"a ledger must be a URL, a LedgerStore or an instance of a BaseLedger, got {kind}")


def _at(url: str, password: str | None) -> BaseLedger:
    if url in ("memory:", "memory://"):
        return MemoryLedger()
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return _in_folder(SqliteLedger(url.removeprefix("sqlite:///")))
    if url.startswith(("redis://", "rediss://")):
        address, name = urldefrag(url)
        return RedisLedger(address, name=name or "default", password=password)
    # Not quoted: it may hold a password.
    raise ConfigError(
        "unknown ledger URL; use sqlite:///ledger.db, sqlite:////var/lib/duet/ledger.db, redis://host:6379/0, "
        "rediss://host:6379/0#name, or memory:"
    )


def _in_folder(ledger: SqliteLedger) -> SqliteLedger:
    """The ledger, whose folder is there: in a new one at a mistyped path no limit would hold."""
    folder = ledger.path.parent
    if not folder.exists():
        raise ConfigError(f"the ledger's folder {folder} does not exist: correct the path, or make the folder first")
    return ledger
