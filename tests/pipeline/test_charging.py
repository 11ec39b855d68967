"""Every attempt is held in the ledger before it is sent, and settled with what it really used."""

import asyncio
import time
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Amount, Limit, MemoryLedger, SqliteLedger
from duet_sdk.errors import ConfigError, ConnectFailed, DeadlineExceeded, DuetError, LedgerError, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.pricing import GpuHour, TokenPrice
from duet_sdk.settings import load_settings

PRICES = {"scripted/big": TokenPrice(Decimal(1), Decimal(10)), "scripted/small": TokenPrice(Decimal("0.1"), Decimal(1))}
AT_ONCE = Retry(attempts=2, first_wait_s=0)


def pair(signal="a b c", answer="d e", **options):
    return AsyncDuetClient(
        Scripted(signal, model="big", price=None), Scripted(answer, model="small", price=None), **options
    )


async def test_both_stages_are_charged_to_every_scope_with_what_they_really_used():
    ledger = MemoryLedger()
    async with pair(ledger=ledger, prices=PRICES) as duet:
        reply = await duet.chat("one two", tenant="a", user="u", session="7", scopes=["team:x"])
    for scope in ("tenant:a", "user:u", "session:7", "team:x"):
        balance = await ledger.balance(scope)
        assert balance.held == Amount()
        assert balance.spent == Amount(
            reply.cost.usd, reply.usage.reasoner.total_tokens, reply.usage.generator.total_tokens, requests=1
        )
    signal, answer = await ledger.entries()
    assert (signal.facts.stage, signal.facts.model, signal.facts.kind) == ("reasoner", "scripted/big", "signal")
    assert (answer.facts.input_tokens, answer.facts.output_tokens) == (
        reply.usage.generator.input_tokens,
        reply.usage.generator.output_tokens,
    )


async def test_a_request_without_labels_is_booked_in_no_scope():
    ledger = MemoryLedger()
    async with pair(ledger=ledger) as duet:
        await duet.chat("q")
    assert [entry.scopes for entry in await ledger.entries()] == [(), ()]


async def test_a_full_scope_refuses_before_anything_is_sent():
    ledger, reasoner = MemoryLedger(), Scripted("a")
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    async with AsyncDuetClient(reasoner, "scripted/b", ledger=ledger) as duet:
        with pytest.raises(BudgetExceeded) as caught:
            await duet.chat("one two three", tenant="a")
    assert (caught.value.scope, caught.value.limit, caught.value.spent) == ("tenant:a", 10, 0)
    assert caught.value.reply is None
    assert reasoner.calls == []


async def test_a_refused_answer_keeps_the_signal_that_was_paid():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=10))
    async with pair(ledger=ledger) as duet:
        with pytest.raises(BudgetExceeded) as caught:
            await duet.chat("q", tenant="a")
    reply = caught.value.reply
    assert reply is not None
    assert (reply.signal.text, reply.text, reply.finish_reason) == ("a b c", "", "length")
    assert (await ledger.balance("tenant:a")).spent.reasoner_tokens == reply.usage.reasoner.total_tokens


async def test_a_money_limit_with_an_unknown_price_is_a_mistake_of_the_configuration():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(1)))
    async with pair(ledger=ledger) as duet:
        with pytest.raises(ConfigError, match="price"):
            await duet.chat("q", tenant="a")


async def test_free_models_are_not_blocked_by_a_money_limit_of_zero():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(0)))
    async with AsyncDuetClient("scripted/a", "scripted/b", ledger=ledger) as duet:
        assert (await duet.chat("q", tenant="a")).text == "b"


async def test_a_price_by_the_hour_is_held_up_to_the_deadline():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(usd=Decimal(1)))
    prices = {"scripted/big": GpuHour(Decimal(3600)), "scripted/small": GpuHour(Decimal(3600))}
    async with pair(ledger=ledger, prices=prices) as duet:
        with pytest.raises(BudgetExceeded):  # two USD for two seconds
            await duet.chat("q", tenant="a", budget=Budget(deadline_s=4, signal_deadline_s=2))
        reply = await duet.chat("q", tenant="a", budget=Budget(deadline_s=0.9, signal_deadline_s=0.5))
    assert reply.text == "d e"


