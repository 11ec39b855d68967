"""What every signal cache owes the pipeline, asked of each one."""

import asyncio
from dataclasses import replace

import blockbuster
import pytest

from duet_sdk import Signal
from duet_sdk.cache import CacheKey, MemorySignalCache, SignalCache, SqliteSignalCache
from duet_sdk.errors import ConfigError

SIGNAL = Signal("17 primes: 2, 3, …\n🙂", tokens=9, limit=64, counted_by="usage")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def key(name: object, *scopes: str, tenant: str | None = None) -> CacheKey:
    return CacheKey(f"{name:>064}", tenant, scopes)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def make(request, tmp_path, clock):
    """Makes a cache with the given options; those in a file share one."""
    if request.param == "memory":
        return lambda **options: MemorySignalCache(**{"clock": clock, **options})
    return lambda **options: SqliteSignalCache(tmp_path / "signals.db", **{"clock": clock, **options})


@pytest.fixture
async def cache(make):
    async with make() as made:
        yield made


async def test_it_is_a_signal_cache(cache):
    assert isinstance(cache, SignalCache)


async def test_a_signal_comes_back_as_it_was_stored(cache):
    await cache.put(key(1), SIGNAL)
    assert await cache.get(key(1)) == SIGNAL
    assert await cache.get(key(2)) is None


@pytest.mark.parametrize("text", ["a\0b", "half a pair: \ud83d", " blanks around \n", "x" * 100_000])
async def test_any_text_comes_back_to_the_code_point(cache, text):
    await cache.put(key(1), replace(SIGNAL, text=text))
    assert (await cache.get(key(1))).text == text


async def test_a_later_signal_takes_the_place_of_an_earlier_one(cache):
    await cache.put(key(1), replace(SIGNAL, text="old"))
    await cache.put(key(1), SIGNAL)
    assert await cache.get(key(1)) == SIGNAL
    assert await cache.purge() == 1


@pytest.mark.parametrize("change", [{"text": ""}, {"text": " \n"}, {"truncated": True}, {"honoured": False}])
async def test_a_signal_that_is_not_whole_is_left_out(cache, change):
    await cache.put(key(1), replace(SIGNAL, **change))
    assert await cache.get(key(1)) is None


# Time


async def test_a_signal_expires_after_the_time_of_the_cache(make, clock):
    async with make(ttl_s=60) as cache:
        await cache.put(key(1), SIGNAL)
        clock.now += 59.9
        assert await cache.get(key(1)) == SIGNAL
        clock.now += 0.1
        assert await cache.get(key(1)) is None


async def test_a_signal_can_have_a_time_of_its_own(cache, clock):
    await cache.put(key(1), SIGNAL, ttl_s=5)
    await cache.put(key(2), SIGNAL, ttl_s=7200)
    clock.now += 5
    assert await cache.get(key(1)) is None
    clock.now += 3600
    assert await cache.get(key(2)) == SIGNAL


async def test_a_hit_does_not_make_a_signal_last_longer(cache, clock):
    await cache.put(key(1), SIGNAL)
    clock.now += 3599
    assert await cache.get(key(1)) == SIGNAL
    clock.now += 1
    assert await cache.get(key(1)) is None


async def test_storing_a_signal_again_starts_its_time_again(cache, clock):
    await cache.put(key(1), SIGNAL)
    clock.now += 3599
    await cache.put(key(1), SIGNAL)
    clock.now += 3599
    assert await cache.get(key(1)) == SIGNAL


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
async def test_a_time_that_keeps_nothing_is_refused(make, cache, ttl_s):
    with pytest.raises(ConfigError, match="ttl_s of a signal cache must be a finite number of seconds, above 0"):
        make(ttl_s=ttl_s)
    with pytest.raises(ConfigError, match="ttl_s of a signal cache must be a finite number of seconds, above 0"):
        await cache.put(key(1), SIGNAL, ttl_s=ttl_s)


# Size


async def test_the_signal_unused_for_longest_makes_room(make):
    async with make(max_entries=3) as cache:
        for name in (1, 2, 3):
            await cache.put(key(name), SIGNAL)
        assert await cache.get(key(1)) == SIGNAL
        await cache.put(key(2), SIGNAL)
        await cache.put(key(4), SIGNAL)
        assert [await cache.get(key(name)) is not None for name in (1, 2, 3, 4)] == [True, True, False, True]
        assert await cache.purge() == 3


