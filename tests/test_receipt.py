"""A receipt says where tokens, money and time went, and what was paid for in vain."""

from dataclasses import replace
from decimal import Decimal

import pytest

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConnectFailed, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.pricing import FREE, GpuHour, PriceBook, TokenPrice
from duet_sdk.receipt import Account, ReasonerOnly
from duet_sdk.reply import Attempt, StageUsage

PRICES = {"scripted/lines": TokenPrice(Decimal(1), Decimal(10))}
AT_ONCE = Retry(attempts=2, first_wait_s=0)


def broken(after: int) -> Script:
    return Script(
        text="one two three four", error=StreamBroken("cut", backend="scripted", model="lines"), fail_after=after
    )


def attempt(stage: str, start_s: float, duration_s: float, **facts: object) -> Attempt:
    plain = Attempt(stage, "scripted/m", 1, StageUsage(10, 5), Decimal("0.5"), start_s, duration_s, 0.1)  # type: ignore[arg-type]
    return replace(plain, **facts)  # type: ignore[arg-type]


async def test_each_stage_has_its_tokens_money_and_limits():
    async with AsyncDuetClient(Scripted("a b c"), Scripted("d e"), prices=PRICES) as duet:
        reply = await duet.chat("q", budget=Budget(signal_tokens=9, answer_tokens=7))
    receipt = reply.receipt
    assert [(a.kind, a.limit_tokens, a.honoured, a.discarded) for a in receipt.attempts] == [
        ("signal", 9, True, False),
        ("answer", 7, True, False),
    ]
    assert (receipt.reasoner.attempts, receipt.reasoner.usage) == (1, reply.usage.reasoner)
    assert (receipt.generator.attempts, receipt.generator.usd) == (1, reply.cost.generator_usd)
    assert (receipt.honoured, receipt.overlap_tokens, receipt.discarded.usage.total_tokens) == (True, 0, 0)


async def test_a_signal_that_was_started_over_is_discarded_and_charged():
    reasoner = Scripted(broken(2), "a b c")
    async with AsyncDuetClient(reasoner, Scripted("d"), prices=PRICES, retry=AT_ONCE) as duet:
        reply = await duet.chat("q")
    first, second, answer = reply.receipt.attempts
    assert (first.discarded, second.discarded, answer.discarded) == (True, False, False)
    assert reply.receipt.discarded.usage.reasoner == first.usage
    assert reply.receipt.discarded.usd == first.usd
    assert reply.usage.reasoner == first.usage + second.usage


async def test_an_answer_that_was_started_over_is_discarded():
    generator = Scripted(broken(2), "a b c")
    async with AsyncDuetClient(Scripted("s"), generator, retry=AT_ONCE) as duet:
        reply = await duet.chat("q")
    assert [(a.kind, a.discarded) for a in reply.receipt.attempts] == [
        ("signal", False),
        ("answer", True),
        ("answer", False),
    ]


async def test_a_signal_is_discarded_when_the_reasoner_has_to_answer():
    gone = ConnectFailed("gone", backend="scripted", model="lines")
    generator = Scripted(Script(error=gone))
    async with AsyncDuetClient(Scripted("s"), generator, retry=Retry(attempts=1)) as duet:
        reply = await duet.chat("q")
    assert reply.served_by == "reasoner_fallback"
    assert [(a.stage, a.kind, a.discarded) for a in reply.receipt.attempts] == [
        ("reasoner", "signal", True),
        ("generator", "answer", True),
        ("reasoner", "answer", False),
    ]


async def test_a_wrap_up_is_an_attempt_of_its_own_kind():
    reasoner = Scripted(Script(text="one two three four five six seven eight", obeys=False), "short")
    async with AsyncDuetClient(reasoner, Scripted("d"), on_cut="wrap_up") as duet:
        reply = await duet.chat("q", budget=Budget(signal_tokens=8))
    assert [a.kind for a in reply.receipt.attempts] == ["signal", "wrap_up", "answer"]


def test_times_of_attempts_that_overlap_are_counted_once():
    account = Account()
    account.attempts = [attempt("reasoner", 1.0, 2.0), attempt("generator", 2.0, 3.0)]
    account.gate_s = 0.5
    _, _, receipt = account.books(6.0, None)
    assert (receipt.reasoner.duration_s, receipt.generator.duration_s) == (2.0, 3.0)
    assert receipt.queue_s == pytest.approx(1.5)


async def test_a_reasoner_that_answers_itself_measures_what_it_costs_alone():
    async with AsyncDuetClient(Scripted("a b c"), Scripted("d"), prices=PRICES) as duet:
        alone = (await duet.chat("q", mode="reasoner")).receipt.reasoner_only
        assert (await duet.chat("q")).receipt.reasoner_only is None  # nothing supports an estimate
    assert alone is not None
    assert (alone.output_tokens, alone.basis) == (3, "measured")


def test_a_calibration_gives_an_estimate_for_each_answer():
    alone = ReasonerOnly("scripted/m", None, PriceBook({"scripted/m": TokenPrice(Decimal(1), Decimal(10))}), 1000.0)
    estimate = alone.estimate([attempt("reasoner", 0, 1, kind="signal")], answers=2)
    assert estimate is not None
    assert (estimate.output_tokens, estimate.basis) == (2000, "calibration")
    assert estimate.usd == (10 * Decimal(1) + 2000 * Decimal(10)) / 1_000_000


@pytest.mark.parametrize("price", [GpuHour(Decimal(2)), None])
def test_an_estimate_has_no_money_where_the_price_is_unknown_or_by_the_hour(price):
    estimate = ReasonerOnly("scripted/m", price, PriceBook(), 1000.0).estimate([attempt("reasoner", 0, 1)], answers=1)
    assert estimate is not None
    if price is None:
        assert estimate.basis == "measured"
    assert ReasonerOnly("x/y", price, PriceBook(), 9.0).estimate([attempt("generator", 0, 1)], answers=1).usd is None  # type: ignore[union-attr]


def test_without_any_prompt_there_is_no_estimate():
    assert ReasonerOnly("x/y", FREE, PriceBook(), 9.0).estimate([], answers=1) is None


def test_what_no_server_told_stays_untold_in_a_sum_and_what_one_told_is_kept():
    told = StageUsage(10, 8, 4, cache_write_tokens=0, reasoning_tokens=6)
    assert StageUsage(1, 1) + StageUsage(2, 2) == StageUsage(3, 3)
    assert StageUsage(1, 1) + told == StageUsage(11, 9, 4, cache_write_tokens=0, reasoning_tokens=6)
    assert told + told == StageUsage(20, 16, 8, cache_write_tokens=0, reasoning_tokens=12)
