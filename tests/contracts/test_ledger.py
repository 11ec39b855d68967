"""What every ledger owes the pipeline, asked of each one."""

from decimal import Decimal

import pytest

from duet_sdk.budget import Amount, Balance, Ledger, Limit, MemoryLedger
from duet_sdk.errors import BudgetExceeded

NOTHING = Amount()


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def usd(text: str) -> Amount:
    return Amount(usd=Decimal(text))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(clock):
    return lambda: MemoryLedger(clock=clock)


@pytest.fixture
async def ledger(make):
    async with make() as made:
        yield made


async def test_it_is_a_ledger(ledger):
    assert isinstance(ledger, Ledger)


async def test_what_is_settled_is_spent_and_the_rest_comes_back(ledger):
    hold = await ledger.hold(["tenant:a"], usd("0.5"))
    assert await ledger.balance("tenant:a") == Balance(NOTHING, usd("0.5"), NOTHING, None)
    await hold.settle(usd("0.2"))
    assert await ledger.balance("tenant:a") == Balance(usd("0.2"), NOTHING, NOTHING, None)


async def test_all_scopes_are_held_or_none(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(1)))
    await ledger.set_limit("session:7", Limit(usd=Decimal("0.1")))
    with pytest.raises(BudgetExceeded, match="session:7 asks for 0.2 USD, 0.1 USD is left of 0.1 USD"):
        await ledger.hold(["tenant:a", "session:7"], usd("0.2"))
    assert (await ledger.balance("tenant:a")).held == NOTHING