async def test_a_cache_without_room_is_refused(make):
    with pytest.raises(ConfigError, match="max_entries of a signal cache must be a whole number of at least 1, got 0"):
        make(max_entries=0)


# Purge


async def test_purge_deletes_what_was_stored_under_a_scope_and_nothing_else(cache):
    await cache.put(key(1, "session:1", "user:a"), SIGNAL)
    await cache.put(key(2, "session:1"), SIGNAL)
    await cache.put(key(3, "session:11"), SIGNAL)
    await cache.put(key(4), SIGNAL)
    assert await cache.purge("session:1") == 2
    assert await cache.purge("session:1") == 0
    assert [await cache.get(key(name)) is not None for name in (1, 2, 3, 4)] == [False, False, True, True]


async def test_purge_of_everything_deletes_everything(cache):
    await cache.put(key(1, "session:1"), SIGNAL)
    await cache.put(key(2, tenant="a"), SIGNAL)
    assert await cache.purge() == 2
    assert await cache.get(key(1)) is None
    assert await cache.purge() == 0


async def test_a_signal_that_two_sessions_stored_goes_with_either(cache):
    await cache.put(key(1, "session:1"), SIGNAL)
    await cache.put(key(1, "session:2"), SIGNAL)
    assert await cache.purge("session:1") == 1
    assert await cache.get(key(1)) is None


async def test_purge_does_not_count_what_has_expired(cache, clock):
    await cache.put(key(1, "session:1"), SIGNAL, ttl_s=1)
    clock.now += 1
    assert await cache.purge("session:1") == 0


async def test_a_purged_scope_can_be_stored_under_again(cache):
    await cache.put(key(1, "session:1"), SIGNAL)
    await cache.purge("session:1")
    await cache.put(key(1, "session:2"), SIGNAL)
    assert await cache.purge("session:1") == 0
    assert await cache.get(key(1)) == SIGNAL


# Tenants


@pytest.mark.parametrize("other", [None, "", "b", "A", "a ", "tenant:a"])
async def test_a_tenant_never_gets_the_signal_of_another_even_by_its_digest(cache, other):
    await cache.put(key(1, tenant="a"), SIGNAL)
    assert await cache.get(key(1, tenant=other)) is None
    await cache.put(key(1, tenant=other), replace(SIGNAL, text="other"))
    assert await cache.get(key(1, tenant="a")) == SIGNAL


@pytest.mark.parametrize("other", [None, "b"])
async def test_a_cache_bound_to_a_tenant_refuses_every_other(make, other):
    async with make(tenant="a") as cache:
        await cache.put(key(1, tenant="a"), SIGNAL)
        with pytest.raises(ConfigError, match="not shared across tenants: this one is bound to 'a'"):
            await cache.get(key(1, tenant=other))
        with pytest.raises(ConfigError, match="not shared across tenants"):
            await cache.put(key(1, tenant=other), SIGNAL)
        assert await cache.get(key(1, tenant="a")) == SIGNAL


# Use


async def test_many_tasks_can_use_it_at_once(make):
    async with make(max_entries=50) as cache:

        async def use(number):
            await cache.put(key(number), replace(SIGNAL, text=str(number)))
            return await cache.get(key(number))

        found = await asyncio.gather(*(use(number) for number in range(200)))
        assert all(signal is None or signal.text == str(number) for number, signal in enumerate(found))
        assert await cache.purge() == 50


async def test_the_event_loop_is_never_blocked(make):
    with blockbuster.blockbuster_ctx():
        async with make() as cache:
            await asyncio.gather(*(cache.put(key(name, "session:1"), SIGNAL) for name in range(20)))
            await asyncio.gather(*(cache.get(key(name)) for name in range(20)))
            assert await cache.purge("session:1") == 20


def test_one_object_serves_several_event_loops(make):
    cache = make()
    asyncio.run(cache.put(key(1), SIGNAL))
    assert asyncio.run(cache.get(key(1))) == SIGNAL
    asyncio.run(cache.aclose())


async def test_closing_twice_is_harmless(make):
    cache = make()
    await cache.aclose()
    await cache.aclose()
