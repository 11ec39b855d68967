"""The file of a `SqliteSignalCache`: made, checked and opened."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from duet_sdk.errors import ConfigError

SCHEMA = 1
_APPLICATION = 0x44554554
"""``DUET`` in ASCII: what SQLite's header names as the file's owner."""
_BUSY_S = 2.0
"""How long a call waits for another process that writes: far longer than a write takes, short beside a reasoner."""
_UNUSABLE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")
_TABLES = """
CREATE TABLE signal (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  digest TEXT NOT NULL,
  text BLOB NOT NULL,
  tokens INTEGER NOT NULL,
  token_limit INTEGER NOT NULL,
  truncated INTEGER NOT NULL,
  honoured INTEGER NOT NULL,
  counted_by TEXT NOT NULL,
  created REAL NOT NULL,
  expires REAL NOT NULL,
  used INTEGER NOT NULL,
  UNIQUE (tenant, digest)
);
CREATE INDEX signal_expires ON signal (expires);
CREATE INDEX signal_used ON signal (used);
CREATE TABLE label (
  scope TEXT NOT NULL,
  signal INTEGER NOT NULL REFERENCES signal ON DELETE CASCADE,
  PRIMARY KEY (scope, signal)
) WITHOUT ROWID;
CREATE INDEX label_signal ON label (signal);
"""


def open_file(path: Path) -> sqlite3.Connection:
    """The cache in that file, for the calling thread; the file and its folder are made where they are missing.

    Raises:
        ConfigError: it cannot be made or read, is something else, is damaged, or is of a newer DUET.
        sqlite3.Error: it cannot be opened for now.
        OSError: likewise.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's own mode would let others read
    except (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"cannot write the signal cache {path}: {error.strerror}; name another path") from error
    # Absolute, as SQLite has a meaning of its own for names like ":memory:".
    db = sqlite3.connect(path.absolute(), timeout=_BUSY_S, isolation_level=None)
    try:
        _prepare(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        if _name(error).startswith(_UNUSABLE):
            raise ConfigError(
                f"the signal cache {path} cannot be used: {error}; "
                "delete it if it was one (it holds copies only), or name another path"
            ) from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make or check the tables, and set how this connection works.

    Raises:
        ConfigError: the file is something else, or of a newer DUET.
    """
    if _is_empty(db):
        db.execute("BEGIN IMMEDIATE")
        with db:
            if _is_empty(db):  # else another process was faster
                for statement in filter(str.strip, _TABLES.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {SCHEMA}")
    if _pragma(db, "application_id") != _APPLICATION:
        raise ConfigError(f"{path} is a database, but no signal cache; name another path")
    version = _pragma(db, "user_version")
    if version > SCHEMA:
        raise ConfigError(
            f"the signal cache {path} is of a newer DUET (format {version}, this one knows {SCHEMA}); "
            "update duet-sdk, or name another path"
        )
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.exists():
            file.chmod(0o600)
    _write_ahead(db)
    db.execute("PRAGMA synchronous = NORMAL")  # safe when a process dies; a power cut may lose the last signals
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA secure_delete = ON")


def _write_ahead(db: sqlite3.Connection) -> None:
    """Let readers and a writer work side by side.

    Raises:
        sqlite3.OperationalError: other processes keep the file busy.
    """
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # Several processes that switch a new file at once fail without SQLite's own waiting.
            if not _name(error).startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _is_empty(db: sqlite3.Connection) -> bool:
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and _pragma(db, "application_id") == 0


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _name(error: sqlite3.Error) -> str:
    """SQLite's name for the error, empty for one of Python's own, which has none."""
    return getattr(error, "sqlite_errorname", "")