async def test_failed_retried_and_discarded_attempts_are_charged():
    ledger = MemoryLedger()
    cut = Script("a b c", error=StreamBroken("cut", backend="scripted", model="lines"), fail_after=2)
    async with AsyncDuetClient(Scripted(cut, "a b c"), "scripted/d", ledger=ledger, retry=AT_ONCE) as duet:
        reply = await duet.chat("q", tenant="a")
    assert len(reply.receipt.attempts) == 3
    balance = await ledger.balance("tenant:a")
    assert balance.spent.reasoner_tokens == reply.usage.reasoner.total_tokens
    assert balance.spent.requests == 1


async def test_a_cancelled_request_is_settled_with_what_it_had_used():
    ledger = MemoryLedger()
    async with AsyncDuetClient(Scripted(Script("a b c d e f", token_s=0.01)), "scripted/d", ledger=ledger) as duet:
        async with duet.stream("q", tenant="a") as run:
            async for event in run:
                if getattr(event, "text", ""):
                    break
    balance = await ledger.balance("tenant:a")
    assert balance.held == Amount()
    assert balance.spent.reasoner_tokens == run.reply.usage.reasoner.total_tokens > 0


class Failing(MemoryLedger):
    """Fails in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    async def hold(self, *given, **named):
        if self.method == "hold":
            raise LedgerError("the store is gone")
        return await super().hold(*given, **named)

    async def settle(self, *given, **named):
        if self.method == "settle":
            raise LedgerError("the store is gone")
        return await super().settle(*given, **named)


async def test_a_store_that_fails_before_the_call_refuses_it():
    reasoner = Scripted("a")
    async with AsyncDuetClient(reasoner, "scripted/b", ledger=Failing("hold")) as duet:
        with pytest.raises(LedgerError):
            await duet.chat("q", tenant="a")
    assert reasoner.calls == []


async def test_a_store_that_fails_after_the_call_does_not_lose_the_answer(caplog):
    ledger = Failing("settle")
    async with AsyncDuetClient("scripted/a", "scripted/b", ledger=ledger) as duet:
        assert (await duet.chat("q", tenant="a")).text == "b"
    assert (await ledger.balance("tenant:a")).held.requests == 1  # charged in full when it expires
    assert "charged in full" in caplog.text


async def test_a_request_waits_for_room_that_another_one_holds():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=130))
    slow = Script("a b c", first_s=0.05)
    budget = Budget(signal_tokens=20)
    async with AsyncDuetClient(Scripted(slow), "scripted/d", ledger=ledger, ledger_wait_s=5) as duet:
        replies = await asyncio.gather(*(duet.chat("q", tenant="a", budget=budget, gate="always") for _ in range(2)))
    assert [reply.text for reply in replies] == ["d", "d"]
    assert max(attempt.queued_s for reply in replies for attempt in reply.receipt.attempts) > 0


ERRORS = (
    None,
    ConnectFailed("gone", backend="scripted", model="lines"),
    StreamBroken("cut", backend="scripted", model="lines"),
)
SCRIPTS = st.builds(
    Script,
    text=st.lists(st.sampled_from(["one", "two.", "drei", "🙂."]), max_size=40).map(" ".join),
    error=st.sampled_from(ERRORS),
    fail_after=st.integers(0, 30),
    usage=st.sampled_from(["each", "last", "none"]),
    token_ids=st.booleans(),
    tokens_per_chunk=st.integers(1, 5),
)


@given(
    scripts=st.lists(SCRIPTS, min_size=4, max_size=4),
    obeys=st.booleans(),
    limit=st.integers(1, 400),
    requests=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_no_scripts_of_concurrent_requests_overspend_a_scope(scripts, obeys, limit, requests):
    reasoner = Scripted(*(replace(script, obeys=obeys) for script in scripts[:2]))
    generator = Scripted(*(replace(script, obeys=obeys) for script in scripts[2:]))
    ledger = MemoryLedger()

    async def ask(duet):
        try:
            return await duet.chat("q", tenant="a", budget=Budget(signal_tokens=20, answer_tokens=20))
        except BudgetExceeded as error:
            return error.reply
        except DuetError:
            return None

    async def main():
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=limit, generator_tokens=limit))
        async with AsyncDuetClient(reasoner, generator, ledger=ledger, retry=AT_ONCE) as duet:
            await asyncio.gather(*(ask(duet) for _ in range(requests)))
        return await ledger.balance("tenant:a"), await ledger.entries()

    balance, entries = asyncio.run(main())
    assert balance.held == Amount()
    assert balance.spent.reasoner_tokens - balance.overrun.reasoner_tokens <= limit
    assert balance.spent.generator_tokens - balance.overrun.generator_tokens <= limit
    assert balance.spent.reasoner_tokens == sum(entry.reasoner_tokens for entry in entries)
    assert balance.spent.requests <= requests
    assert reasoner.open_calls == generator.open_calls == 0


async def test_a_ledger_named_by_its_url_is_opened_and_closed_by_the_client(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with pair(ledger=url) as duet:
        reply = await duet.chat("q", tenant="a")
    async with SqliteLedger(tmp_path / "ledger.db") as ledger:
        assert (await ledger.balance("tenant:a")).spent.reasoner_tokens == reply.usage.reasoner.total_tokens
    with pytest.raises(LedgerError):
        await duet._ledger.balance("tenant:a")


async def test_a_ledger_that_is_an_object_stays_open():
    ledger = MemoryLedger()
    async with pair(ledger=ledger) as duet:
        await duet.chat("q", tenant="a")
    assert (await ledger.balance("tenant:a")).spent.requests == 1


def test_what_is_no_ledger_is_refused():
    with pytest.raises(
        ConfigError,
        match="a ledger must be a URL, a LedgerStore or an instance of a BaseLedger, got an object of type int",
    ):
        pair(ledger=3)


async def test_the_settings_name_the_ledger(tmp_path):
    settings = load_settings(reasoner="scripted/a", generator="scripted/b", ledger=f"sqlite:///{tmp_path}/ledger.db")
    async with AsyncDuetClient(settings=settings) as duet:
        await duet.chat("q", tenant="a")
    async with SqliteLedger(tmp_path / "ledger.db") as ledger:
        assert (await ledger.balance("tenant:a")).spent.requests == 1


async def test_a_settlement_is_not_lost_however_often_its_request_is_cancelled():
    class Slow(MemoryLedger):
        settling = False

        async def settle(self, *arguments, **options):
            self.settling = True
            await asyncio.sleep(0.05)
            await super().settle(*arguments, **options)

    ledger = Slow()
    async with pair(answer=Script("d e", stall_after=1), ledger=ledger) as duet:
        asking = asyncio.create_task(duet.chat("q", mode="generator", tenant="a"))
        await asyncio.sleep(0.05)
        asking.cancel()
        while not ledger.settling:
            await asyncio.sleep(0)
        for _ in range(2):
            asking.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await asking
    balance = await ledger.balance("tenant:a")
    assert (balance.held.generator_tokens, balance.spent.generator_tokens) == (0, 2)


async def test_a_ledger_that_does_not_answer_delays_no_deadline():
    class Slow(MemoryLedger):
        async def hold(self, *arguments, **options):
            await asyncio.sleep(10)
            return await super().hold(*arguments, **options)

    ledger, start = Slow(), time.monotonic()
    async with pair(ledger=ledger) as duet:
        with pytest.raises(DeadlineExceeded):
            await duet.chat("q", mode="generator", tenant="a", budget=Budget(deadline_s=0.05))
    assert time.monotonic() - start < 5
    assert (await ledger.balance("tenant:a")).held == Amount()
