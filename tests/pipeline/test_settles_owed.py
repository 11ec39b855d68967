"""A settle that is owed is done, whoever is cancelled, closed or ended while it is under way."""

import asyncio
import threading
from contextlib import suppress

import pytest
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.budget import Amount, MemoryLedger, RedisLedger, SqliteLedger
from duet_sdk.budget.ledger import BaseLedger
from duet_sdk.errors import ConfigError

STEPS = 4


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.skipif(not BINARY, reason=WHY_NOT))]
)
def store(request, tmp_path):
    """Makes the ledger, as often as it is asked to."""
    if request.param == "memory":
        only = MemoryLedger()
        yield lambda: only
    elif request.param == "sqlite":
        yield lambda: SqliteLedger(tmp_path / "ledger.db")
    else:
        with RedisServer(tmp_path) as server:
            yield lambda: RedisLedger(server.url)


class Watched(BaseLedger):
    """A ledger whose settles take some steps before and after they are done, and tell of each."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.at = -1
        self.step = asyncio.Event()

    async def _steps(self, first):
        for number in range(STEPS):
            self.at = first + number
            self.step.set()
            await asyncio.sleep(0)

    async def _settle(self, hold, settlement):
        await self._steps(0)
        await self.ledger.settle(hold, settlement.amount, settlement.facts)
        await self._steps(STEPS)

    async def release(self, hold):
        await self.ledger.release(hold)

    async def _make(self, asked):
        made = await self.ledger._make(asked)
        return type(made)(made.id, made.scopes, made.amount, made.facts, made.made_us, self)

    async def limits(self):
        return {}

    async def _set_limit(self, scope, limit):
        raise NotImplementedError

    _balance = _entries = _prune = _set_limit

    async def until(self, at):
        while self.at < at:
            self.step.clear()
            await self.step.wait()


async def check(store):
    async with store() as ledger:
        balance = await ledger.balance("tenant:a")
        assert balance.held == Amount()
        assert balance.spent == Amount(generator_tokens=3, requests=1)
        assert [entry.status for entry in await ledger.entries()] == ["settled"]


def ask(duet):
    return asyncio.create_task(duet.chat("q", mode="generator", tenant="a"))


def client(ledger):
    return AsyncDuetClient("scripted/17", Scripted("one two"), ledger=ledger)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("at", range(2 * STEPS))
async def test_a_request_that_is_cancelled_at_any_step_of_its_settle_is_settled(store, at, times):
    async with store() as ledger, client(watched := Watched(ledger)) as duet:
        asking = ask(duet)
        await watched.until(at)
        for _ in range(times):
            asking.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asking
    await check(store)


@pytest.mark.parametrize("at", range(2 * STEPS))
async def test_a_client_that_is_closed_at_any_step_of_a_settle_waits_for_it(store, at):
    async with store() as ledger:
        duet = client(watched := Watched(ledger))
        asking = ask(duet)
        await watched.until(at)
        await duet.aclose()
        with suppress(ConfigError):
            await asking
    await check(store)


@pytest.mark.parametrize("at", range(2 * STEPS))
def test_an_event_loop_that_ends_at_any_step_of_a_settle_settles_first(store, at):
    async def main():
        duet = client(watched := Watched(store()))
        main.asking = ask(duet)
        await watched.until(at)

    asyncio.run(main())
    assert main.asking.cancelled()
    asyncio.run(check(store))


def test_an_event_loop_that_ends_while_the_file_is_busy_settles_first(tmp_path):
    path, gate = tmp_path / "ledger.db", threading.Event()

    async def main():
        ledger = SqliteLedger(path)
        duet = client(ledger)
        settle, begun = ledger._settle, asyncio.Event()

        async def _settle(hold, settlement):
            if not gate.is_set():
                ledger._file._worker.submit(gate.wait)  # the thread is busy from here on
                threading.Timer(0.2, gate.set).start()
            begun.set()
            await settle(hold, settlement)

        ledger._settle = _settle
        main.asking = ask(duet)
        await begun.wait()
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main())
    asyncio.run(check(lambda: SqliteLedger(path)))


async def test_a_stream_that_is_left_or_cancelled_is_settled(store):
    async with store() as ledger, client(ledger) as duet:
        with suppress(asyncio.CancelledError):
            async with duet.stream("q", mode="generator", tenant="a") as run:
                async for _ in run:
                    raise asyncio.CancelledError
    async with store() as ledger:
        assert (await ledger.balance("tenant:a")).held == Amount()


@pytest.mark.parametrize("steps", range(12))
def test_an_event_loop_that_ends_at_any_step_of_a_hold_leaves_none_behind(store, steps):
    async def main():
        ledger = store()
        await ledger.balance("tenant:a")  # connected, and the file is there
        main.holding = asyncio.create_task(ledger.hold(["tenant:a"], Amount(requests=1)))
        for _ in range(steps):
            await asyncio.sleep(0)

    asyncio.run(main())
    made = 0 if main.holding.cancelled() else 1

    async def held():
        async with store() as ledger:
            return (await ledger.balance("tenant:a")).held.requests

    assert asyncio.run(held()) == made
