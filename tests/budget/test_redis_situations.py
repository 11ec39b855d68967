"""A ledger on a real Redis that loses keys, is a replica, loads, fails over, or is a cluster."""

import asyncio

import pytest
from support.redis_server import BINARY, WHY_NOT, RedisClusterOf, RedisServer

from duet_sdk.budget import Amount, Balance, Limit, RedisLedger
from duet_sdk.errors import BudgetExceeded, ConfigError, LedgerError

pytestmark = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)
NOTHING = Amount()
PREFIX = "{duet:default}"


def tokens(count):
    return Amount(reasoner_tokens=count)


async def lose(admin, how, hold):
    key = f"{PREFIX}:hold:{hold.id}"
    await admin.delete(key)
    if how == "wrong type":
        await admin.set(key, "something else")
    elif how == "half":
        await admin.hset(key, "priced", "1")


LOST = pytest.mark.parametrize("how", ["gone", "wrong type", "half"])


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@LOST
async def test_a_lost_hold_stops_nobody_and_holds_nothing_when_its_time_is_over(server, admin, how):
    clock = Clock()
    async with RedisLedger(server.url, clock=clock) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
        lost = await ledger.hold(["tenant:a", "user:u"], tokens(60), ttl_s=1)
        kept = await ledger.hold(["tenant:a"], tokens(10))
        await lose(admin, how, lost)
        clock.now += 2
        await (await ledger.hold(["tenant:b"], tokens(1))).settle(tokens(1))
        assert (await ledger.balance("tenant:a")).held == tokens(10)
        await (await ledger.hold(["tenant:a"], tokens(90))).release()
        with pytest.raises(BudgetExceeded):
            await ledger.hold(["tenant:a"], tokens(91))
        await kept.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, Limit(reasoner_tokens=100))
        assert [entry.status for entry in await ledger.entries()] == ["settled", "settled"]


@LOST
async def test_a_lost_hold_that_is_settled_gives_back_what_it_held(server, admin, how):
    async with RedisLedger(server.url) as ledger:
        lost = await ledger.hold(["tenant:a"], tokens(60))
        await lose(admin, how, lost)
        await lost.settle(tokens(7))
        await lost.settle(tokens(7))
        assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)
        assert [entry.status for entry in await ledger.entries()] == ["settled"]


@LOST
async def test_a_lost_hold_that_is_released_gives_back_what_it_held(server, admin, how):
    async with RedisLedger(server.url) as ledger:
        lost = await ledger.hold(["tenant:a"], tokens(60))
        await lose(admin, how, lost)
        await lost.release()
        assert await ledger.balance("tenant:a") == Balance(NOTHING, NOTHING, NOTHING, None)


@LOST
async def test_another_window_is_counted_without_a_lost_hold(server, admin, how):
    async with RedisLedger(server.url) as ledger:
        lost = await ledger.hold(["tenant:a"], tokens(60))
        await ledger.hold(["tenant:a"], tokens(5))
        await lose(admin, how, lost)
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100, window="day"))
        assert (await ledger.balance("tenant:a")).held == tokens(5)


async def test_counters_that_were_evicted_make_no_room_of_what_is_given_back(server, admin):
    async with RedisLedger(server.url) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
        hold = await ledger.hold(["tenant:a"], tokens(60))
        await admin.delete(f"{PREFIX}:scope:tenant:a")
        await hold.settle(tokens(7))
        assert (await ledger.balance("tenant:a")).held == NOTHING
        with pytest.raises(BudgetExceeded):
            await ledger.hold(["tenant:a"], tokens(94))


@pytest.mark.parametrize("key", ["meta", "limits", "used", "scope:tenant:a", "due", "entries"])
async def test_any_key_may_be_gone_and_the_next_call_works(server, admin, key):
    async with RedisLedger(server.url) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
        hold = await ledger.hold(["tenant:a"], tokens(60))
        await admin.delete(f"{PREFIX}:{key}")
        await hold.settle(tokens(7))
        await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(1))
        await ledger.balance("tenant:a")
        assert [entry.reasoner_tokens for entry in await ledger.entries()] == [7, 1]


async def test_a_key_of_another_type_says_what_to_do(server, admin):
    await admin.set(f"{PREFIX}:scope:tenant:a", "something else")
    async with RedisLedger(server.url) as ledger:
        with pytest.raises(LedgerError, match="give the ledger a name of its own"):
            await ledger.hold(["tenant:a"], tokens(1))
        await ledger.hold(["tenant:b"], tokens(1))  # nobody else is stopped


async def test_a_sum_at_the_end_of_64_bits_stays_there(server, admin):
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(1))
        await admin.hset(f"{PREFIX}:scope:tenant:a", "0:2", 2**63 - 5)
        await hold.settle(tokens(9 * 10**15))
        assert (await ledger.balance("tenant:a")).held == NOTHING


