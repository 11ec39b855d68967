"""A ledger on a real Redis: round trips, restarts, lost answers, formats, addresses."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk.budget import Amount, Balance, EntryFacts, Limit, RedisLedger
from duet_sdk.errors import ConfigError, LedgerError, MissingExtra

pytestmark = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)
NOTHING = Amount()
NOBODY = "redis://127.0.0.1:1/0"


def tokens(count):
    return Amount(reasoner_tokens=count)


@asynccontextmanager
async def proxied(server):
    """The server behind a proxy, which counts calls of scripts, and loses the answers to as many as `lose` says."""

    class Proxy:
        calls = 0
        lose = 0

    async def serve(reader, writer):
        inner, outer = await asyncio.open_connection("127.0.0.1", server.port)

        async def up():
            while data := await reader.read(1 << 16):
                Proxy.calls += data.count(b"EVALSHA")
                outer.write(data)
            outer.close()

        async def down():
            while data := await inner.read(1 << 16):
                if Proxy.calls and Proxy.lose:
                    Proxy.lose -= 1
                    break
                writer.write(data)
            writer.close()

        await asyncio.gather(up(), down(), return_exceptions=True)
        outer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    Proxy.url = f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"
    try:
        yield Proxy
    finally:
        proxy.close()


async def test_hold_and_settle_are_one_round_trip_each(server, admin):
    async with RedisLedger(server.url) as ledger, AsyncExitStack() as stack:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100, window="day"))
        await (await ledger.hold(["tenant:a"], tokens(1))).settle(tokens(1))  # the connection and the script are there
        await ledger.hold(["tenant:a"], tokens(1), ttl_s=0.000001)  # expires with what comes next
        marker = await stack.enter_async_context(Redis.from_url(server.url))
        await marker.ping()
        async with admin.monitor() as monitor:
            hold = await ledger.hold(["tenant:a", "session:7"], tokens(10))
            await hold.settle(tokens(7))
            await marker.echo("end")
            seen = []
            async for line in monitor.listen():
                if "ECHO" in line["command"]:
                    break
                if line["client_type"] != "lua":
                    seen.append(line["command"].split()[0])
        assert seen == ["EVALSHA", "EVALSHA"]
        assert [entry.status for entry in await ledger.entries()] == ["settled", "expired", "settled"]


async def test_a_server_that_forgot_the_script_is_given_it_again(server, admin):
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(10))
        await admin.script_flush()
        await hold.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_hold_whose_answer_is_lost_is_made_once(server):
    async with proxied(server) as proxy, RedisLedger(proxy.url) as ledger:
        await ledger.limits()
        proxy.lose = 1
        hold = await ledger.hold(["tenant:a"], tokens(10))
        assert (await ledger.balance("tenant:a")).held == tokens(10)
        proxy.lose = 1
        await hold.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_restart_without_memory_loses_no_settle(server):
    async with RedisLedger(server.url) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
        hold = await ledger.hold(["tenant:a"], tokens(10))
        server.stop()
        server.start()
        assert await ledger.balance("tenant:a") == Balance(NOTHING, NOTHING, NOTHING, None)
        await hold.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, tokens(7), None)
        assert [entry.status for entry in await ledger.entries()] == ["overrun"]


async def test_a_restart_with_an_append_only_file_keeps_everything(tmp_path):
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisLedger(server.url) as ledger:
            await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
            hold = await ledger.hold(["tenant:a"], tokens(10))
            server.stop()
            server.start()
            await hold.settle(tokens(7))
            assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, Limit(reasoner_tokens=10))


async def test_time_is_the_servers_own(server, admin):
    async with RedisLedger(server.url) as ledger:
        before = await admin.time()
        hold = await ledger.hold(["tenant:a"], tokens(10))
        after = await admin.time()
    assert before[0] * 10**6 + before[1] <= hold.made_us <= after[0] * 10**6 + after[1]


async def test_every_key_is_in_one_slot(server, admin):
    async with RedisLedger(server.url, name="prod") as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
        await (await ledger.hold(["tenant:a", "session:7"], tokens(10))).settle(tokens(7))
        await ledger.hold(["tenant:a"], tokens(10))
    keys = await admin.keys("*")
    assert len(keys) > 5
    assert all(key.startswith("{duet:prod}:") for key in keys)


async def test_ledgers_of_two_names_are_apart(server):
    async with RedisLedger(server.url, name="a") as one, RedisLedger(server.url, name="b") as two:
        await (await one.hold(["tenant:a"], tokens(10))).settle(tokens(7))
        assert (await two.balance("tenant:a")).spent == NOTHING


async def test_ended_holds_are_forgotten_after_a_day(server, admin):
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(10))
        assert await admin.ttl(f"{{duet:default}}:hold:{hold.id}") == -1
        await hold.settle(tokens(7))
        assert 86_390 <= await admin.ttl(f"{{duet:default}}:hold:{hold.id}") <= 86_400


# Faults


async def test_a_server_that_cannot_be_reached_is_a_ledger_error(monkeypatch):
    monkeypatch.setattr("duet_sdk.budget.redis_client._TRIES", 0)
    async with RedisLedger("redis://somebody@127.0.0.1:1/0", password="sesame") as ledger:
        with pytest.raises(LedgerError, match="the ledger at redis://127.0.0.1:1/0 failed: ConnectionError") as caught:
            await ledger.hold(["tenant:a"], tokens(10))
    assert "sesame" not in str(caught.value)
    assert "sesame" not in repr(caught.value.__cause__)


async def test_a_server_that_does_not_answer_is_a_ledger_error(server, monkeypatch):
    monkeypatch.setattr("duet_sdk.budget.redis_client._TRIES", 0)
    monkeypatch.setattr("duet_sdk.budget.redis_client._SILENCE_S", 0.05)
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(10))
        server.pause()
        with pytest.raises(LedgerError, match="failed: TimeoutError"):
            await hold.settle(tokens(7))
        server.go_on()
        await hold.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_password_is_used_and_a_wrong_one_is_an_error_that_does_not_show_it(tmp_path):
    with RedisServer(tmp_path, "--requirepass", "sesame") as server:
        async with RedisLedger(server.url, password="sesame") as ledger:
            await ledger.hold(["tenant:a"], tokens(10))
        async with RedisLedger(server.url, password="sesame-street") as ledger:
            with pytest.raises(LedgerError, match="accepts this password") as caught:
                await ledger.hold(["tenant:a"], tokens(10))
            assert "sesame" not in str(caught.value)


async def test_a_server_without_memory_left_is_a_ledger_error(server, admin):
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(10))
        await admin.config_set("maxmemory", "1")
        with pytest.raises(LedgerError, match="OutOfMemoryError"):
            await ledger.hold(["tenant:a"], tokens(10))
        await admin.config_set("maxmemory", "0")
        await hold.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_closed_ledger_says_so():
    ledger = RedisLedger(NOBODY)
    await ledger.aclose()
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.hold(["tenant:a"], tokens(1))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra, match=r'pip install .*\[redis\]"'):
        RedisLedger(NOBODY)


# Formats


async def test_keys_of_format_1_are_brought_to_the_present_format(server, admin):
    prefix = "{duet:default}:"
    await admin.hset(prefix + "meta", mapping={"version": 1, "time": 1_000_000_000, "number": 1})
    await admin.hset(prefix + "limits", "tenant:a", "|2000|||")
    await admin.hset(prefix + "scope:tenant:a", mapping={"0:2": 310, "0:10": 840})
    await admin.zadd(prefix + "used", {"tenant:a": 1_000_000_000})
    facts = json.dumps({"stage": "reasoner", "model": "m", "kind": "signal", "trace_id": "t"})
    units = {"u1": 0, "u3": 0, "u4": 0}
    hold = {"scopes": "tenant:a", "made": 1_000_000_000, "priced": 1, "facts": facts, "u2": 840, **units}
    await admin.hset(prefix + "hold:old", mapping=hold)
    await admin.zadd(prefix + "due", {"old": 1_600_000_000})
    over = {"o1": 0, "o2": 0, "o3": 0, "o4": 0}
    entry = {**hold, "status": "settled", "hold": "h", "u2": 310, **over}
    await admin.xadd(prefix + "entries", entry, id="1000000000-1")
    async with RedisLedger(server.url, clock=lambda: 1600.0) as ledger:
        assert await ledger.balance("tenant:a") == Balance(tokens(1150), NOTHING, NOTHING, Limit(reasoner_tokens=2000))
        assert [(e.number, e.status, e.facts) for e in await ledger.entries()] == [
            (1, "settled", EntryFacts("reasoner", "m", "signal", "t", 0, 0)),
            (2, "expired", EntryFacts("reasoner", "m", "signal", "t", 0, 0)),
        ]
    assert await admin.hget(prefix + "meta", "version") == "2"


async def test_keys_of_a_newer_format_are_refused_and_left_alone(server, admin):
    await admin.hset("{duet:default}:meta", mapping={"version": 3})
    async with RedisLedger(server.url) as ledger:
        with pytest.raises(ConfigError, match=r"newer DUET \(format 3, this one knows 2\)"):
            await ledger.hold(["tenant:a"], tokens(1))
    assert await admin.hgetall("{duet:default}:meta") == {"version": "3"}


# Addresses


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://user:sesame@127.0.0.1/0", "must not contain a password"),
        ("redis://:sesame@127.0.0.1/0", "must not contain a password"),
        ("redis://127.0.0.1/0?password=sesame", "must not contain a password or options"),
        ("http://127.0.0.1/sesame", "needs a URL such as redis://"),
        ("redis:///0", "needs a URL such as"),
        ("redis://h:port/0", "needs a URL such as"),
        ("redis://h/sesame", "must be a database number"),
    ],
)
def test_a_url_that_cannot_work_is_refused_and_not_quoted(url, words):
    with pytest.raises(ConfigError, match=words) as caught:
        RedisLedger(url)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "{a}", "x" * 65])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(ConfigError, match="the name of a ledger must be"):
        RedisLedger(NOBODY, name=name)
