"""The signal cache: what tells two signals apart, and the file that outlives its process."""

import asyncio
import dataclasses
import os
import signal as signals
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk import Message, Sampling, Signal
from duet_sdk.cache import CacheError, CacheKey, SqliteSignalCache, signal_key
from duet_sdk.cache.file import FORMAT
from duet_sdk.errors import ConfigError
from duet_sdk.request import Labels
from duet_sdk.types import ImagePart, TextPart, ToolCall

KEY = CacheKey("0" * 64, "a", ("tenant:a", "session:1"))
SIGNAL = Signal("17 primes, a secret", tokens=4, limit=64, counted_by="token_ids")
SAMPLING = Sampling(
    temperature=0.5, top_p=0.9, top_k=20, min_p=0.1, seed=1, stop=("a", "b"), logprobs=2, extra_body={"x": {"y": [1]}}
)
FACTS = {
    "model": "vllm/M@http://host:8000/v1",
    "revision": "abc",
    "handoff": "instruct",
    "messages": (
        Message("system", "Notes"),
        Message("user", (TextPart("a"), ImagePart("https://host/i.png", "low"))),
        Message("assistant", "", tool_calls=(ToolCall("1", "find", "{}"),)),
        Message("tool", "17", tool_call_id="1", name="find"),
    ),
    "sampling": SAMPLING,
    "tools": ({"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}},),
    "limit": 64,
    "cut": "sentence",
    "labels": Labels(tenant="a", session="7", user="u", scopes=("project:x",)),
}


def key_of(**changes) -> CacheKey:
    facts = {**FACTS, **changes}
    return signal_key(facts.pop("model"), **facts)


# Keys

OTHER_SAMPLING = {
    "temperature": 0.6,
    "top_p": 0.91,
    "top_k": 21,
    "min_p": None,
    "seed": 2,
    "stop": ("b", "a"),
    "logprobs": None,
    "extra_body": {"x": {"y": [True]}},
}
OTHER_MESSAGES = {
    "one less": FACTS["messages"][:-1],
    "another order": FACTS["messages"][::-1],
    "a role": (dataclasses.replace(FACTS["messages"][0], role="user"), *FACTS["messages"][1:]),
    "a text": (dataclasses.replace(FACTS["messages"][0], content="notes"), *FACTS["messages"][1:]),
    "an image": (FACTS["messages"][0], Message("user", (TextPart("a"), ImagePart("https://host/i.png")))),
    "a call": (*FACTS["messages"][:2], Message("assistant", "", tool_calls=(ToolCall("1", "find", "[]"),))),
    "a call's id": (*FACTS["messages"][:3], Message("tool", "17", tool_call_id="2", name="find")),
}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "vllm/M@http://host:8001/v1"},
        {"revision": None},
        {"handoff": "think"},
        {"tools": ()},
        {"limit": 65},
        {"cut": "keep"},
        {"labels": Labels()},
        {"labels": Labels(tenant="")},
        {"labels": Labels(tenant="b")},
        *({"sampling": dataclasses.replace(SAMPLING, **{name: value})} for name, value in OTHER_SAMPLING.items()),
        *({"messages": messages} for messages in OTHER_MESSAGES.values()),
    ],
    ids=str,
)
def test_any_other_ingredient_makes_another_key(change):
    assert key_of(**change).digest != key_of().digest


def test_every_field_of_sampling_is_tried_above():
    assert set(OTHER_SAMPLING) == {field.name for field in dataclasses.fields(Sampling)}


@pytest.mark.parametrize(
    "change",
    [
        {"messages": list(FACTS["messages"])},
        {"sampling": dataclasses.replace(SAMPLING, extra_body=MappingProxyType({"x": {"y": (1.0,)}}))},
        {"tools": ({"function": {"parameters": {"type": "object"}, "name": "find"}, "type": "function"},)},
        {"labels": Labels(tenant="a", session="8", scopes=("project:y",), metadata={"trace": object()})},
    ],
    ids=["messages", "extra_body", "tools", "labels"],
)
def test_equal_ingredients_in_another_form_make_the_same_key(change):
    assert key_of(**change).digest == key_of().digest


def test_a_whole_number_is_the_same_as_its_float():
    assert key_of(sampling=Sampling(temperature=0)) == key_of(sampling=Sampling(temperature=-0.0))


def test_two_lone_surrogates_are_not_the_character_that_they_would_make():
    assert key_of(messages=[Message("user", "\ud83d\ude42")]) != key_of(messages=[Message("user", "🙂")])


def test_scopes_name_each_label_once():
    labels = Labels(tenant="a", session="7", user="u", scopes=("project:x", "tenant:a"))
    assert key_of(labels=labels).scopes == ("tenant:a", "session:7", "user:u", "project:x")
    assert key_of(labels=Labels()).scopes == ()


