"""Requests and tokens a minute: exact in one process, and the same in a Redis that several share."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.budget import Limit, OpenOnFailure, RedisLedger
from duet_sdk.errors import LedgerError
from duet_sdk.gateway.rates import MINUTE_S, Bucket, LocalRates, Rates, Wait, Window
from duet_sdk.gateway.rates_shared import SharedRates, rates_of

needs_redis = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counts(Protocol):
    """An implementation, and its time."""

    rates: Rates

    async def later(self, seconds: float) -> None:
        """Let time pass."""


class Local:
    def __init__(self) -> None:
        self._clock = Clock()
        self.rates = LocalRates(self._clock)

    async def later(self, seconds: float) -> None:
        self._clock.now += seconds


class Shared:
    """Time passes in a Redis by moving what it has kept into the past."""

    def __init__(self, url: str) -> None:
        self.ledger = RedisLedger(url)
        self.rates = SharedRates(self.ledger, on_failure="refuse")

    async def later(self, seconds: float) -> None:
        from redis.asyncio import Redis

        async with Redis.from_url(self.ledger._script._url, decode_responses=True) as redis:
            past = int(seconds * 1_000_000)
            async for key in redis.scan_iter("*:rate:requests:*"):
                times = [int(at) - past for at in await redis.lrange(key, 0, -1)]
                for index, at in enumerate(times):
                    await redis.lset(key, index, at)
            async for key in redis.scan_iter("*:rate:tokens:*"):
                await redis.hset(key, "at", str(int(await redis.hget(key, "at")) - past))

    async def aclose(self) -> None:
        await self.rates.aclose()
        await self.ledger.aclose()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["local", pytest.param("shared", marks=needs_redis)])
async def counts(request: pytest.FixtureRequest) -> AsyncIterator[Counts]:
    if request.param == "local":
        yield Local()
        return
    found = request.getfixturevalue("server")
    import redis

    with redis.Redis(port=found.port) as admin:
        admin.flushall()
    shared = Shared(found.url)
    yield shared
    await shared.aclose()


def about(seconds: float) -> Any:
    """Redis' clock goes on between two calls."""
    return pytest.approx(seconds, abs=5)


async def test_so_many_begin_within_a_minute_and_the_next_is_told_when(counts: Counts) -> None:
    window = Window("key:a", 3)
    for seconds in (0, 10, 10):
        await counts.later(seconds)
        assert await counts.rates.take([window], None) is None
    assert await counts.rates.take([window], None) == Wait("key:a", about(40))
    await counts.later(35)
    assert await counts.rates.take([window], None) is not None
    await counts.later(10)
    assert await counts.rates.take([window], None) is None
    assert await counts.rates.take([window], None) is not None  # the second was 55 s ago
    assert await counts.rates.take([Window("key:b", 3)], None) is None


async def test_what_is_refused_counts_nowhere(counts: Counts) -> None:
    key, session, tokens = Window("key:a", 2), Window("session:a:1", 1), Bucket("key:a", 100, 50)
    assert await counts.rates.take([key, session], tokens) is None
    for _ in range(3):
        found = await counts.rates.take([key, session], tokens)
        assert found is not None
        assert found.name == "session:a:1"
    assert await counts.rates.take([key], tokens) is None
    found = await counts.rates.take([key], None)
    assert found is not None
    assert found.name == "key:a"


async def test_tokens_are_held_given_back_and_owed(counts: Counts) -> None:
    held = Bucket("key:a", 600, 300)
    assert await counts.rates.take([], held) is None
    assert await counts.rates.take([], held) is None
    assert await counts.rates.take([], held) == Wait("key:a", about(30))
    await counts.rates.settle(held, 100)  # 200 are given back
    assert await counts.rates.take([], held) == Wait("key:a", about(10))
    await counts.later(15)
    assert await counts.rates.take([], held) is None
    await counts.rates.settle(held, 900)  # 600 more than were held
    assert await counts.rates.take([], held) == Wait("key:a", about(85))
    await counts.later(90)
    assert await counts.rates.take([], held) is None


async def test_a_bucket_is_never_more_than_full_and_one_request_always_fits(counts: Counts) -> None:
    held = Bucket("key:a", 100, 5000)
    assert await counts.rates.take([], held) is None
    await counts.rates.settle(held, 0)
    await counts.later(1000)
    await counts.rates.settle(held, 0)
    assert await counts.rates.take([], held) is None
    assert await counts.rates.take([], held) == Wait("key:a", about(60))


async def test_a_limit_that_is_changed_counts_what_has_begun(counts: Counts) -> None:
    for _ in range(3):
        assert await counts.rates.take([Window("key:a", 3)], None) is None
    assert await counts.rates.take([Window("key:a", 2)], None) == Wait("key:a", about(60))
    assert await counts.rates.take([Window("key:a", 4)], None) is None
    assert await counts.rates.take([Window("key:a", 4)], None) is not None


