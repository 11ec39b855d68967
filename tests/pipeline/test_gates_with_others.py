"""Gates by first tokens and probes beside what else a client may have: a ledger, an agent's run, a second pair."""

from dataclasses import replace

import pytest
from pipeline.scenes import DOUBT, GUIDED, SURE, TEN, answering, check, duet, events_of, kinds
from support import agents

from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Amount, Limit, MemoryLedger
from duet_sdk.cache import MemorySignalCache
from duet_sdk.errors import BudgetExceeded, ConnectFailed
from duet_sdk.events import FellBack
from duet_sdk.gate import Confidence, Race
from duet_sdk.policies import FailurePolicy, Progressive, RunScope
from duet_sdk.reply import GateDecision

RACE, BEFORE = Race(first_tokens=4), Confidence(first_tokens=4)
BOTH = pytest.mark.parametrize("gate", [RACE, BEFORE], ids=["race", "confidence"])
LONG = Script("s1 s2 s3 s4 s5 s6 s7 s8", token_ids=True, stall_after=2)


def down():
    return ConnectFailed("no answer", backend="scripted", model="lines")


async def balanced(ledger, reply, scope="tenant:a"):
    balance = await ledger.balance(scope)
    assert balance.held == Amount()
    assert balance.spent == Amount(
        reply.cost.usd, reply.usage.reasoner.total_tokens, reply.usage.generator.total_tokens, requests=1
    )


@BOTH
@pytest.mark.parametrize("sure", [SURE, DOUBT])
async def test_winner_and_loser_are_charged_to_the_ledger(gate, sure):
    ledger = MemoryLedger()
    reasoner = Scripted(LONG if sure is SURE else Script("the signal", token_s=0.01, token_ids=True))
    _, reply = await events_of(duet(reasoner, answering(sure), gate=gate, ledger=ledger), tenant="a")
    await balanced(ledger, reply)
    booked = {(entry.facts.stage, entry.facts.kind) for entry in await ledger.entries()}
    assert booked == {(attempt.stage, attempt.kind) for attempt in reply.receipt.attempts}


async def test_probes_of_a_growing_signal_are_charged_to_the_ledger():
    ledger = MemoryLedger()
    big = Scripted(Script("One is it. Two is it. Three is it.", token_s=0.01, token_ids=True))
    client = duet(big, answering(guided=DOUBT), progressive=Progressive(4, probe_tokens=1, share=1.0), ledger=ledger)
    _, reply = await events_of(client, tenant="a")
    await balanced(ledger, reply)
    assert ("probe", True) in kinds(reply)


async def test_a_ledger_without_room_for_the_try_lets_the_reasoner_be_asked():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=100))  # an answer is held with 1,024
    client = duet(Scripted("the signal"), answering(SURE), gate=RACE, ledger=ledger)
    async with client, client.stream("q", tenant="a") as run:
        with pytest.raises(BudgetExceeded):  # it is the guided answer that there is no room for, either
            async for _ in run:
                pass
    assert run.reply.gate == GateDecision(True, "race", reason="the budget leaves no room for the generator to try")
    assert run.reply.signal.text == "the signal"
    assert (await ledger.balance("tenant:a")).held == Amount()


async def test_a_try_that_takes_the_reasoners_room_is_given_up():
    class OneHold(MemoryLedger):
        """Has room for one attempt at a time."""

        async def hold(self, scopes, amount, **options):
            if amount.reasoner_tokens and (await self.balance("tenant:a")).held.generator_tokens:
                await self.set_limit("tenant:a", Limit(reasoner_tokens=1))
            else:
                await self.set_limit("tenant:a", Limit(reasoner_tokens=10**6))
            return await super().hold(scopes, amount, **options)

    ledger = OneHold()
    reasoner, generator = Scripted("the signal"), answering(SURE, token_s=0.02)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE, ledger=ledger), tenant="a")
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (GUIDED, "pair")
    assert reply.gate.reason == "the budget leaves no room for the generator to try"
    await balanced(ledger, reply)


@BOTH
async def test_the_other_pair_takes_over_without_the_first_ones_gate(gate):
    broken = Scripted(Script(error=down()))
    other = Scripted("the other signal"), Scripted("the other answer")
    events, reply = await events_of(duet(broken, broken, gate=gate, on_failure=FailurePolicy(fallback_pair=other)))
    assert (reply.text, reply.served_by) == ("the other answer", "fallback_pair")
    assert [event.served_by for event in events if isinstance(event, FellBack)] == ["fallback_pair"]


@BOTH
async def test_a_chain_of_generators_goes_on_with_the_second_where_an_adopted_answer_fails(gate):
    first = Scripted(Script(TEN, error=down(), fail_after=6, logprob=SURE))
    second = Scripted("the second's answer")
    async with duet(Scripted(LONG), [first, second], gate=gate) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by) == ("the second's answer", "generator")
    assert ("answer", True) in kinds(reply)


async def test_a_cached_signal_ends_the_race_and_costs_no_reasoner():
    async with MemorySignalCache() as cache:
        reasoner = Scripted("the signal")
        async with duet(reasoner, answering(DOUBT, token_s=0.01), gate="always", signal_cache=cache) as client:
            await client.chat("q")
            reply = await client.chat("q", gate=RACE)
    assert (reply.served_by, reply.signal.text, len(reasoner.calls)) == ("cache", "the signal", 1)
    assert reply.gate.reason == "the signal came before the generator's first tokens"


async def run_of_two(generator, *, gate, scope=None):
    reasoner = Scripted(Script("the plan", token_s=0.01))
    options = {} if scope is None else {"signal_scope": scope}
    async with duet(reasoner, generator, gate=gate, **options) as client:
        first = await client.chat([agents.TASK], tools=[agents.READ])
        messages = agents.history("contents", signals=[first.message.signal])
        return first, await client.chat(messages, tools=[agents.READ]), reasoner


@BOTH
async def test_in_a_run_with_its_signal_a_sure_generator_goes_on_with_it(gate):
    generator = Scripted(
        Script(tool_calls=(agents.call(0),), text="I will read", logprob=DOUBT),
        Script(tool_calls=(agents.call(0),), text="I will read"),
        Script("done"),
    )
    first, second, reasoner = await run_of_two(generator, gate=gate)
    assert (first.gate.ask, first.signal.text, first.served_by) == (True, "the plan", "pair")
    assert (second.gate.policy, second.gate.ask, second.text) == (gate.name, False, "done")
    assert (second.signal.text, second.served_by) == ("the plan", "pair")
    assert len(reasoner.calls) == 1


@BOTH
async def test_a_sure_generator_answers_a_turn_of_a_run_alone(gate):
    generator = Scripted(Script(tool_calls=(agents.call(0),), text="I will read it", logprob=SURE))
    first, second, reasoner = await run_of_two(generator, gate=gate)
    for reply in (first, second):
        assert (reply.gate.ask, reply.served_by, reply.signal.text) == (False, "generator", "")
    assert len(reasoner.calls) == (2 if gate is RACE else 0)


async def test_a_run_that_has_used_its_calls_has_no_race():
    generator = Scripted(Script(tool_calls=(agents.call(0),), text="I will read it", logprob=SURE))
    scope = replace(RunScope(), most_calls=1)
    _, second, reasoner = await run_of_two(generator, gate=RACE, scope=scope)
    assert len(reasoner.calls) == 1
    assert second.gate.policy == "run"
    assert "used its limit of 1 calls" in second.gate.reason
    assert second.served_by == "generator"
