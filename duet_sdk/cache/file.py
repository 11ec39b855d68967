"""The file of a `SqliteSignalCache`: its tables, and how SQLite identifies it."""

from __future__ import annotations

from typing import Final

from duet_sdk._sqlite import Format
from duet_sdk.errors import CacheError

_TABLES: Final = """
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

FORMAT: Final = Format(
    name="signal cache",
    application=0x44554554,  # "DUET" in ASCII
    steps=(_TABLES,),
    error=CacheError,
    if_unusable="delete it if it was one (it holds only copies), or choose another path",
    if_failed="if this persists, delete it: it holds only copies",
    busy_s=2.0,  # far longer than a write takes, short compared to a reasoner
    pragmas=("foreign_keys = ON", "secure_delete = ON"),
)
