"""A ledger in a file: formats, foreign files, faults of the disk, other processes."""

import asyncio
import dataclasses
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from decimal import Decimal

import pytest

from duet_sdk import Signal
from duet_sdk.budget import Amount, Balance, EntryFacts, Limit, SqliteLedger
from duet_sdk.budget.sqlite_tables import FORMAT
from duet_sdk.cache import CacheKey, SqliteSignalCache
from duet_sdk.errors import ConfigError, LedgerError

NOTHING = Amount()


def tokens(count):
    return Amount(reasoner_tokens=count)


def run_sql(path, script):
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


async def test_the_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "new folder" / "ledger.db"
    async with SqliteLedger(path) as ledger:
        await ledger.hold(["tenant:a"], tokens(1))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


async def test_what_was_settled_and_held_outlives_the_object(tmp_path):
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
        await (await ledger.hold(["tenant:a"], tokens(6))).settle(tokens(5))
        await ledger.hold(["tenant:a"], tokens(3))
    async with SqliteLedger(path) as again:
        assert await again.balance("tenant:a") == Balance(tokens(5), tokens(3), NOTHING, Limit(reasoner_tokens=10))


async def test_what_a_killed_process_held_is_charged_and_what_it_settled_stays(tmp_path):
    path = tmp_path / "ledger.db"
    script = f"""
import asyncio, os, signal
from duet_sdk.budget import Amount, SqliteLedger
async def main():
    ledger = SqliteLedger({str(path)!r}, clock=lambda: 1000.0)
    await (await ledger.hold(["tenant:a"], Amount(reasoner_tokens=6))).settle(Amount(reasoner_tokens=5))
    await ledger.hold(["tenant:a"], Amount(reasoner_tokens=3), ttl_s=60)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == -signal.SIGKILL
    async with SqliteLedger(path, clock=lambda: 1059.0) as ledger:
        assert await ledger.balance("tenant:a") == Balance(tokens(5), tokens(3), NOTHING, None)
    async with SqliteLedger(path, clock=lambda: 1060.0) as ledger:
        assert await ledger.balance("tenant:a") == Balance(tokens(8), NOTHING, NOTHING, None)
        assert [entry.status for entry in await ledger.entries()] == ["settled", "expired"]


# Formats


async def test_a_file_of_format_1_is_brought_to_the_present_format(tmp_path):
    path = tmp_path / "ledger.db"
    run_sql(
        path,
        f"""
        {FORMAT.steps[0]};
        PRAGMA application_id = {FORMAT.application};
        PRAGMA user_version = 1;
        UPDATE clock SET now = 1000000000;
        INSERT INTO scope VALUES (1, 'tenant:a', 1000000000, 50000000, NULL, NULL, NULL, NULL);
        INSERT INTO slice VALUES (1, 0, 12000000, 310, 0, 1, 0, 0, 0, 0, 31000000, 840, 0, 0);
        INSERT INTO hold VALUES ('old', 'tenant:a', 1000000000, 1600000000, 31000000, 840, 0, 0, 1, 'reasoner', 'm',
            'signal', 't', 0, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO entry VALUES (1, 'settled', 'h', 'tenant:a', 1000000000, 1000000000, 1, 'reasoner', 'm', 'signal',
            't', 12000000, 310, 0, 1, 0, 0, 0, 0);
        INSERT INTO entry_scope VALUES ('tenant:a', 1);
        """,
    )
    async with SqliteLedger(path, clock=lambda: 1600.0) as ledger:
        assert await ledger.balance("tenant:a") == Balance(
            Amount(Decimal("0.043"), 1150, 0, 1), NOTHING, NOTHING, Limit(usd=Decimal("0.05"))
        )
        first, second = await ledger.entries()
        assert (first.usd, first.facts) == (Decimal("0.012"), EntryFacts("reasoner", "m", "signal", "t", 0, 0))
        assert (second.status, second.usd) == ("expired", Decimal("0.031"))
        told = EntryFacts("reasoner", "m", "signal", "t", 300, 12, 200, 0, 10)
        await (await ledger.hold(["tenant:a"], tokens(312))).settle(tokens(312), told)
        assert (await ledger.entries())[-1].facts == told
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


async def test_a_file_of_a_newer_format_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        await ledger.hold(["tenant:a"], tokens(1))
    run_sql(path, "PRAGMA user_version = 4")
    before = path.read_bytes()
    async with SqliteLedger(path) as ledger:
        with pytest.raises(
            ConfigError, match=r"the ledger .* was written by a newer DUET \(format 4, this one knows 3\)"
        ):
            await ledger.balance("tenant:a")
    assert path.read_bytes() == before


async def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "signals.db"
    async with SqliteSignalCache(path) as cache:
        await cache.put(CacheKey("0" * 64), Signal("17", tokens=1, limit=9))
    before = path.read_bytes()
    async with SqliteLedger(path) as ledger:
        with pytest.raises(ConfigError, match="a database, but not a ledger; choose another path"):
            await ledger.hold(["tenant:a"], tokens(1))
    assert path.read_bytes() == before


async def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database at all, and long enough to be seen as damaged" * 20)
    async with SqliteLedger(path) as ledger:
        with pytest.raises(ConfigError, match="cannot be used: .*; restore it from a backup, or choose another path"):
            await ledger.hold(["tenant:a"], tokens(1))


async def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    async with SqliteLedger(tmp_path / "file" / "ledger.db") as ledger:
        with pytest.raises(ConfigError, match="cannot write the ledger .*; choose another path"):
            await ledger.limits()


# Faults


async def test_a_file_that_is_kept_locked_is_a_ledger_error_and_works_again_after(tmp_path, monkeypatch):
    monkeypatch.setattr("duet_sdk.budget.sqlite.FORMAT", dataclasses.replace(FORMAT, busy_s=0.05))
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(6))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match="database is locked; nothing of this call was booked"):
                await ledger.hold(["tenant:a"], tokens(1))
            with pytest.raises(LedgerError, match="locked"):
                await hold.settle(tokens(5))
        await hold.settle(tokens(5))
        assert await ledger.balance("tenant:a") == Balance(tokens(5), NOTHING, NOTHING, None)


def test_a_full_disk_is_a_ledger_error_and_loses_nothing(tmp_path):
    script = f"""
import asyncio, resource
from duet_sdk.budget import Amount, SqliteLedger
from duet_sdk.errors import LedgerError
async def main():
    async with SqliteLedger({str(tmp_path / "ledger.db")!r}) as ledger:
        await ledger.hold(["tenant:a"], Amount(reasoner_tokens=1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        made = 1
        try:
            while made < 10_000:
                await ledger.hold(["tenant:a"], Amount(reasoner_tokens=1))
                made += 1
        except LedgerError as error:
            print(error)
        assert (await ledger.limits()) == {{}}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (await ledger.balance("tenant:a")).held == Amount(reasoner_tokens=made), made
        await ledger.hold(["tenant:a"], Amount(reasoner_tokens=1))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing of this call was booked; check that the disk has space" in done.stdout


async def test_a_closed_ledger_says_so(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.aclose()
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.hold(["tenant:a"], tokens(1))
    assert list(tmp_path.iterdir()) == []
