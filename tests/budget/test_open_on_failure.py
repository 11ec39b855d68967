"""What goes on while a ledger's store cannot be reached."""

import asyncio
import logging

import pytest

from duet_sdk.budget import Amount, Balance, Limit, MemoryLedger, OpenOnFailure
from duet_sdk.errors import BudgetExceeded, HoldMisused, LedgerError

NOTHING = Amount()


def tokens(count):
    return Amount(reasoner_tokens=count)


class Failing(MemoryLedger):
    """A ledger whose store fails while it is ``down``; ``asked`` counts the calls that reached for it."""

    down = False
    asked = 0

    def reach(self):
        self.asked += 1
        if self.down:
            raise LedgerError("the store is down")

    async def hold(self, *arguments, **options):
        self.reach()
        return await super().hold(*arguments, **options)

    async def settle(self, *arguments):
        self.reach()
        await super().settle(*arguments)

    async def release(self, hold):
        self.reach()
        await super().release(hold)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return Failing()


@pytest.fixture
async def ledger(store, clock):
    async with OpenOnFailure(store, local=Limit(reasoner_tokens=20), clock=clock) as made:
        yield made


async def test_while_the_store_answers_nothing_is_changed(ledger, store, caplog):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    hold = await ledger.hold(["tenant:a"], tokens(90))
    with pytest.raises(BudgetExceeded, match="tenant:a asks for 11"):
        await ledger.hold(["tenant:a"], tokens(11))
    await hold.settle(tokens(80))
    await (await ledger.hold(["tenant:a"], tokens(5))).release()
    with pytest.raises(HoldMisused):
        await hold.settle(tokens(81))
    assert await store.balance("tenant:a") == Balance(tokens(80), NOTHING, NOTHING, Limit(reasoner_tokens=100))
    assert caplog.records == []


async def test_while_it_fails_requests_go_on_up_to_the_local_limit_with_one_warning(ledger, store, caplog):
    store.down = True
    await ledger.hold(["tenant:a"], tokens(12))
    await (await ledger.hold(["tenant:b"], tokens(8))).settle(tokens(6))
    with pytest.raises(BudgetExceeded, match="local:open asks for 3 reasoner tokens, 2 reasoner tokens are left of 20"):
        await ledger.hold(["tenant:a"], tokens(3))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the ledger failed: the store is down" in caplog.text


async def test_a_store_that_failed_is_left_alone_for_a_while(ledger, store, clock):
    store.down = True
    for _ in range(5):
        await ledger.hold(["tenant:a"], tokens(1))
    assert store.asked == 1
    clock.now += 5
    await ledger.hold(["tenant:a"], tokens(1))
    assert store.asked == 2


async def test_what_was_settled_meanwhile_is_booked_once_the_store_answers(ledger, store, clock, caplog):
    before = await ledger.hold(["tenant:a"], tokens(30))
    given_up = await ledger.hold(["tenant:a"], tokens(40))
    store.down = True
    during = await ledger.hold(["tenant:a"], tokens(10))
    await before.settle(tokens(25))
    await during.settle(tokens(8))
    await given_up.release()
    never_ran = await ledger.hold(["tenant:a"], tokens(5))
    await never_ran.release()
    store.down = False
    clock.now += 5
    await ledger.hold(["tenant:c"], tokens(1))
    assert await store.balance("tenant:a") == Balance(tokens(33), NOTHING, tokens(8), None)
    assert [(entry.hold, entry.status) for entry in await store.entries()] == [
        (before.id, "settled"),
        (during.id, "overrun"),
    ]
    assert "3 settles it had missed were booked" in caplog.text


async def test_a_hold_made_here_can_be_settled_after_the_store_came_back(ledger, store, clock):
    store.down = True
    hold = await ledger.hold(["tenant:a"], tokens(10), key="1")
    assert (await ledger.hold(["tenant:a"], tokens(10), key="1")).id == hold.id
    store.down = False
    clock.now += 5
    await hold.settle(tokens(8))
    await hold.settle(tokens(8))
    assert await store.balance("tenant:a") == Balance(tokens(8), NOTHING, tokens(8), None)


async def test_closing_tells_the_store_what_it_is_owed(store, clock):
    async with OpenOnFailure(store, local=Limit(reasoner_tokens=20), clock=clock) as ledger:
        store.down = True
        await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(8))
        store.down = False
    assert (await store.balance("tenant:a")).spent == tokens(8)


async def test_closing_says_what_was_never_told(store, clock, caplog):
    async with OpenOnFailure(store, local=Limit(reasoner_tokens=20), clock=clock) as ledger:
        store.down = True
        await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(8))
    assert "1 settles were never booked" in caplog.text


async def test_no_more_is_owed_than_is_kept(ledger, store, monkeypatch):
    monkeypatch.setattr("duet_sdk.budget.open_on_failure._MOST_OWED", 2)
    store.down = True
    for _ in range(2):
        await (await ledger.hold(["tenant:a"], tokens(1))).settle(tokens(1))
    with pytest.raises(LedgerError, match="2 settles are waiting for a ledger that cannot be reached"):
        await ledger.hold(["tenant:a"], tokens(1))


async def test_a_settle_that_is_owed_is_not_lost_where_the_one_who_pays_it_is_cancelled(ledger, store, clock):
    store.down = True
    hold = await ledger.hold(["tenant:a"], tokens(5))
    await hold.settle(tokens(3))
    store.down, clock.now = False, 100.0
    begun, settle = asyncio.Event(), store.settle

    async def stuck(*arguments):
        begun.set()
        await asyncio.Event().wait()

    store.settle = stuck
    paying = asyncio.create_task(ledger.hold(["tenant:a"], tokens(1)))
    await begun.wait()
    paying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paying
    store.settle = settle
    await (await ledger.hold(["tenant:a"], tokens(1))).release()
    assert (await store.balance("tenant:a")).spent == tokens(3)