@given(st.integers(1, 5), st.lists(st.integers(0, 30) | st.floats(0, 30), max_size=60))
async def test_in_any_minute_as_many_begin_as_may_and_none_is_refused_in_vain(most: int, gaps: list[float]) -> None:
    counts, begun = Local(), deque[float]()
    for gap in gaps:
        await counts.later(gap)
        now = counts._clock.now
        within = [at for at in begun if at > now - MINUTE_S]
        wait = await counts.rates.take([Window("a", most)], None)
        assert (wait is None) == (len(within) < most)
        if wait is None:
            begun.append(now)
        else:
            await counts.later(wait.wait_s + 1e-6)
            assert await counts.rates.take([Window("a", most)], None) is None
            begun.append(counts._clock.now)
    for first, at in enumerate(begun):
        assert sum(at <= other < at + MINUTE_S for other in list(begun)[first:]) <= most


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1500), st.integers(0, 3000)), max_size=40),
)
async def test_over_time_no_more_tokens_than_a_minutes_and_the_last_requests_excess(
    most: int, requests: list[tuple[float, int, int]]
) -> None:
    counts, taken, elapsed = Local(), 0.0, 0.0
    for gap, held, took in requests:
        await counts.later(gap)
        elapsed += gap
        bucket = Bucket("a", most, held)
        wait = await counts.rates.take([], bucket)
        if wait is not None:
            assert wait.wait_s > 0
            await counts.later(wait.wait_s + 1e-6)
            elapsed += wait.wait_s + 1e-6
            assert await counts.rates.take([], bucket) is None
        # What is there when a request begins, and with it all that was taken before, fits the time.
        assert taken + bucket.wanted <= most + elapsed * most / MINUTE_S + 1e-6
        await counts.rates.settle(bucket, took)
        taken += took


@needs_redis
async def test_two_processes_share_what_may_begin(server: RedisServer) -> None:
    one, two = Shared(server.url), Shared(server.url)
    window = Window("key:shared", 10)
    results = await asyncio.gather(*[counts.rates.take([window], None) for counts in (one, two) for _ in range(20)])
    assert sum(result is None for result in results) == 10
    await one.aclose()
    await two.aclose()


@needs_redis
async def test_counts_are_forgotten_when_they_say_nothing_more(server: RedisServer) -> None:
    import redis

    shared = Shared(server.url)
    await shared.rates.take([Window("key:short", 10)], Bucket("key:short", 600, 300))
    await shared.aclose()
    with redis.Redis(port=server.port) as admin:
        assert 0 < admin.pttl("{duet:default}:rate:requests:key:short") <= 60_000
        assert 0 < admin.pttl("{duet:default}:rate:tokens:key:short") <= 31_000


@needs_redis
async def test_while_the_store_is_gone_a_process_counts_by_itself_or_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    window, clock = Window("key:a", 2), Clock()
    with RedisServer(tmp_path) as server:
        ledger = RedisLedger(server.url)
        alone, refusing = (
            SharedRates(ledger, on_failure="process", clock=clock),
            SharedRates(ledger, on_failure="refuse", clock=clock),
        )
        assert await alone.take([window], None) is None
        server.stop()
        with caplog.at_level(logging.WARNING):
            assert [await alone.take([window], None) for _ in range(2)] == [None, None]
            found = await alone.take([window], None)
            assert found is not None
            assert found.name == "key:a"
            await alone.settle(Bucket("key:a", 100, 10), 20)
            with pytest.raises(LedgerError):
                await refusing.take([window], None)
            server.start()
            clock.now += 10
            assert await alone.take([window], None) is None  # the new server knows of none
            assert await refusing.take([window], None) is None
        said = [record.getMessage() for record in caplog.records if record.name.endswith("rates_shared")]
        assert [text.partition(" until")[0] for text in said] == [
            "the limits a minute cannot be shared, and each process counts by itself",
            "the limits a minute cannot be shared, and requests are refused",
            "the store of the limits a minute answers again",
            "the store of the limits a minute answers again",
        ]
        for rates in (alone, refusing):
            await rates.aclose()
        await ledger.aclose()


@needs_redis
def test_the_ledgers_redis_is_found_and_no_other_ledger_shares(server: RedisServer) -> None:
    def client(ledger: Any) -> AsyncDuetClient:
        return AsyncDuetClient(Scripted(""), Scripted(""), ledger=ledger)

    shared = RedisLedger(server.url)
    assert isinstance(rates_of([client("memory:"), client(shared)], on_failure="process"), SharedRates)
    opened = OpenOnFailure(shared, local=Limit(requests=1))
    assert isinstance(rates_of([client(opened)], on_failure="process"), SharedRates)
    assert isinstance(rates_of([client("memory:"), client(None)], on_failure="process"), LocalRates)
