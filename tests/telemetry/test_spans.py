"""One request is one trace: a root, a gate, and a span for every attempt, whose numbers add up."""

from __future__ import annotations

import asyncio
import gc
from decimal import Decimal

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded, DuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Limit, MemoryLedger
from duet_sdk.errors import ConnectFailed, StreamBroken
from duet_sdk.events import AnswerDelta
from duet_sdk.gate import Never
from duet_sdk.policies import Retry
from duet_sdk.pricing import TokenPrice
from duet_sdk.reply import GateDecision
from duet_sdk.request import Request

PRICES = {
    "scripted/big": TokenPrice(Decimal("1.25"), Decimal("10")),
    "scripted/small": TokenPrice(Decimal("0.1"), Decimal("0.4")),
}
AT_ONCE = Retry(attempts=2, first_wait_s=0)
REFUSED = ConnectFailed("no", backend="scripted", model="big")
BROKEN = StreamBroken("cut", backend="scripted", model="big")


def pair(*signals, answers=("d e",), **options):
    return AsyncDuetClient(
        Scripted(*(signals or ("a b c",)), model="big", price=None),
        Scripted(*answers, model="small", price=None),
        prices=PRICES,
        **options,
    )


def outcomes(found):
    return [span.attributes["duet.outcome"] for span in found]


async def test_a_request_is_a_root_with_a_gate_and_an_attempt_for_each_stage(spans):
    async with pair() as duet:
        await duet.chat("one two", budget=Budget(signal_tokens=8))
    root = spans.root
    assert root.parent is None
    assert [span.parent.span_id for span in (spans.gate, *spans.attempts)] == [root.context.span_id] * 3
    assert {span.context.trace_id for span in spans.all} == {root.context.trace_id}
    assert root.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert root.attributes["duet.mode"] == "duet"
    assert root.attributes["duet.served_by"] == "pair"
    assert root.attributes["duet.outcome"] == "ok"
    assert not [name for name in root.attributes if name.startswith("gen_ai.usage.")]
    assert spans.gate.attributes["duet.gate.policy"] == "always"
    assert spans.gate.attributes["duet.gate.decision"] == "ask"
    signal, answer = spans.attempts
    assert (signal.name, answer.name) == ("chat big", "chat small")
    assert (signal.attributes["duet.stage"], answer.attributes["duet.stage"]) == ("reasoner", "generator")
    assert signal.attributes["duet.signal.tokens"] == 3
    assert signal.attributes["duet.signal.limit"] == 8
    assert signal.attributes["duet.signal.truncated"] is False
    assert signal.kind == SpanKind.INTERNAL  # the model runs in this process
    assert signal.instrumentation_scope.name == "duet_sdk"
    assert signal.instrumentation_scope.schema_url.startswith("https://opentelemetry.io/schemas/")


async def test_the_trace_hangs_under_the_application_s_own_span(spans):
    with spans.provider.get_tracer("app").start_as_current_span("work") as work:
        async with pair() as duet:
            await duet.chat("q")
    assert spans.root.parent.span_id == work.get_span_context().span_id


def test_a_synchronous_client_keeps_the_application_s_span(spans):
    with spans.provider.get_tracer("app").start_as_current_span("work") as work:
        with DuetClient("scripted/a", "scripted/b") as duet, duet.stream("q") as run:
            for _ in run:
                pass
    assert spans.root.parent.span_id == work.get_span_context().span_id


@pytest.mark.parametrize("n", [1, 3])
async def test_the_spans_add_up_to_the_reply_and_the_ledger(spans, n):
    ledger = MemoryLedger()
    async with pair(Script("a b c d", error=BROKEN, fail_after=2), "a b c", ledger=ledger, retry=AT_ONCE) as duet:
        reply = await duet.chat("one two", n=n, tenant="a")
    by_stage = {
        stage: [span.attributes for span in spans.attempts if span.attributes["duet.stage"] == stage]
        for stage in ("reasoner", "generator")
    }
    for stage, found in by_stage.items():
        used = getattr(reply.usage, stage)
        # What was cut off was counted by us, not told by the server.
        assert sum(_tokens(one, "input") for one in found) == used.input_tokens
        assert sum(_tokens(one, "output") for one in found) == used.output_tokens
        assert sum(_usd(one) for one in found) == getattr(reply.cost, f"{stage}_usd")
    total = sum(_usd(span.attributes) for span in spans.attempts)
    assert total == reply.cost.usd == (await ledger.balance("tenant:a")).spent.usd
    root = spans.root.attributes
    assert root["duet.usage.total_tokens"] == reply.usage.total_tokens
    assert _usd(root) == reply.cost.usd
    assert root["duet.usage.reasoner.output_tokens"] == reply.usage.reasoner.output_tokens


def _tokens(attributes, kind):
    return attributes.get(f"gen_ai.usage.{kind}_tokens", attributes.get(f"duet.usage.{kind}_tokens"))


def _usd(attributes):
    return Decimal(str(attributes["duet.cost.usd"])).quantize(Decimal("1e-9"))


