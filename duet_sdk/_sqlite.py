"""SQLite files shared by several processes: created, checked, kept in the current format, each in its own thread."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from duet_sdk.errors import CacheError, ConfigError, LedgerError

_T = TypeVar("_T")
_UNUSABLE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")

_BUSY_PAUSE_S = 0.01
"""Pause between retries where SQLite itself does not wait; the other process is done in about that time."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a file contains, and how it is created."""

    name: str
    """Its name in errors."""
    application: int
    """The application id in SQLite's header."""
    steps: tuple[str, ...]
    """SQL scripts; the first makes format 1 from an empty file, each further one the next format from that before."""
    error: type[CacheError | LedgerError]
    """Raised when the file fails for now."""
    if_unusable: str
    """What to do with a file that can never be used, for its error."""
    if_failed: str
    """What to do when the file fails for now, for its error."""
    busy_s: float
    """How long a call waits for other processes that write."""
    pragmas: tuple[str, ...] = ()
    """Set on each connection."""


class Database:
    """A file, opened on first use, in a thread that does all its work; several event loops may share it."""

    def __init__(self, path: Path, form: Format) -> None:
        self._path = path
        self._form = form
        self._db: sqlite3.Connection | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"duet-{form.name.replace(' ', '-')}")
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do the work and return its result; it is done even if the caller is cancelled.

        Raises:
            ConfigError: the file cannot be used.
            CacheError: it is a cache, and failed or is closed.
            LedgerError: it is a ledger, and failed or is closed.
        """
        if self._closed:
            raise self._form.error(f"the {self._form.name} {self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._guarded, work)

    async def aclose(self) -> None:
        """Close the file; work in progress is finished first. Calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        closing = self._worker.submit(self._close)
        self._worker.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closing))

    def _guarded(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._db is None:
                self._db = open_file(self._path, self._form)
            return work(self._db)
        except (sqlite3.Error, OSError, UnicodeError, OverflowError) as error:
            raise self._form.error(
                f"the {self._form.name} {self._path} failed: {error}; {self._form.if_failed}"
            ) from error

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def open_file(path: Path, form: Format) -> sqlite3.Connection:
    """The file for the calling thread, in its present format; it and its folder are made where they are missing.

    Raises:
        ConfigError: it cannot be made or read, is something else, is damaged, or is of a newer DUET.
        sqlite3.Error: it cannot be opened for now.
        OSError: likewise.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's own mode would let others read
    except (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"cannot write the {form.name} {path}: {error.strerror}; choose another path") from error
    # Absolute, as SQLite has a meaning of its own for names like ":memory:".
    db = sqlite3.connect(path.absolute(), timeout=form.busy_s, isolation_level=None)
    try:
        _prepare(db, path, form)
    except sqlite3.DatabaseError as error:
        db.close()
        if _name(error).startswith(_UNUSABLE):
            raise ConfigError(f"the {form.name} {path} cannot be used: {error}; {form.if_unusable}") from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path, form: Format) -> None:
    """Make or check the tables, and set how this connection works.

    Raises:
        ConfigError: the file is something else, or of a newer DUET.
    """
    if _is_empty(db) or (_pragma(db, "application_id") == form.application and _format(db) < len(form.steps)):
        _bring_up(db, form)
    if _pragma(db, "application_id") != form.application:
        raise ConfigError(f"{path} is a database, but not a {form.name}; choose another path")
    if _format(db) > len(form.steps):
        raise ConfigError(
            f"the {form.name} {path} was written by a newer DUET (format {_format(db)}, "
            f"this one knows {len(form.steps)}); update duet-sdk, or choose another path"
        )
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.exists():
            file.chmod(0o600)
    _write_ahead(db, form.busy_s)
    db.execute("PRAGMA synchronous = NORMAL")  # safe when a process dies; a power cut may lose what came last
    for pragma in form.pragmas:
        db.execute(f"PRAGMA {pragma}")


def _bring_up(db: sqlite3.Connection, form: Format) -> None:
    """Take the steps that the file lacks, all or none."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        # Read again, as another process may have been faster.
        if not _is_empty(db) and _pragma(db, "application_id") != form.application:
            return
        for number, step in enumerate(form.steps, start=1):
            if number > _format(db):
                for statement in filter(str.strip, step.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
        db.execute(f"PRAGMA application_id = {form.application}")


def _write_ahead(db: sqlite3.Connection, busy_s: float) -> None:
    """Let readers and a writer work side by side.

    Raises:
        sqlite3.OperationalError: other processes keep the file busy.
    """
    until = time.monotonic() + busy_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # Several processes that switch a new file at once fail without SQLite's own waiting.
            if not _name(error).startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _is_empty(db: sqlite3.Connection) -> bool:
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and _pragma(db, "application_id") == 0


def _format(db: sqlite3.Connection) -> int:
    return _pragma(db, "user_version")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _name(error: sqlite3.Error) -> str:
    """SQLite's name for the error, empty for one of Python's own, which has none."""
    return getattr(error, "sqlite_errorname", "")