@pytest.mark.parametrize("value", [object(), b"bytes", {1: "a"}, {"a": {1, 2}}, float("nan"), float("-inf")])
def test_what_is_no_json_value_makes_no_key(value):
    with pytest.raises(CacheError, match="not cached"):
        key_of(sampling=Sampling(extra_body={"x": value}))


def test_an_endless_parameter_makes_no_key():
    loop: dict[str, object] = {}
    loop["loop"] = loop
    with pytest.raises(CacheError, match="RecursionError"):
        key_of(sampling=Sampling(extra_body=loop))


# Texts made of what could blur the borders between texts, lone surrogates included.
TEXT = st.text(st.sampled_from([*'ab",:{}[]\\\n\0 eé\u0301', "🙂", "\ud83d", "\ude42"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.5]) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
BODY = st.none() | st.dictionaries(TEXT, JSON, max_size=3)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT, name=st.none() | TEXT), max_size=3)
INGREDIENTS = st.fixed_dictionaries(
    {
        "model": TEXT,
        "revision": st.none() | TEXT,
        "messages": MESSAGES.map(tuple),
        "sampling": st.builds(Sampling, stop=st.lists(TEXT.filter(bool), max_size=3), extra_body=BODY),
        "tools": st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2).map(tuple),
        "cut": TEXT,
        "labels": st.builds(Labels, tenant=st.none() | TEXT),
    }
)


@given(INGREDIENTS, INGREDIENTS)
def test_two_requests_share_a_key_only_where_they_are_the_same(one, other):
    # Python's repr tells True from 1, which == does not; mappings are put in order first.
    same = repr(ordered(one)) == repr(ordered(other))
    assert (key_of(**one).digest == key_of(**other).digest) is same


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4))
def test_texts_are_not_run_together(one, other):
    keys = [key_of(messages=[Message("user", text) for text in texts]) for texts in (one, other)]
    assert (keys[0] == keys[1]) is (one == other)


@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=4))
def test_the_order_of_a_mapping_means_nothing(body):
    turned = dict(reversed(body.items()))
    assert key_of(sampling=Sampling(extra_body=body)) == key_of(sampling=Sampling(extra_body=turned))


def ordered(value):
    if isinstance(value, dict):
        return [(name, ordered(value[name])) for name in sorted(value)]
    if isinstance(value, list | tuple):
        return tuple(ordered(item) for item in value)
    if dataclasses.is_dataclass(value):
        return [ordered(getattr(value, field.name)) for field in dataclasses.fields(value)], type(value).__name__
    return value


# The file


def test_a_signal_outlives_the_object_that_stored_it(tmp_path):
    async def store():
        async with SqliteSignalCache(tmp_path / "new" / "signals.db") as cache:
            await cache.put(KEY, SIGNAL)

    async def read():
        async with SqliteSignalCache(tmp_path / "new" / "signals.db") as cache:
            return await cache.get(KEY)

    asyncio.run(store())
    assert asyncio.run(read()) == SIGNAL


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX's")
@pytest.mark.parametrize("before", [None, 0o644])
async def test_only_the_owner_may_read_the_files(tmp_path, before):
    path = tmp_path / "signals.db"
    if before is not None:
        path.touch()
        path.chmod(before)
    async with SqliteSignalCache(path) as cache:
        await cache.put(KEY, SIGNAL)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"signals.db": 0o600, "signals.db-wal": 0o600, "signals.db-shm": 0o600}


async def test_a_purged_signal_is_gone_from_the_files(tmp_path):
    async with SqliteSignalCache(tmp_path / "signals.db") as cache:
        await cache.put(KEY, SIGNAL)
        assert b"a secret" in b"".join(file.read_bytes() for file in tmp_path.iterdir())
        await cache.purge("session:1")
        assert b"a secret" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


async def test_expired_signals_are_swept_by_the_next_one(tmp_path):
    now = 1000.0
    async with SqliteSignalCache(tmp_path / "signals.db", ttl_s=10, clock=lambda: now) as cache:
        for name in range(5):
            await cache.put(CacheKey(f"{name:064}", None, ("session:1",)), SIGNAL)
        now += 10
        await cache.put(KEY, SIGNAL)
    assert rows(tmp_path / "signals.db", "SELECT count(*) FROM signal") == [(1,)]
    assert rows(tmp_path / "signals.db", "SELECT count(*) FROM label") == [(2,)]


async def test_a_bound_cache_purges_its_own_tenant_in_a_shared_file(tmp_path):
    async with (
        SqliteSignalCache(tmp_path / "signals.db", tenant="a") as of_a,
        SqliteSignalCache(tmp_path / "signals.db", tenant="b") as of_b,
    ):
        other = CacheKey(KEY.digest, "b", ("session:1",))
        await of_a.put(KEY, SIGNAL)
        await of_b.put(other, SIGNAL)
        assert await of_a.purge("session:1") == 1
        assert await of_b.get(other) == SIGNAL
        assert await of_a.purge() == 0
        assert await of_b.purge() == 1