async def test_usage_that_never_came_is_left_unset_and_its_cost_marked_as_estimated(spans):
    async with pair(Script("a b c", usage="none")) as duet:
        reply = await duet.chat("q")
    signal, answer = (span.attributes for span in spans.attempts)
    assert "gen_ai.usage.output_tokens" not in signal
    assert signal["duet.usage.output_tokens"] == reply.usage.reasoner.output_tokens == 3
    assert signal["duet.cost.estimated"] is True
    assert answer["gen_ai.usage.output_tokens"] == 2
    assert spans.root.attributes["duet.cost.estimated"] is True


async def test_an_unknown_price_is_no_price_of_zero(spans):
    async with AsyncDuetClient(Scripted("a", price=None), Scripted("b", price=None)) as duet:
        await duet.chat("q")
    assert not [span for span in spans.all if "duet.cost.usd" in span.attributes]


async def test_every_try_of_a_model_is_a_span_of_its_own(spans):
    async with pair(Script(error=REFUSED), "a b", retry=AT_ONCE) as duet:
        await duet.chat("q")
    failed, again, answer = spans.attempts
    assert [span.attributes["duet.attempt"] for span in (failed, again, answer)] == [1, 2, 1]
    assert failed.status.status_code == StatusCode.ERROR
    assert failed.attributes["error.type"] == "ConnectFailed"
    assert "gen_ai.usage.input_tokens" not in failed.attributes
    assert again.status.status_code == StatusCode.UNSET
    (event,) = spans.root.events
    assert (event.name, event.attributes["duet.stage"]) == ("duet.retry", "reasoner")


async def test_a_fallback_is_an_event_of_the_root(spans):
    async with pair(Script(error=REFUSED), retry=Retry(attempts=1)) as duet:
        reply = await duet.chat("q")
    assert reply.served_by == spans.root.attributes["duet.served_by"] == "generator_fallback"
    assert spans.root.status.status_code == StatusCode.UNSET
    (event,) = spans.root.events
    assert event.name == "duet.fallback"
    assert event.attributes["error.type"] == "ConnectFailed"
    assert event.attributes["duet.model"] == "scripted/small"


async def test_a_failed_request_has_the_error_s_type_on_its_root(spans):
    async with pair(Script(error=REFUSED), retry=Retry(attempts=1), on_failure="raise") as duet:
        with pytest.raises(ConnectFailed):
            await duet.chat("q")
    assert spans.root.status.status_code == StatusCode.ERROR
    assert spans.root.status.description is None
    assert spans.root.attributes["error.type"] == "ConnectFailed"
    assert outcomes([spans.root, *spans.attempts]) == ["error", "error"]
    assert "duet.served_by" not in spans.root.attributes


async def test_a_cancelled_request_ends_each_span_once_as_cancelled(spans):
    reasoner = Scripted(Script("a b c", stall_after=1), model="big")
    async with AsyncDuetClient(reasoner, "scripted/b") as duet:
        asking = asyncio.create_task(duet.chat("q"))
        while not reasoner.open_calls:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert outcomes([spans.root, *spans.attempts]) == ["cancelled", "cancelled"]
    assert [span.status.status_code for span in spans.all] == [StatusCode.UNSET] * 3


async def test_a_consumer_that_breaks_out_ends_each_span_once_as_cancelled(spans):
    async with pair(answers=("d e f",)) as duet, duet.stream("q") as run:
        async for event in run:
            if isinstance(event, AnswerDelta):
                break
    assert outcomes([spans.root, *spans.attempts]) == ["cancelled", "ok", "cancelled"]


async def test_a_run_that_is_forgotten_ends_each_span_once_when_it_is_collected(spans):
    duet = pair(answers=("d e f",))
    run = duet.stream("q")
    await run.__aenter__()
    while not isinstance(await anext(run), AnswerDelta):
        pass
    del run
    gc.collect()
    for _ in range(20):  # the loop closes the generators that were collected
        await asyncio.sleep(0)
    assert outcomes([spans.root, *spans.attempts]) == ["cancelled", "ok", "cancelled"]
    await duet.aclose()


async def test_a_run_that_was_read_to_its_last_event_and_then_left_is_ok(spans):
    async with pair() as duet, duet.stream("q") as run:
        async for event in run:
            if type(event).__name__ == "Done":
                break
    assert outcomes([spans.root]) == ["ok"]


async def test_a_run_that_never_began_has_no_span(spans):
    async with pair() as duet, duet.stream("q"):
        pass
    assert spans.all == []


async def test_a_gate_that_crashes_has_a_failed_span_and_the_request_goes_on(spans):
    class Crashing:
        name = "mine"

        async def decide(self, request: Request) -> GateDecision:
            raise ZeroDivisionError(request.messages[0].text)

    async with pair(gate=Crashing()) as duet:
        await duet.chat("a secret")
    assert spans.gate.status.status_code == StatusCode.ERROR
    assert spans.gate.attributes["error.type"] == "ZeroDivisionError"
    assert spans.gate.attributes["duet.gate.decision"] == "ask"
    assert outcomes([spans.root]) == ["ok"]
    assert "secret" not in spans.written()


