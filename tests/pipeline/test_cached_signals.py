"""A question asked again costs no reasoner tokens, and says so."""

import asyncio

import pytest

from duet_sdk import AsyncDuetClient, Budget, Sampling
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.cache import CacheError, MemorySignalCache, SqliteSignalCache
from duet_sdk.errors import ConfigError
from duet_sdk.events import SignalDone
from duet_sdk.reply import StageUsage


@pytest.fixture(params=["memory", "sqlite"])
async def cache(request, tmp_path):
    made = MemorySignalCache() if request.param == "memory" else SqliteSignalCache(tmp_path / "signals.db")
    yield made
    await made.aclose()


async def test_a_hit_costs_no_reasoner_tokens_and_is_labelled(cache):
    reasoner, generator = Scripted("the sketch"), Scripted("first", "second")
    duet = AsyncDuetClient(reasoner, generator, signal_cache=cache)
    first, again = await duet.chat("q"), await duet.chat("q")
    assert (first.served_by, first.signal.tokens) == ("pair", 2)
    assert (again.served_by, again.signal.text, again.signal.tokens) == ("cache", "the sketch", 0)
    assert (again.usage.reasoner, again.text) == (StageUsage(), "second")
    assert generator.calls[0].messages == generator.calls[1].messages
    assert len(reasoner.calls) == 1


async def test_a_hit_is_told_as_a_signal_that_is_done(cache):
    duet = AsyncDuetClient(Scripted("the sketch"), Scripted("a"), signal_cache=cache)
    await duet.chat("q")
    async with duet.stream("q") as run:
        told = [event for event in [event async for event in run] if isinstance(event, SignalDone)]
    assert [(event.signal.text, event.handoff) for event in told] == [("the sketch", "instruct")]


@pytest.mark.parametrize(
    "other",
    [
        {"budget": Budget(signal_tokens=99)},
        {"reasoner_params": Sampling(temperature=0.5)},
        {"tenant": "b"},
        {"tools": [{"type": "function", "function": {"name": "t"}}]},
    ],
)
async def test_what_shapes_a_signal_tells_it_apart(cache, other):
    reasoner = Scripted("one", "two")
    duet = AsyncDuetClient(reasoner, Scripted("a"), signal_cache=cache)
    await duet.chat("q", tenant="a")
    reply = await duet.chat("q", **{"tenant": "a", **other})
    assert (reply.signal.text, reply.served_by) == ("two", "pair")


async def test_what_changes_only_the_answer_shares_the_signal(cache):
    reasoner = Scripted("one", "two")
    duet = AsyncDuetClient(reasoner, Scripted("a"), signal_cache=cache)
    await duet.chat("q", temperature=0.1, session="1")
    assert (await duet.chat("q", temperature=0.9, session="2")).served_by == "cache"


async def test_a_cut_or_empty_signal_is_not_kept(cache):
    reasoner = Scripted("one two. three four", "", "whole")
    duet = AsyncDuetClient(reasoner, Scripted("a"), signal_cache=cache)
    budget = Budget(signal_tokens=3)
    assert [(await duet.chat("q", budget=budget)).served_by for _ in range(4)] == [
        "pair_cut",
        "generator_fallback",
        "pair",
        "cache",
    ]


async def test_a_purged_tenant_is_asked_anew(cache):
    reasoner = Scripted("one", "two")
    duet = AsyncDuetClient(reasoner, Scripted("a"), signal_cache=cache)
    await duet.chat("q", tenant="a")
    assert await cache.purge("tenant:a") == 1
    assert (await duet.chat("q", tenant="a")).signal.text == "two"


async def test_a_cache_that_fails_is_as_good_as_none(caplog):
    class Broken(MemorySignalCache):
        async def get(self, key):
            raise CacheError("disk full")

        async def put(self, key, signal, *, ttl_s=None):
            raise CacheError("disk full")

    reply = await AsyncDuetClient(Scripted("s"), Scripted("a"), signal_cache=Broken()).chat("q")
    assert (reply.text, reply.served_by) == ("a", "pair")
    assert caplog.text.count("the signal cache failed: disk full") == 2


async def test_a_cache_bound_to_a_tenant_refuses_every_other():
    duet = AsyncDuetClient(Scripted("s"), Scripted("a"), signal_cache=MemorySignalCache(tenant="a"))
    assert (await duet.chat("q", tenant="a")).text == "a"
    with pytest.raises(ConfigError, match="not shared across tenants"):
        await duet.chat("q", tenant="b")


async def test_mode_signal_uses_the_cache_as_well(cache):
    reasoner = Scripted(Script("the sketch"))
    duet = AsyncDuetClient(reasoner, Scripted("a"), signal_cache=cache)
    replies = [await duet.chat("q", mode="signal") for _ in range(2)]
    assert [(reply.served_by, reply.finish_reason) for reply in replies] == [("reasoner", "stop"), ("cache", "stop")]


@pytest.mark.parametrize("mode", ["duet", "signal"])
async def test_a_cache_that_does_not_come_to_an_end_takes_no_answer(mode):
    class Slow(MemorySignalCache):
        async def put(self, key, signal, *, ttl_s=None):
            await asyncio.Event().wait()

    duet = AsyncDuetClient(Scripted("s"), Scripted("a"), signal_cache=Slow())
    reply = await duet.chat("q", mode=mode, budget=Budget(deadline_s=0.2))
    assert (reply.signal.text, reply.text) == ("s", "a" if mode == "duet" else "")
