"""The file of a `SqliteLedger`: its tables, and how SQLite identifies it.

Money is whole nano-USD, times are whole microseconds since the epoch, scopes are separated by spaces.
"""

from __future__ import annotations

from typing import Final

from duet_sdk._sqlite import Format
from duet_sdk.errors import LedgerError

_FORMAT_1: Final = """
CREATE TABLE clock (now INTEGER NOT NULL);
INSERT INTO clock VALUES (0);
CREATE TABLE scope (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  used INTEGER NOT NULL,
  usd INTEGER,
  reasoner_tokens INTEGER,
  generator_tokens INTEGER,
  requests INTEGER,
  span TEXT
);
CREATE TABLE slice (
  scope INTEGER NOT NULL,
  start INTEGER NOT NULL,
  spent_usd INTEGER NOT NULL,
  spent_reasoner INTEGER NOT NULL,
  spent_generator INTEGER NOT NULL,
  spent_requests INTEGER NOT NULL,
  over_usd INTEGER NOT NULL,
  over_reasoner INTEGER NOT NULL,
  over_generator INTEGER NOT NULL,
  over_requests INTEGER NOT NULL,
  held_usd INTEGER NOT NULL,
  held_reasoner INTEGER NOT NULL,
  held_generator INTEGER NOT NULL,
  held_requests INTEGER NOT NULL,
  PRIMARY KEY (scope, start)
) WITHOUT ROWID;
CREATE TABLE hold (
  id TEXT PRIMARY KEY,
  scopes TEXT NOT NULL,
  made INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  usd INTEGER NOT NULL,
  reasoner_tokens INTEGER NOT NULL,
  generator_tokens INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  stage TEXT,
  model TEXT NOT NULL,
  kind TEXT,
  trace_id TEXT NOT NULL,
  charged INTEGER NOT NULL DEFAULT 0,
  ended INTEGER,
  real_usd INTEGER,
  real_reasoner INTEGER,
  real_generator INTEGER,
  real_requests INTEGER
) WITHOUT ROWID;
CREATE INDEX hold_open ON hold (expires) WHERE ended IS NULL;
CREATE INDEX hold_ended ON hold (ended) WHERE ended IS NOT NULL;
CREATE TABLE entry (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  status TEXT NOT NULL,
  hold TEXT NOT NULL,
  scopes TEXT NOT NULL,
  made INTEGER NOT NULL,
  booked INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  stage TEXT,
  model TEXT NOT NULL,
  kind TEXT,
  trace_id TEXT NOT NULL,
  usd INTEGER NOT NULL,
  reasoner_tokens INTEGER NOT NULL,
  generator_tokens INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  over_usd INTEGER NOT NULL,
  over_reasoner INTEGER NOT NULL,
  over_generator INTEGER NOT NULL,
  over_requests INTEGER NOT NULL
);
CREATE INDEX entry_booked ON entry (booked);
CREATE TABLE entry_scope (
  scope TEXT NOT NULL,
  entry INTEGER NOT NULL,
  PRIMARY KEY (scope, entry)
) WITHOUT ROWID
"""
_FORMAT_2: Final = """
ALTER TABLE entry ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0
"""
_FORMAT_3: Final = """
ALTER TABLE entry ADD COLUMN cached_tokens INTEGER;
ALTER TABLE entry ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE entry ADD COLUMN reasoning_tokens INTEGER;
ALTER TABLE hold ADD COLUMN cached_tokens INTEGER;
ALTER TABLE hold ADD COLUMN cache_write_tokens INTEGER;
ALTER TABLE hold ADD COLUMN reasoning_tokens INTEGER
"""

FORMAT: Final = Format(
    name="ledger",
    application=0x44554C47,  # "DULG" in ASCII
    steps=(_FORMAT_1, _FORMAT_2, _FORMAT_3),
    error=LedgerError,
    if_unusable="restore it from a backup, or choose another path",
    if_failed=(
        "nothing of this call was booked; check that the disk has space and that no other process keeps the file locked"
    ),
    busy_s=5.0,  # a write takes well under a millisecond: so long only where something holds the file
)