async def test_a_gate_that_ends_the_request_has_an_ended_span(spans):
    class Refusing:
        name = "mine"

        async def decide(self, request: Request) -> GateDecision:
            raise BudgetExceeded("no")

    async with pair(gate=Refusing()) as duet:
        with pytest.raises(BudgetExceeded):
            await duet.chat("q")
    assert spans.gate.attributes["error.type"] == "BudgetExceeded"
    assert outcomes([spans.root]) == ["error"]
    assert spans.attempts == []


async def test_what_a_gate_traces_itself_hangs_under_its_span(spans):
    class Calling:
        name = "mine"

        async def decide(self, request: Request) -> GateDecision:
            with trace.get_tracer("app").start_as_current_span("lookup"):
                await asyncio.sleep(0)
            return GateDecision(ask=False, policy=self.name, score=0.9, threshold=0.5)

    async with pair(gate=Calling()) as duet:
        await duet.chat("q")
    (lookup,) = spans.named("lookup")
    assert lookup.parent.span_id == spans.gate.context.span_id
    assert spans.gate.attributes["duet.gate.decision"] == "skip"
    assert (spans.gate.attributes["duet.gate.score"], spans.gate.attributes["duet.gate.threshold"]) == (0.9, 0.5)


async def test_a_request_beyond_its_budget_says_so_on_its_root(spans):
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10))
    async with pair(ledger=ledger) as duet:
        with pytest.raises(BudgetExceeded):
            await duet.chat("q", tenant="a", budget=Budget(total_tokens=100_000, cost_usd="0.5"))
    root = spans.root
    (event,) = root.events
    assert (event.name, event.attributes["duet.budget.scope"]) == ("duet.budget.exceeded", "tenant:a")
    assert root.attributes["duet.budget.exhausted"] is True
    assert root.attributes["duet.budget.tokens.limit"] == 100_000
    assert root.attributes["duet.budget.tokens.consumed"] == 0
    assert root.attributes["duet.budget.cost_usd.limit"] == 0.5
    assert spans.attempts == []


async def test_labels_are_on_every_span(spans):
    async with pair() as duet:
        await duet.chat("q", session="7", user="ann", tenant="acme")
    assert len(spans.all) == 4
    for span in spans.all:
        assert span.attributes["session.id"] == span.attributes["gen_ai.conversation.id"] == "7"
        assert span.attributes["user.id"] == "ann"
        assert span.attributes["duet.tenant"] == "acme"


async def test_ledger_entries_bear_the_trace_s_id(spans):
    ledger = MemoryLedger()
    async with pair(ledger=ledger) as duet:
        await duet.chat("q")
    ids = {entry.facts.trace_id for entry in await ledger.entries()}
    assert ids == {format(spans.root.context.trace_id, "032x")}


async def test_no_span_is_current_while_the_consumer_has_its_turn(spans):
    async with pair() as duet, duet.stream("q") as run:
        async for _ in run:
            assert trace.get_current_span() is trace.INVALID_SPAN
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_generator_alone_has_no_gate_and_one_attempt(spans):
    async with pair() as duet:
        await duet.chat("q", mode="generator")
    assert spans.named("duet.gate") == []
    assert [span.attributes["duet.stage"] for span in spans.attempts] == ["generator"]


async def test_a_gate_that_skips_leaves_the_generator_s_attempt(spans):
    async with pair(gate=Never()) as duet:
        await duet.chat("q")
    assert spans.gate.attributes["duet.gate.decision"] == "skip"
    assert len(spans.attempts) == 1


async def test_runs_at_the_same_time_have_traces_of_their_own(spans):
    async with pair(Script("a b c", token_s=0.001)) as duet:
        await asyncio.gather(*(duet.chat("q") for _ in range(5)))
    roots = {span.context.span_id: span.context.trace_id for span in spans.named("invoke_workflow")}
    assert len(set(roots.values())) == 5
    assert sorted(span.parent.span_id for span in spans.attempts) == sorted([*roots] * 2)


async def test_spans_and_events_have_who_and_where_failed_and_our_own_words(spans):
    gone = "http://127.0.0.1:9/v1"
    async with AsyncDuetClient(f"vllm/m@{gone}", "scripted/alone", retry=Retry(attempts=1)) as duet:
        await duet.chat("q")
    (failed, _), (event,) = spans.attempts, spans.root.events
    assert f"vllm/m at {gone}: could not connect" in failed.attributes["duet.error"]
    assert failed.status.description == failed.attributes["duet.error"] == event.attributes["duet.error"]


async def test_the_words_of_a_backend_of_the_user_s_own_are_not_told(spans):
    async with pair(Script(error=REFUSED), retry=Retry(attempts=1)) as duet:
        await duet.chat("q")
    failed = next(span for span in spans.attempts if "error.type" in span.attributes)
    assert failed.attributes["duet.error"] == spans.root.events[0].attributes["duet.error"] == "scripted/big"
