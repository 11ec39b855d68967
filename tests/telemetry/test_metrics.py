"""What is counted and measured, and by which attributes."""

from __future__ import annotations

from decimal import Decimal

import pytest

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Limit, MemoryLedger
from duet_sdk.cache import MemorySignalCache
from duet_sdk.errors import ConnectFailed, DeadlineExceeded, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.pricing import TokenPrice

PRICES = {
    "scripted/big": TokenPrice(Decimal("1"), Decimal("10")),
    "scripted/small": TokenPrice(Decimal("0.1"), Decimal("1")),
}
REFUSED = ConnectFailed("no", backend="scripted", model="big")
BROKEN = StreamBroken("cut", backend="scripted", model="big")


def pair(*signals, answers=("d e",), **options):
    return AsyncDuetClient(
        Scripted(*(signals or ("a b c",)), model="big", price=None),
        Scripted(*answers, model="small", price=None),
        prices=PRICES,
        **options,
    )


def by(points, *names):
    return {tuple(point.attributes[name] for name in names): point for point in points}


async def test_tokens_are_measured_by_stage_and_kind(numbers):
    async with pair() as duet:
        reply = await duet.chat("one two")
    found = by(numbers["gen_ai.client.token.usage"], "duet.stage", "gen_ai.token.type")
    assert {key: point.sum for key, point in found.items()} == {
        ("reasoner", "input"): reply.usage.reasoner.input_tokens,
        ("reasoner", "output"): 3,
        ("generator", "input"): reply.usage.generator.input_tokens,
        ("generator", "output"): 2,
    }
    assert found["reasoner", "output"].attributes["gen_ai.request.model"] == "big"


async def test_tokens_that_nobody_reported_are_not_measured(numbers):
    async with pair(Script("a b c", usage="none")) as duet:
        await duet.chat("q")
    assert {point.attributes["duet.stage"] for point in numbers["gen_ai.client.token.usage"]} == {"generator"}
    spent = by(numbers["duet.cost"], "duet.stage")
    assert spent["reasoner",].attributes["duet.cost.estimated"] is True


async def test_money_is_counted_by_stage(numbers):
    async with pair() as duet:
        reply = await duet.chat("one two")
    found = by(numbers["duet.cost"], "duet.stage", "gen_ai.request.model")
    assert {key: Decimal(str(point.value)) for key, point in found.items()} == {
        ("reasoner", "big"): reply.cost.reasoner_usd,
        ("generator", "small"): reply.cost.generator_usd,
    }


async def test_durations_are_measured_by_stage_and_error(numbers):
    async with pair(Script(error=REFUSED), "a", retry=Retry(attempts=2, first_wait_s=0)) as duet:
        await duet.chat("q")
    points = numbers["gen_ai.client.operation.duration"]
    assert {(p.attributes["duet.stage"], p.attributes.get("error.type")): p.count for p in points} == {
        ("reasoner", "ConnectFailed"): 1,
        ("reasoner", None): 1,
        ("generator", None): 1,
    }
    (retried,) = numbers["duet.retries"]
    assert (retried.value, dict(retried.attributes)) == (1, {"duet.stage": "reasoner", "duet.discarded": False})


async def test_first_chunks_and_first_answers_are_measured(numbers):
    async with pair() as duet:
        reply = await duet.chat("q")
    chunks = by(numbers["gen_ai.client.operation.time_to_first_chunk"], "duet.stage")
    assert chunks["generator",].sum == reply.receipt.attempts[1].first_token_s
    (answer,) = numbers["duet.time_to_first_answer"]
    assert answer.sum == reply.receipt.first_answer_s
    assert answer.attributes["duet.served_by"] == "pair"


async def test_requests_are_measured_by_mode_and_outcome(numbers):
    async with pair() as duet:
        await duet.chat("q")
        await duet.chat("q", mode="generator")
    found = by(numbers["gen_ai.invoke_workflow.duration"], "duet.mode", "duet.outcome", "duet.served_by")
    assert {key: point.count for key, point in found.items()} == {
        ("duet", "ok", "pair"): 1,
        ("generator", "ok", "generator"): 1,
    }


async def test_signals_are_measured_against_their_limit_and_cut_ones_counted(numbers):
    async with pair("a b c d e f", "a b") as duet:
        await duet.chat("q", budget=Budget(signal_tokens=4))
        await duet.chat("q", budget=Budget(signal_tokens=4))
    (tokens,), (share,), (cut,) = (
        numbers["duet.signal.tokens"],
        numbers["duet.signal.limit_used"],
        numbers["duet.signal.cut"],
    )
    assert (tokens.count, tokens.sum) == (2, 6)
    assert (share.min, share.max) == (0.5, 1.0)
    assert cut.value == 1


async def test_a_signal_from_the_cache_is_not_measured_again(numbers):
    async with pair(signal_cache=MemorySignalCache()) as duet:
        await duet.chat("q")
        assert (await duet.chat("q")).served_by == "cache"
    assert [point.count for point in numbers["duet.signal.tokens"]] == [1]


async def test_decisions_of_gates_are_counted(numbers):
    async with pair() as duet:
        await duet.chat("q")
        await duet.chat("q", gate="never")
    found = by(numbers["duet.gate.decisions"], "duet.gate.policy", "duet.gate.decision")
    assert {key: point.value for key, point in found.items()} == {("always", "ask"): 1, ("never", "skip"): 1}


async def test_fallbacks_are_counted(numbers):
    async with pair(Script(error=REFUSED), retry=Retry(attempts=1)) as duet:
        await duet.chat("q")
    (point,) = numbers["duet.fallbacks"]
    assert dict(point.attributes) == {
        "duet.stage": "reasoner",
        "duet.served_by": "generator_fallback",
        "error.type": "ConnectFailed",
    }


async def test_refusals_are_counted_by_the_kind_of_scope_and_not_by_its_name(numbers):
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=1))
    async with pair(ledger=ledger) as duet:
        with pytest.raises(BudgetExceeded):
            await duet.chat("q", tenant="a")
    (point,) = numbers["duet.budget.refusals"]
    assert dict(point.attributes) == {"duet.budget.scope": "tenant", "error.type": "BudgetExceeded"}


async def test_a_deadline_is_counted_as_such(numbers):
    async with pair(answers=(Script("d e", stall_after=1),)) as duet:
        with pytest.raises(DeadlineExceeded):
            await duet.chat("q", mode="generator", budget=Budget(deadline_s=0.05))
    (point,) = numbers["duet.budget.refusals"]
    assert point.attributes["error.type"] == "DeadlineExceeded"


async def test_discarded_tokens_are_counted(numbers):
    broken = Script("a b c d", error=BROKEN, fail_after=2)
    async with pair(broken, "a b c", retry=Retry(attempts=2, first_wait_s=0)) as duet:
        reply = await duet.chat("q")
    (point,) = numbers["duet.tokens.discarded"]
    assert (point.value, point.attributes["duet.stage"]) == (
        reply.receipt.discarded.usage.reasoner.total_tokens,
        "reasoner",
    )


async def test_no_metric_has_a_label_of_a_request(numbers):
    async with pair() as duet:
        await duet.chat("q", session="7", user="ann", tenant="acme", metadata={"key": "word"})
    told = repr([dict(point.attributes) for points in numbers.points().values() for point in points])
    assert not [word for word in ("ann", "acme", "word", "session") if word in told]