async def test_a_file_of_a_newer_format_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "signals.db"
    async with SqliteSignalCache(path) as cache:
        await cache.put(KEY, SIGNAL)
    rows(path, f"PRAGMA user_version = {len(FORMAT.steps) + 1}")
    before = path.read_bytes()
    async with SqliteSignalCache(path) as cache:
        with pytest.raises(
            ConfigError,
            match=f"by a newer DUET \\(format {len(FORMAT.steps) + 1}, this one knows {len(FORMAT.steps)}\\)",
        ):
            await cache.get(KEY)
    assert path.read_bytes() == before


async def test_another_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    rows(path, "CREATE TABLE spending (usd TEXT)")
    path.chmod(0o644)
    before = path.read_bytes()
    async with SqliteSignalCache(path) as cache:
        with pytest.raises(ConfigError, match="a database, but not a signal cache"):
            await cache.put(KEY, SIGNAL)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o644)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 1000)
    async with SqliteSignalCache(path) as cache:
        with pytest.raises(ConfigError, match=r"cannot be used: .*; delete it if it was one"):
            await cache.get(KEY)
    assert path.read_text() == "no database " * 1000


@pytest.mark.parametrize("name", [".", "file/signals.db"])
async def test_a_path_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    async with SqliteSignalCache(tmp_path / name) as cache:
        with pytest.raises(ConfigError, match="cannot write the signal cache .*; choose another path"):
            await cache.get(KEY)


async def test_damage_while_it_is_open_is_the_caches_own_trouble(tmp_path):
    path = tmp_path / "signals.db"
    async with SqliteSignalCache(path) as cache:
        await cache.put(KEY, SIGNAL)
        rows(path, "DROP TABLE signal")
        for _ in range(2):
            with pytest.raises(CacheError, match="if this persists, delete it"):
                await cache.get(KEY)
        with pytest.raises(CacheError):
            await cache.put(KEY, SIGNAL)


async def test_a_file_that_another_process_keeps_busy_is_the_caches_own_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr("duet_sdk.cache.sqlite.FORMAT", dataclasses.replace(FORMAT, busy_s=0.05))
    path = tmp_path / "signals.db"
    async with SqliteSignalCache(path) as cache:
        await cache.put(KEY, SIGNAL)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="locked"):
            await cache.put(KEY, SIGNAL)
        assert await cache.get(KEY) == SIGNAL
        other.close()
        await cache.put(KEY, SIGNAL)


async def test_a_closed_cache_says_so(tmp_path):
    cache = SqliteSignalCache(tmp_path / "signals.db")
    await cache.aclose()
    with pytest.raises(CacheError, match="is closed"):
        await cache.get(KEY)
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_request_leaves_the_cache_whole(tmp_path):
    async with SqliteSignalCache(tmp_path / "signals.db") as cache:
        tasks = [asyncio.create_task(cache.put(CacheKey(f"{name:064}"), SIGNAL)) for name in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all([await cache.get(CacheKey(f"{name:064}")) == SIGNAL for name in range(1, 20, 2)])


# Several processes

WRITER = """
import asyncio, itertools, sys
from duet_sdk import Signal
from duet_sdk.cache import CacheKey, SqliteSignalCache

async def main(path, name, count):
    async with SqliteSignalCache(path) as cache:
        for number in range(int(count)) if int(count) else itertools.count():
            digest = f"{name}{number:063}"
            await cache.put(CacheKey(digest, None, (f"session:{name}",)), Signal(digest * 50, tokens=9, limit=64))
            print(number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(path: Path, statement: str) -> list[tuple]:
    db = sqlite3.connect(path)
    try:
        with db:
            return db.execute(statement).fetchall()
    finally:
        db.close()


async def test_processes_that_share_a_new_file_lose_nothing(tmp_path):
    path = tmp_path / "signals.db"
    for process in [writer(path, name, 50) for name in "abcd"]:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, len(out.split())) == (0, 50), err
    async with SqliteSignalCache(path) as cache:
        for name in "abcd":
            assert (await cache.get(CacheKey(f"{name}{49:063}"))).text == f"{name}{49:063}" * 50
            assert await cache.purge(f"session:{name}") == 50


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
async def test_what_a_killed_process_had_stored_is_there_and_whole(tmp_path):
    path = tmp_path / "signals.db"
    with writer(path, "a", 0) as process:
        stored = [int(process.stdout.readline()) for _ in range(100)]
        process.send_signal(signals.SIGKILL)
        stored += [int(line) for line in process.stdout if line.endswith("\n")]
    async with SqliteSignalCache(path) as cache:
        for number in stored:
            digest = f"a{number:063}"
            assert await cache.get(CacheKey(digest)) == Signal(digest * 50, tokens=9, limit=64)
        await cache.put(KEY, SIGNAL)
        assert await cache.purge("session:a") - len(stored) in {0, 1}
        assert await cache.get(KEY) == SIGNAL
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