async def test_a_replica_says_to_name_the_primary(server, tmp_path):
    folder = tmp_path / "replica"
    folder.mkdir()
    with RedisServer(folder, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        async with RedisLedger(replica.url) as ledger:
            with pytest.raises(LedgerError, match="name the primary"):
                await ledger.hold(["tenant:a"], tokens(1))


async def test_a_primary_that_was_a_replica_for_a_moment_is_asked_again(server, admin):
    async with RedisLedger(server.url) as ledger:
        await ledger.hold(["tenant:a"], tokens(1))
        await admin.replicaof("127.0.0.1", 1)

        async def promote():
            await asyncio.sleep(0.06)  # the first repeat comes after 0.05 s, the last after 0.35 s
            await admin.replicaof("NO", "ONE")

        promoting = asyncio.create_task(promote())
        await ledger.hold(["tenant:a"], tokens(1))
        await promoting


@pytest.mark.parametrize("settles", [True, False])
async def test_a_failover_to_an_empty_server_is_said_in_the_log(server, admin, caplog, settles):
    async with RedisLedger(server.url) as ledger:
        hold = await ledger.hold(["tenant:a"], tokens(1))
        await (await ledger.hold(["tenant:a"], tokens(1))).settle(tokens(1))
        assert caplog.messages == []
        await admin.flushall()
        await (hold.settle(tokens(1)) if settles else ledger.hold(["tenant:a"], tokens(1)))
        await ledger.hold(["tenant:a"], tokens(1))
        assert [message for message in caplog.messages if "its limits have to be set again" in message]
        assert len(caplog.messages) == 1


async def test_a_failover_to_an_empty_server_loses_no_settle_and_stops_nothing(server, admin):
    async with RedisLedger(server.url) as ledger:
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
        hold = await ledger.hold(["tenant:a"], tokens(60))
        await admin.flushall()
        await admin.script_flush()
        await hold.settle(tokens(7))
        assert (await ledger.balance("tenant:a")).spent == tokens(7)
        assert (await ledger.balance("tenant:a")).held == NOTHING


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("LOADING Redis is loading the dataset in memory", "still loading its data"),
        ("MISCONF Redis is configured to save RDB snapshots", "see its log"),
        ("NOPERM User x has no permissions to run the 'evalsha' command", "allow this user"),
        ("CLUSTERDOWN Hash slot not served", "does not serve every slot"),
        ("NOREPLICAS Not enough good replicas to write.", "replicas are connected"),
    ],
)
async def test_what_a_server_refuses_with_says_what_to_do(word, advice):
    async def refuse(reader, writer):
        while line := await reader.readline():
            if line.startswith(b"*"):
                for _ in range(2 * int(line[1:])):
                    line = await reader.readline()
                writer.write(b"-" + word.encode() + b"\r\n")
        writer.close()

    fake = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = fake.sockets[0].getsockname()[1]
    try:
        async with RedisLedger(f"redis://127.0.0.1:{port}/0") as ledger:
            with pytest.raises(LedgerError, match=advice):
                await ledger.hold(["tenant:a"], tokens(1))
    finally:
        fake.close()


async def test_a_cluster_is_spoken_to_as_one_whichever_node_is_named(tmp_path):
    with RedisClusterOf(tmp_path) as cluster:
        for name in ("a", "b"):  # in slots of two nodes
            for turn, node in enumerate(cluster.nodes, 1):
                async with RedisLedger(node.url, name=name) as ledger:
                    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=1000))
                    holds = await asyncio.gather(*(ledger.hold(["tenant:a", "user:u"], tokens(2)) for _ in range(60)))
                    await asyncio.gather(*(hold.settle(tokens(1)) for hold in holds))
                    assert (await ledger.balance("tenant:a")).spent == tokens(60 * turn)
                    assert len(await ledger.entries()) == 60 * turn
                    assert list(await ledger.limits()) == ["tenant:a"]
        async with RedisLedger(cluster.nodes[0].url.removesuffix("0") + "1") as ledger:
            with pytest.raises(ConfigError, match="let the URL end in /0"):
                await ledger.hold(["tenant:a"], tokens(1))


async def test_a_cluster_without_the_ledgers_node_is_a_ledger_error(tmp_path, monkeypatch):
    monkeypatch.setattr("duet_sdk.budget.redis_client._TRIES", 1)
    with RedisClusterOf(tmp_path) as cluster:
        async with RedisLedger(cluster.nodes[0].url, name="a") as ledger:
            hold = await ledger.hold(["tenant:a"], tokens(2))
            for node in cluster.nodes:
                node.stop()
            with pytest.raises(LedgerError, match="the ledger at redis://"):
                await hold.settle(tokens(1))
