"""What every ledger owes the pipeline, asked of each one."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import blockbuster
import pytest
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk.budget import (
    Amount,
    Balance,
    BaseLedger,
    EntryFacts,
    Limit,
    MemoryLedger,
    OpenOnFailure,
    RedisLedger,
    SqliteLedger,
)
from duet_sdk.errors import BudgetExceeded, ConfigError, HoldMisused, InvalidRequest

NOTHING = Amount()
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
SIGNAL = EntryFacts("reasoner", "vllm/Qwen/Qwen3-4B", "signal", "0af7651916cd43dd8448eb211c80319c")


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def usd(text):
    return Amount(usd=Decimal(text))


def tokens(count):
    return Amount(reasoner_tokens=count)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    if BINARY is None:
        pytest.skip(WHY_NOT)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(params=["memory", "sqlite", "redis", "open on failure"])
def make(request, tmp_path, clock):
    """Makes a ledger; those in a store share it."""
    if request.param == "memory":
        return lambda: MemoryLedger(clock=clock)
    if request.param == "redis":
        url, name = request.getfixturevalue("redis_url"), uuid.uuid4().hex
        return lambda: RedisLedger(url, name=name, clock=clock)
    if request.param == "sqlite":
        return lambda: SqliteLedger(tmp_path / "ledger.db", clock=clock)
    # Its own limit lets nothing through: a hold that passes was made in the store.
    return lambda: OpenOnFailure(SqliteLedger(tmp_path / "ledger.db", clock=clock), local=Limit(requests=0, usd=0))


@pytest.fixture
async def ledger(make):
    async with make() as made:
        yield made


async def spent(ledger, scope):
    return (await ledger.balance(scope)).spent


async def refused(ledger, scopes, amount, match=None):
    with pytest.raises(BudgetExceeded, match=match) as caught:
        await ledger.hold(scopes, amount)
    return caught.value


async def test_it_is_a_ledger(ledger):
    assert isinstance(ledger, BaseLedger)


# Hold, settle, release


async def test_what_is_settled_is_spent_and_the_rest_comes_back(ledger):
    hold = await ledger.hold(["tenant:a"], usd("0.5"))
    assert await ledger.balance("tenant:a") == Balance(NOTHING, usd("0.5"), NOTHING, None)
    await hold.settle(usd("0.2"))
    assert await ledger.balance("tenant:a") == Balance(usd("0.2"), NOTHING, NOTHING, None)


async def test_what_is_released_was_never_held(ledger):
    hold = await ledger.hold(["tenant:a"], usd("0.5"))
    await hold.release()
    await hold.release()
    assert await ledger.balance("tenant:a") == Balance(NOTHING, NOTHING, NOTHING, None)
    assert await ledger.entries() == []


async def test_every_kind_of_spending_is_counted_apart(ledger):
    hold = await ledger.hold(["tenant:a"], Amount(Decimal("0.5"), 100, 200, 1))
    await hold.settle(Amount(Decimal("0.25"), 50, 150, 1))
    assert await spent(ledger, "tenant:a") == Amount(Decimal("0.25"), 50, 150, 1)


async def test_all_scopes_are_held_or_none(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(1)))
    await ledger.set_limit("session:7", Limit(usd=Decimal("0.1")))
    error = await refused(ledger, ["tenant:a", "session:7"], usd("0.2"))
    assert error.scope == "session:7"
    assert (await ledger.balance("tenant:a")).held == NOTHING
    await ledger.hold(["tenant:a", "session:7"], usd("0.1"))
    assert (await ledger.balance("tenant:a")).held == usd("0.1")


@pytest.mark.parametrize(
    ("limit", "first", "second"),
    [
        (Limit(usd=Decimal("0.5")), usd("0.4"), usd("0.100000001")),
        (Limit(reasoner_tokens=500), tokens(400), tokens(101)),
        (Limit(generator_tokens=500), Amount(generator_tokens=400), Amount(generator_tokens=101)),
        (Limit(requests=5), Amount(requests=4), Amount(requests=2)),
    ],
)
async def test_a_limit_holds_to_the_last_unit(ledger, limit, first, second):
    await ledger.set_limit("tenant:a", limit)
    await ledger.hold(["tenant:a"], first)
    await refused(ledger, ["tenant:a"], second)


async def test_a_limit_can_be_used_to_the_last_unit(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal("0.5")))
    await ledger.hold(["tenant:a"], usd("0.4"))
    await ledger.hold(["tenant:a"], usd("0.1"))
    await refused(ledger, ["tenant:a"], usd("0.000000001"))


async def test_money_finer_than_a_nano_usd_is_rounded_up(ledger):
    hold = await ledger.hold(["tenant:a"], usd("0.0000000011"))
    assert (await ledger.balance("tenant:a")).held == usd("0.000000002")
    await hold.settle(usd("1E-20"))
    assert await spent(ledger, "tenant:a") == usd("0.000000001")


async def test_a_refusal_says_which_limit_what_is_used_and_what_to_do(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal("0.050"), window="day"))
    hold = await ledger.hold(["tenant:a"], usd("0.03"))
    await hold.settle(usd("0.03"))
    await ledger.hold(["tenant:a"], usd("0.008"))
    error = await refused(ledger, ["tenant:a"], usd("0.031"))
    assert str(error) == (
        "tenant:a asks for 0.031 USD, 0.012 USD is left of 0.05 USD by day (0.03 USD spent, 0.008 USD held); "
        "wait for the next day, from 2026-11-26 00:00 UTC, or raise the limit"
    )
    assert (error.scope, error.limit, error.spent, error.held, error.asked) == (
        "tenant:a",
        Decimal("0.05"),
        Decimal("0.03"),
        Decimal("0.008"),
        Decimal("0.031"),
    )


async def test_a_refusal_that_waiting_cannot_help_goes_before_one_that_it_can(ledger):
    await ledger.set_limit("session:7", Limit(reasoner_tokens=100))
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    await ledger.hold(["session:7"], tokens(100))
    await (await ledger.hold(["tenant:a"], tokens(100))).settle(tokens(100))
    error = await refused(ledger, ["session:7", "tenant:a"], tokens(1), match="raise the limit")
    assert error.scope == "tenant:a"


async def test_a_hold_above_the_whole_limit_says_so(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    await refused(ledger, ["tenant:a"], tokens(101), match="more than the whole limit: lower signal_tokens")


async def test_a_free_model_goes_through_where_money_is_used_up(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(0)))
    await refused(ledger, ["tenant:a"], usd("0.000000001"))
    await ledger.hold(["tenant:a"], tokens(100))


async def test_a_scope_named_twice_is_held_once(ledger):
    await ledger.hold(["tenant:a", "tenant:a"], tokens(10))
    assert (await ledger.balance("tenant:a")).held == tokens(10)


async def test_a_hold_without_scopes_is_booked_all_the_same(ledger):
    await (await ledger.hold([], tokens(10))).settle(tokens(7))
    assert [entry.reasoner_tokens for entry in await ledger.entries()] == [7]


async def test_an_unknown_scope_has_an_empty_balance(ledger):
    assert await ledger.balance("tenant:nobody") == Balance(NOTHING, NOTHING, NOTHING, None)


async def test_a_hold_can_be_settled_through_another_object_on_the_store(make, ledger):
    if isinstance(ledger, MemoryLedger):
        pytest.skip("a ledger in memory is one object")
    hold = await ledger.hold(["tenant:a"], tokens(10))
    async with make() as other:
        await other.settle(hold, tokens(7))
        assert await spent(other, "tenant:a") == tokens(7)
    assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


# Unknown prices


async def test_an_unknown_price_is_refused_where_money_is_limited(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(100)))
    with pytest.raises(ConfigError, match="tenant:a has a limit in money, and the price of the model is unknown"):
        await ledger.hold(["session:7", "tenant:a"], Amount(usd=None))
    assert (await ledger.balance("session:7")).held == NOTHING


async def test_an_unknown_price_counts_as_nothing_and_shows_as_unknown(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    await (await ledger.hold(["tenant:a"], Amount(None, 10))).settle(Amount(None, 8))
    assert await spent(ledger, "tenant:a") == tokens(8)
    assert [entry.usd for entry in await ledger.entries()] == [None]


async def test_a_price_known_only_afterwards_is_booked_and_is_no_overrun(ledger):
    await (await ledger.hold(["tenant:a"], Amount(None, 10))).settle(Amount(Decimal("0.3"), 10))
    assert await ledger.balance("tenant:a") == Balance(Amount(Decimal("0.3"), 10), NOTHING, NOTHING, None)
    assert [(entry.status, entry.usd) for entry in await ledger.entries()] == [("settled", Decimal("0.3"))]


async def test_a_settle_without_price_charges_the_money_that_was_held(ledger):
    await (await ledger.hold(["tenant:a"], Amount(Decimal("0.3"), 10))).settle(Amount(None, 4))
    assert await spent(ledger, "tenant:a") == Amount(Decimal("0.3"), 4)


# Twice


async def test_settling_twice_with_the_same_amount_books_once(ledger):
    hold = await ledger.hold(["tenant:a"], tokens(10))
    await hold.settle(tokens(7))
    await hold.settle(tokens(7))
    assert await spent(ledger, "tenant:a") == tokens(7)
    assert len(await ledger.entries()) == 1


async def test_settling_twice_with_two_amounts_is_an_error_and_changes_nothing(ledger):
    hold = await ledger.hold(["tenant:a"], tokens(10))
    await hold.settle(tokens(7))
    with pytest.raises(HoldMisused, match="was settled with 7 reasoner tokens and cannot be settled again with 8"):
        await hold.settle(tokens(8))
    assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_release_after_a_settle_does_nothing(ledger):
    hold = await ledger.hold(["tenant:a"], tokens(10))
    await hold.settle(tokens(7))
    await hold.release()
    assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_settle_after_release_is_booked_in_full_as_overrun(ledger):
    hold = await ledger.hold(["tenant:a"], tokens(10))
    await hold.release()
    await hold.settle(tokens(7))
    await hold.settle(tokens(7))
    assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, tokens(7), None)
    assert [entry.status for entry in await ledger.entries()] == ["overrun"]


async def test_a_key_makes_a_hold_once(ledger):
    first = await ledger.hold(["tenant:a"], tokens(10), key="request-1/1")
    again = await ledger.hold(["tenant:a"], tokens(10), key="request-1/1")
    assert again.id == first.id
    assert (await ledger.balance("tenant:a")).held == tokens(10)
    await again.settle(tokens(7))
    late = await ledger.hold(["tenant:a"], tokens(10), key="request-1/1")
    await late.settle(tokens(7))
    assert await ledger.balance("tenant:a") == Balance(tokens(7), NOTHING, NOTHING, None)


async def test_a_key_is_found_again_where_the_limit_is_used_up(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    first = await ledger.hold(["tenant:a"], tokens(10), key="1")
    assert (await ledger.hold(["tenant:a"], tokens(10), key="1")).made_us == first.made_us


async def test_a_key_can_be_used_again_after_release(ledger):
    await (await ledger.hold(["tenant:a"], tokens(10), key="1")).release()
    await ledger.hold(["tenant:b"], tokens(20), key="1")
    assert (await ledger.balance("tenant:b")).held == tokens(20)


@pytest.mark.parametrize(
    ("scopes", "amount"), [(["tenant:b"], tokens(10)), (["tenant:a"], tokens(9)), (["tenant:a"], Amount(None, 10))]
)
async def test_a_key_of_another_hold_is_refused(ledger, scopes, amount):
    await ledger.hold(["tenant:a"], tokens(10), key="1")
    with pytest.raises(HoldMisused, match="key:1 was made for other scopes or another amount"):
        await ledger.hold(scopes, amount, key="1")


# Overrun


async def test_a_settle_above_its_hold_is_booked_in_full_and_marked(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    hold = await ledger.hold(["tenant:a"], tokens(60))
    await hold.settle(tokens(900))
    assert await ledger.balance("tenant:a") == Balance(tokens(900), NOTHING, tokens(840), Limit(reasoner_tokens=100))
    (entry,) = await ledger.entries()
    assert (entry.status, entry.reasoner_tokens, entry.overrun) == ("overrun", 900, tokens(840))
    await refused(ledger, ["tenant:a"], tokens(1))


# Expiry


async def test_a_hold_that_nobody_settles_is_charged_in_full(ledger, clock):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    await ledger.hold(["tenant:a"], tokens(10), ttl_s=60, facts=SIGNAL)
    clock.now += 59
    assert (await ledger.balance("tenant:a")).held == tokens(10)
    clock.now += 1
    await refused(ledger, ["tenant:a"], tokens(1))
    assert await ledger.balance("tenant:a") == Balance(tokens(10), NOTHING, NOTHING, Limit(reasoner_tokens=10))
    (entry,) = await ledger.entries()
    assert (entry.status, entry.reasoner_tokens, entry.facts) == ("expired", 10, SIGNAL)


async def test_a_late_settle_replaces_the_charge_by_the_real_amount(ledger, clock):
    hold = await ledger.hold(["tenant:a"], tokens(10), ttl_s=60)
    clock.now += 61
    await ledger.balance("tenant:a")
    await hold.settle(tokens(4))
    await hold.settle(tokens(4))
    assert await ledger.balance("tenant:a") == Balance(tokens(4), NOTHING, NOTHING, None)
    assert [(entry.status, entry.reasoner_tokens) for entry in await ledger.entries()] == [
        ("expired", 10),
        ("corrected", -6),
    ]


async def test_a_late_settle_above_the_hold_is_overrun_by_the_excess(ledger, clock):
    hold = await ledger.hold(["tenant:a"], tokens(10), ttl_s=60)
    clock.now += 61
    await hold.settle(tokens(14))
    assert await ledger.balance("tenant:a") == Balance(tokens(14), NOTHING, tokens(4), None)
    assert [entry.status for entry in await ledger.entries()] == ["expired", "corrected"]


async def test_a_late_release_takes_the_charge_back(ledger, clock):
    hold = await ledger.hold(["tenant:a"], tokens(10), ttl_s=60)
    clock.now += 61
    await ledger.balance("tenant:a")
    await hold.release()
    await hold.release()
    assert await ledger.balance("tenant:a") == Balance(NOTHING, NOTHING, NOTHING, None)
    assert [entry.reasoner_tokens for entry in await ledger.entries()] == [10, -10]


async def test_the_same_settle_again_after_a_correction_books_once(ledger, clock):
    hold = await ledger.hold(["tenant:a"], tokens(10), ttl_s=60)
    clock.now += 61
    await hold.settle(tokens(4))
    with pytest.raises(HoldMisused, match="cannot be settled again"):
        await hold.settle(tokens(5))
    assert await spent(ledger, "tenant:a") == tokens(4)


async def test_many_holds_expire_together(ledger, clock):
    for _ in range(60):
        await ledger.hold(["tenant:a"], tokens(1), ttl_s=60)
    clock.now += 61
    assert await ledger.balance("tenant:a") == Balance(tokens(60), NOTHING, NOTHING, None)
    assert len(await ledger.entries()) == 60


# Windows


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        ("minute", datetime(2026, 11, 25, 12, 0, 59, tzinfo=UTC), datetime(2026, 11, 25, 12, 1, tzinfo=UTC)),
        ("hour", datetime(2026, 11, 25, 12, 59, 59, tzinfo=UTC), datetime(2026, 11, 25, 13, tzinfo=UTC)),
        ("day", datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 26, tzinfo=UTC)),
        ("month", datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        ("month", datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", datetime(2100, 2, 28, 23, 59, 59, tzinfo=UTC), datetime(2100, 3, 1, tzinfo=UTC)),
    ],
)
async def test_a_window_ends_by_the_calendar_in_utc(ledger, clock, window, last, first):
    clock.now = last.timestamp()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window=window))
    await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(10))
    await refused(ledger, ["tenant:a"], tokens(1), match=f"by {window}")
    clock.now = first.timestamp()
    await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(10))
    assert await spent(ledger, "tenant:a") == tokens(10)


async def test_a_month_is_one_window_from_its_first_moment(ledger, clock):
    clock.now = datetime(2028, 2, 1, tzinfo=UTC).timestamp()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window="month"))
    await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(10))
    clock.now = datetime(2028, 2, 29, 23, tzinfo=UTC).timestamp()
    await refused(ledger, ["tenant:a"], tokens(1))


async def test_a_rolling_window_frees_what_is_older_and_at_most_a_sixtieth_late(ledger, clock):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window="rolling:60m"))
    await (await ledger.hold(["tenant:a"], tokens(6))).settle(tokens(6))
    clock.now += 1800
    await (await ledger.hold(["tenant:a"], tokens(4))).settle(tokens(4))
    clock.now = NOON + 3600
    await refused(ledger, ["tenant:a"], tokens(1), match="until spending is older than 60m")
    clock.now = NOON + 3660
    await ledger.hold(["tenant:a"], tokens(6))
    await refused(ledger, ["tenant:a"], tokens(1))


async def test_a_limit_without_window_never_starts_anew(ledger, clock):
    await ledger.set_limit("session:7", Limit(reasoner_tokens=10))
    await (await ledger.hold(["session:7"], tokens(10))).settle(tokens(10))
    clock.now += 10 * 365 * 86_400
    await refused(ledger, ["session:7"], tokens(1))


async def test_a_hold_belongs_to_the_window_in_which_it_was_made(ledger, clock):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window="minute"))
    clock.now = NOON + 59
    hold = await ledger.hold(["tenant:a"], tokens(10))
    clock.now = NOON + 61
    assert (await ledger.balance("tenant:a")).held == NOTHING
    await hold.settle(tokens(8))
    assert await spent(ledger, "tenant:a") == NOTHING
    (entry,) = await ledger.entries()
    assert (entry.made.minute, entry.booked.minute, entry.reasoner_tokens) == (0, 1, 8)


@pytest.mark.parametrize("window", ["minute", "day", "rolling:1m", None])
@pytest.mark.parametrize("back_s", [1, 90, 86_400, 40 * 86_400])
async def test_a_clock_that_goes_back_frees_nothing_and_loses_nothing(ledger, clock, window, back_s):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window=window))
    await (await ledger.hold(["tenant:a"], tokens(6))).settle(tokens(6))
    hold = await ledger.hold(["tenant:a"], tokens(4), ttl_s=60)
    clock.now -= back_s
    await refused(ledger, ["tenant:a"], tokens(1))
    await hold.settle(tokens(3))
    assert await spent(ledger, "tenant:a") == tokens(9)
    assert sum(entry.reasoner_tokens for entry in await ledger.entries()) == 9


# Limits


async def test_a_limit_can_be_read_changed_and_removed(ledger):
    day = Limit(Decimal("1.5"), 10, 20, 30, "day")
    await ledger.set_limit("tenant:a", day)
    await ledger.set_limit("session:7", Limit(requests=3, window="rolling:90s"))
    assert await ledger.limits() == {"session:7": Limit(requests=3, window="rolling:90s"), "tenant:a": day}
    assert (await ledger.balance("tenant:a")).limit == day
    await ledger.set_limit("tenant:a", None)
    assert await ledger.limits() == {"session:7": Limit(requests=3, window="rolling:90s")}


async def test_a_limit_lowered_below_what_is_spent_refuses_and_loses_nothing(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    await (await ledger.hold(["tenant:a"], tokens(60))).settle(tokens(50))
    hold = await ledger.hold(["tenant:a"], tokens(40))
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    await refused(ledger, ["tenant:a"], tokens(1), match="0 reasoner tokens are left of 10 reasoner tokens")
    await hold.settle(tokens(40))
    assert await spent(ledger, "tenant:a") == tokens(90)
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=100))
    await ledger.hold(["tenant:a"], tokens(10))
    await refused(ledger, ["tenant:a"], tokens(1))


async def test_a_limit_set_later_counts_what_was_spent_and_held_before(ledger, clock):
    clock.now = NOON - 86_400
    await (await ledger.hold(["tenant:a"], tokens(1000))).settle(tokens(1000))
    clock.now = NOON
    await (await ledger.hold(["tenant:a", "tenant:ab"], tokens(6))).settle(tokens(5))
    hold = await ledger.hold(["tenant:a"], tokens(3))
    await (await ledger.hold(["tenant:ab"], tokens(500))).settle(tokens(500))
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window="day"))
    assert await ledger.balance("tenant:a") == Balance(
        tokens(5), tokens(3), NOTHING, Limit(reasoner_tokens=10, window="day")
    )
    await hold.settle(tokens(2))
    await ledger.set_limit("tenant:a", None)
    assert await spent(ledger, "tenant:a") == tokens(1007)


async def test_another_window_keeps_overrun_and_corrections(ledger, clock):
    late = await ledger.hold(["tenant:a"], tokens(10), ttl_s=60)
    clock.now += 61
    await late.settle(tokens(4))
    await (await ledger.hold(["tenant:a"], tokens(1))).settle(tokens(3))
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10, window="rolling:24h"))
    assert await ledger.balance("tenant:a") == Balance(
        tokens(7), NOTHING, tokens(2), Limit(reasoner_tokens=10, window="rolling:24h")
    )


# Entries


async def test_an_entry_says_what_was_spent_on_what(ledger, clock):
    hold = await ledger.hold(["tenant:a", "session:7"], Amount(Decimal("0.5"), 900, requests=1), facts=SIGNAL)
    clock.now += 1.5
    told = EntryFacts("reasoner", "vllm/Qwen/Qwen3-4B", "wrap_up", "00ff", input_tokens=300, output_tokens=12)
    await hold.settle(Amount(Decimal("0.25"), 312, requests=1), told)
    (entry,) = await ledger.entries()
    assert (entry.status, entry.hold, entry.scopes) == ("settled", hold.id, ("tenant:a", "session:7"))
    assert entry.facts == told
    assert (entry.usd, entry.reasoner_tokens, entry.generator_tokens, entry.requests) == (Decimal("0.25"), 312, 0, 1)
    assert entry.overrun == NOTHING
    assert (entry.made.timestamp(), entry.booked.timestamp()) == (NOON, NOON + 1.5)
    assert entry.booked.tzinfo == UTC


async def test_a_settle_without_facts_keeps_those_of_the_hold(ledger):
    await (await ledger.hold(["tenant:a"], tokens(10), facts=SIGNAL)).settle(tokens(7))
    assert (await ledger.entries())[0].facts == SIGNAL


async def test_entries_can_be_filtered_and_paged(ledger, clock):
    for number in range(10):
        clock.now = NOON + number
        scope = "tenant:a" if number % 2 else "tenant:b"
        await (await ledger.hold([scope], tokens(number))).settle(tokens(number))

    def at(second):
        return datetime.fromtimestamp(NOON + second, UTC)

    async def found(**filters):
        return [entry.reasoner_tokens for entry in await ledger.entries(**filters)]

    assert await found() == list(range(10))
    assert await found(scope="tenant:a") == [1, 3, 5, 7, 9]
    assert await found(scope="tenant:c") == []
    assert await found(since=at(3), until=at(6)) == [3, 4, 5]
    assert await found(scope="tenant:b", most=2) == [0, 2]
    page = await ledger.entries(scope="tenant:b", most=2)
    assert await found(scope="tenant:b", after=page[-1]) == [4, 6, 8]
    assert await found(after=page[-1], since=at(8)) == [8, 9]


async def test_prune_deletes_old_entries_and_keeps_what_is_spent_under_a_limit(ledger, clock):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    await (await ledger.hold(["tenant:a"], tokens(6))).settle(tokens(6))
    clock.now += 100
    await (await ledger.hold(["tenant:a"], tokens(1))).settle(tokens(1))
    before = datetime.fromtimestamp(NOON + 50, UTC)
    assert await ledger.prune(before) == 1
    assert await ledger.prune(before) == 0
    assert [entry.reasoner_tokens for entry in await ledger.entries()] == [1]
    assert await spent(ledger, "tenant:a") == tokens(7)
    await refused(ledger, ["tenant:a"], tokens(4))


@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_moment_without_time_zone_is_refused(ledger, name):
    with pytest.raises(InvalidRequest, match="needs a time zone"):
        await ledger.entries(**{name: datetime(2026, 11, 25)})
    with pytest.raises(InvalidRequest, match="needs a time zone"):
        await ledger.prune(datetime(2026, 11, 25))


@pytest.mark.parametrize("most", [-1, 1.0, True, None])
async def test_how_many_entries_is_a_whole_number(ledger, most):
    with pytest.raises(InvalidRequest, match="most must be a whole number of at least 0"):
        await ledger.entries(most=most)
    assert await ledger.entries(most=0) == []


# Bad input


@pytest.mark.parametrize(
    "scope",
    ["", "tenant", "tenant:", ":a", "Tenant:a", "tenant: a", "tenant:a b", "tenant:ä", "tenant:a\n", "1:a", "tenant:'",
     "tenant:" + "a" * 201, "t" * 33 + ":a", None, 7, ["tenant:a"]],
)  # fmt: skip
async def test_a_malformed_scope_is_refused_and_not_quoted(ledger, scope):
    for call in (ledger.hold([scope], tokens(1)), ledger.balance(scope), ledger.set_limit(scope, None)):
        with pytest.raises(InvalidRequest, match="must be kind:name, such as 'tenant:a'") as caught:
            await call
        assert str(scope) == "" or f"{scope!r}" not in str(caught.value).replace("'tenant:a'", "")


@pytest.mark.parametrize(
    "scope", ["key:abc", "api-key:abc", "session_token:1", "user:sk-proj-abcdefghijklmnopqrst", "tenant:hf_" + "x" * 34]
)
async def test_a_scope_that_looks_like_a_key_is_refused_and_not_quoted(ledger, scope):
    with pytest.raises(InvalidRequest, match="looks like a key") as caught:
        await ledger.hold([scope], tokens(1))
    assert scope not in str(caught.value)


async def test_one_text_in_place_of_a_list_of_scopes_is_refused(ledger):
    with pytest.raises(InvalidRequest, match="scopes must be a list of strings"):
        await ledger.hold("tenant:a", tokens(1))


async def test_too_many_scopes_are_refused(ledger):
    with pytest.raises(InvalidRequest, match="in 16 scopes at most, got 17"):
        await ledger.hold([f"team:{number}" for number in range(17)], tokens(1))


async def test_an_amount_beyond_what_is_counted_is_refused(ledger):
    with pytest.raises(InvalidRequest, match="reasoner_tokens is 10000000000000000; a ledger counts up to"):
        await ledger.hold(["tenant:a"], tokens(10**16))
    hold = await ledger.hold(["tenant:a"], usd("9000000"))
    with pytest.raises(InvalidRequest, match=r"usd is 1E\+999999; a ledger counts up to 9 million USD"):
        await hold.settle(usd("1E+999999"))
    await hold.settle(usd("9000000"))
    assert await spent(ledger, "tenant:a") == usd("9000000")


async def test_the_greatest_amounts_are_counted_to_the_last_unit(ledger):
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(9_000_000)))
    await ledger.hold(["tenant:a", "tenant:b"], usd("8999999.999999999"))
    await refused(ledger, ["tenant:a"], usd("0.000000002"))
    await ledger.hold(["tenant:a", "tenant:b"], usd("0.000000001"))
    assert (await ledger.balance("tenant:b")).held == usd("9000000")


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), True, "60"])
async def test_a_hold_needs_a_time_to_live(ledger, ttl_s):
    with pytest.raises(InvalidRequest, match="ttl_s of a hold must be a finite number of seconds, above 0"):
        await ledger.hold(["tenant:a"], tokens(1), ttl_s=ttl_s)


async def test_a_hold_lives_a_month_at_most(ledger):
    await ledger.hold(["tenant:a"], tokens(1), ttl_s=31 * 86_400)
    with pytest.raises(InvalidRequest, match="ttl_s of a hold must be at most 2678400"):
        await ledger.hold(["tenant:a"], tokens(1), ttl_s=31 * 86_400 + 1)


@pytest.mark.parametrize("wait_s", [-1, float("nan"), float("inf"), None, "1"])
async def test_a_wait_must_have_an_end(ledger, wait_s):
    with pytest.raises(InvalidRequest, match="wait_s of a hold must be a finite number of seconds, at least 0"):
        await ledger.hold(["tenant:a"], tokens(1), wait_s=wait_s)


@pytest.mark.parametrize("key", ["", "a b", "ä", "k" * 201, 7])
async def test_a_malformed_key_is_refused(ledger, key):
    with pytest.raises(InvalidRequest, match="a hold's key must be 1 to 200"):
        await ledger.hold(["tenant:a"], tokens(1), key=key)


# Waiting


async def test_a_hold_waits_for_room_that_only_held_amounts_take(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    first = await ledger.hold(["tenant:a"], tokens(10))
    waiting = asyncio.create_task(ledger.hold(["tenant:a"], tokens(6), wait_s=30))
    await refused(ledger, ["tenant:a"], tokens(6))  # by then it waits
    assert not waiting.done()
    await first.settle(tokens(4))
    await (await asyncio.wait_for(waiting, 10)).settle(tokens(6))
    assert await spent(ledger, "tenant:a") == tokens(10)


async def test_a_wait_ends_with_the_refusal(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    await ledger.hold(["tenant:a"], tokens(10))
    with pytest.raises(BudgetExceeded, match="wait until what is held is settled"):
        await ledger.hold(["tenant:a"], tokens(1), wait_s=0.02)


async def test_what_is_spent_is_not_waited_for(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(10))
    with pytest.raises(BudgetExceeded):
        await asyncio.wait_for(ledger.hold(["tenant:a"], tokens(1), wait_s=600), 10)


# Use


async def test_many_tasks_never_spend_more_than_the_limit(ledger):
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=1000))

    async def attempt(number):
        try:
            hold = await ledger.hold(["tenant:a", f"session:{number % 7}"], tokens(30))
        except BudgetExceeded:
            return 0
        await asyncio.sleep(0)
        if number % 5 == 0:
            await hold.release()
            return 0
        await hold.settle(tokens(number % 31))
        return number % 31

    done = await asyncio.gather(*(attempt(number) for number in range(200)))
    assert sum(done) <= 1000
    assert await ledger.balance("tenant:a") == Balance(tokens(sum(done)), NOTHING, NOTHING, Limit(reasoner_tokens=1000))
    assert sum(entry.reasoner_tokens for entry in await ledger.entries()) == sum(done)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_hold_leaves_nothing_held(ledger, times):
    for steps in range(6):
        task = asyncio.create_task(ledger.hold(["tenant:a"], tokens(10)))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            await (await task).release()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
    assert await ledger.balance("tenant:a") == Balance(NOTHING, NOTHING, NOTHING, None)


async def test_the_event_loop_is_never_blocked(make):
    async with make() as ledger:
        await ledger.limits()  # a library that is imported on use reads its files
        with blockbuster.blockbuster_ctx():
            await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
            await (await ledger.hold(["tenant:a"], tokens(10))).settle(tokens(7))
            assert await spent(ledger, "tenant:a") == tokens(7)
            assert len(await ledger.entries()) == 1


def test_one_object_serves_several_event_loops(make):
    ledger = make()
    hold = asyncio.run(ledger.hold(["tenant:a"], tokens(10)))
    asyncio.run(hold.settle(tokens(7)))
    assert asyncio.run(spent(ledger, "tenant:a")) == tokens(7)
    asyncio.run(ledger.aclose())


async def test_closing_twice_is_harmless(make):
    ledger = make()
    await ledger.aclose()
    await ledger.aclose()


async def test_a_scope_without_limit_is_forgotten_by_prune_once_it_is_unused(ledger, clock):
    await (await ledger.hold(["session:7"], tokens(6))).settle(tokens(6))
    clock.now += 10_000
    await (await ledger.hold(["session:8"], tokens(6))).settle(tokens(6))
    await ledger.prune(datetime.fromtimestamp(NOON, UTC) + timedelta(seconds=5000))
    assert (await spent(ledger, "session:7"), await spent(ledger, "session:8")) == (NOTHING, tokens(6))
