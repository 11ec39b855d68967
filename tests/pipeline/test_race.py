"""The generator tries alone, beside the reasoner or before it: who wins, who is stopped, and who pays."""

import asyncio
import math

import pytest
from pipeline.scenes import DOUBT, GUIDED, SURE, TEN, answering, check, duet, events_of, kinds

from duet_sdk import Budget, BudgetExceeded, Sampling
from duet_sdk.backends.base import Capabilities
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError, ConnectFailed, DeadlineExceeded, RateLimited, SignalError
from duet_sdk.events import AnswerDelta, AttemptStarted, FellBack, GateDecided, SignalDone
from duet_sdk.gate import Confidence, Race, TokenGate
from duet_sdk.policies import GateConfig, Ladder, Retry
from duet_sdk.pricing import TokenPrice
from duet_sdk.reply import GateDecision, Signal, StageUsage
from duet_sdk.types import ToolCall

RACE, BEFORE = Race(first_tokens=4), Confidence(first_tokens=4)
BOTH = pytest.mark.parametrize("gate", [RACE, BEFORE], ids=["race", "confidence"])
LONG = Script("s1 s2 s3 s4 s5 s6 s7 s8", token_ids=True, stall_after=2)


def down(error=ConnectFailed):
    return error("no answer", backend="scripted", model="lines")


def sent(reply):
    """Attempts that reached a model: one that was left as it began costs nothing."""
    return sum(attempt.usage.total_tokens > 0 for attempt in reply.receipt.attempts)


async def test_a_sure_generator_wins_the_race_and_the_reasoner_is_stopped():
    reasoner, generator = Scripted(LONG), answering(SURE)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by, reply.finish_reason) == (TEN, "generator", "stop")
    assert (reply.signal, reply.handoff) == (Signal(), None)
    assert reasoner.cancelled == 1
    assert len(generator.calls) == 1  # what was tried is the answer: nothing is generated twice
    assert kinds(reply) == [("signal", True), ("answer", False)]
    assert reply.usage.reasoner.output_tokens == 2
    assert reply.receipt.discarded.usage.reasoner == reply.usage.reasoner
    assert reply.gate.policy == "race"
    assert reply.gate.score == pytest.approx(1 - math.exp(SURE))
    assert (reply.gate.ask, reply.gate.threshold) == (False, 0.2)
    assert reply.gate.reason == "the generator is sure of its first 4 tokens"


async def test_a_generator_in_doubt_loses_the_race_and_is_charged_as_a_probe():
    reasoner, generator = Scripted(Script("the signal", token_ids=True, token_s=0.01)), answering(DOUBT, stall_after=5)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by, reply.signal.text) == (GUIDED, "pair", "the signal")
    assert kinds(reply) == [("probe", True), ("signal", False), ("answer", False)]
    probe = reply.receipt.attempts[0]
    assert (probe.usage.output_tokens, probe.overlap_tokens, probe.stage) == (4, 0, "generator")
    assert reply.gate.ask
    assert reply.gate.score == pytest.approx(1 - math.exp(DOUBT))
    assert generator.cancelled == 1


async def test_both_are_at_work_at_once_in_a_race():
    at_once = asyncio.Barrier(2)

    class Meets(Scripted):
        async def stream(self, call):
            await at_once.wait()
            async for chunk in super().stream(call):
                yield chunk

    _, reply = await events_of(duet(Meets(LONG), Meets(Script(TEN, logprob=SURE)), gate=RACE))
    assert reply.text == TEN


async def test_confidence_asks_no_reasoner_where_the_generator_is_sure():
    reasoner, generator = Scripted("s"), answering(SURE)
    events, reply = await events_of(duet(reasoner, generator, gate=BEFORE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by, reasoner.calls) == (TEN, "generator", [])
    assert reply.usage.reasoner == StageUsage()


async def test_confidence_asks_the_reasoner_where_the_generator_is_in_doubt():
    reasoner, generator = Scripted("the signal"), answering(DOUBT)
    events, reply = await events_of(duet(reasoner, generator, gate=BEFORE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (GUIDED, "pair")
    assert kinds(reply) == [("probe", True), ("signal", False), ("answer", False)]


@BOTH
async def test_the_first_tokens_are_held_back_until_the_verdict(gate):
    events, reply = await events_of(duet(Scripted(LONG), answering(SURE), gate=gate))
    kinds_of = [type(event) for event in events if isinstance(event, GateDecided | AnswerDelta)]
    assert kinds_of == [GateDecided] + [AnswerDelta] * 10
    assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == TEN
    assert reply.receipt.first_answer_s is not None


@BOTH
async def test_nothing_of_a_doubted_answer_is_shown(gate):
    reasoner = Scripted(Script("the signal", token_s=0.01))
    events, _ = await events_of(duet(reasoner, answering(DOUBT), gate=gate))
    assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == GUIDED


async def test_a_signal_that_is_there_first_ends_the_race():
    reasoner, generator = Scripted("the signal"), answering(SURE, stall_after=0)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (GUIDED, "pair")
    assert reply.gate == GateDecision(True, "race", reason="the signal came before the generator's first tokens")


async def test_where_the_reasoner_fails_the_try_goes_on_in_its_place_sure_or_not():
    reasoner, generator = Scripted(Script(error=down())), answering(DOUBT, token_s=0.01)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (TEN, "generator_fallback")
    assert len(generator.calls) == 1
    assert [event.error_type for event in events if isinstance(event, FellBack)] == ["ConnectFailed"]


async def test_a_reasoner_that_fails_after_the_verdict_leaves_the_generator_to_answer_alone():
    reasoner = Scripted(Script("s1 s2", error=down(), fail_after=2, token_s=0.02))
    generator = answering(DOUBT, stall_after=5)
    line = generator._lines[0]
    generator._lines = (line, Script("second try"))
    events, reply = await events_of(duet(reasoner, generator, gate=RACE))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == ("second try", "generator_fallback")
    assert kinds(reply) == [("probe", True), ("signal", True), ("answer", False)]


async def test_where_the_ladder_says_to_raise_the_try_is_stopped_first():
    reasoner, generator = Scripted(Script(error=down())), answering(SURE, stall_after=1)
    client = duet(reasoner, generator, gate=RACE, on_failure=Ladder(reasoner="raise"))
    with pytest.raises(ConnectFailed):
        await events_of(client)
    assert (generator.open_calls, generator.cancelled) == (0, 1)


async def test_a_mistake_in_the_reasoners_name_is_not_hidden_by_a_race():
    error = ConnectFailed("no such model", backend="scripted", model="lines", retryable=False)
    reasoner, generator = Scripted("s", connect_error=error), answering(SURE, stall_after=1)
    with pytest.raises(ConnectFailed, match="no such model"):
        await events_of(duet(reasoner, generator, gate=RACE))
    assert generator.open_calls == 0


@BOTH
async def test_a_generator_that_fails_while_it_tries_leaves_the_decision_to_yes(gate):
    lines = (Script("x", error=down(), fail_after=1), Script(GUIDED))
    reasoner, generator = Scripted(Script("the signal", token_s=0.01)), Scripted(*lines)
    events, reply = await events_of(duet(reasoner, generator, gate=gate))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (GUIDED, "pair")
    assert reply.gate == GateDecision(True, gate.name, reason="the generator failed with ConnectFailed")
    assert reply.receipt.attempts[0].error_type == "ConnectFailed"


@BOTH
async def test_an_unreachable_generator_leaves_the_request_to_the_ladder(gate):
    generator = Scripted("a", connect_error=down())
    reasoner = Scripted("the reasoner's own answer")
    events, reply = await events_of(duet(reasoner, generator, gate=gate))
    check(events, reply, reasoner, generator, unsent=1)
    assert (reply.served_by, reply.text) == ("reasoner_fallback", "the reasoner's own answer")
    assert reply.gate.reason == "the generator failed with ConnectFailed"


@BOTH
async def test_an_adopted_answer_that_breaks_off_starts_over_where_nothing_was_shown(gate):
    generator = Scripted(Script(TEN, error=down(), fail_after=8, logprob=SURE), Script("second try", logprob=SURE))
    reasoner = Scripted(LONG)
    async with duet(reasoner, generator, gate=gate, retry=Retry(attempts=2, first_wait_s=0)) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by) == ("second try", "generator")
    assert kinds(reply)[-2:] == [("answer", True), ("answer", False)]
    assert reasoner.open_calls == generator.open_calls == 0


@BOTH
async def test_a_generator_without_logprobs_is_refused_before_anything_is_spent(gate):
    reasoner = Scripted("s")
    generator = Scripted("a", capabilities=Capabilities(logprobs=False))
    with pytest.raises(ConfigError, match=r"scripted/lines reports no logprobs.*gate='heuristic'"):
        await events_of(duet(reasoner, generator, gate=gate))
    assert reasoner.calls == generator.calls == []


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@BOTH
async def test_logprobs_that_were_promised_and_do_not_come_count_as_yes(gate):
    class Silent(Scripted):
        async def stream(self, call):
            async for chunk in super().stream(call):
                chunk.logprobs = ()
                yield chunk

    reasoner, generator = Scripted(Script("the signal", token_s=0.01)), Silent(TEN)
    events, reply = await events_of(duet(reasoner, generator, gate=gate))
    check(events, reply, reasoner, generator)
    assert reply.gate == GateDecision(True, gate.name, reason="the generator reported no logprobs")
    assert (reply.served_by, reply.receipt.attempts[0].usage.output_tokens) == ("pair", 4)


@BOTH
async def test_logprobs_that_are_no_numbers_count_as_yes(gate):
    reasoner = Scripted(Script("the signal", token_s=0.01))
    _, reply = await events_of(duet(reasoner, answering(math.nan), gate=gate))
    assert reply.gate.reason == "the generator's logprobs are not numbers"
    assert reply.gate.score is None


@BOTH
async def test_an_answer_shorter_than_what_is_judged_is_judged_whole(gate):
    _, reply = await events_of(duet(Scripted(LONG), Scripted(Script("yes", logprob=SURE)), gate=gate))
    assert (reply.text, reply.served_by, reply.gate.ask) == ("yes", "generator", False)
    assert reply.gate.reason == "the generator is sure of its first 1 tokens"


@BOTH
async def test_an_empty_answer_counts_as_yes(gate):
    reasoner = Scripted(Script("the signal", token_s=0.01))
    _, reply = await events_of(duet(reasoner, Scripted("", GUIDED), gate=gate))
    assert (reply.text, reply.gate.reason) == (GUIDED, "the generator wrote nothing")


@BOTH
async def test_the_callers_logprobs_are_as_it_asked_for_them(gate):
    _, reply = await events_of(duet(Scripted(LONG), answering(SURE), gate=gate))
    assert reply.logprobs == ()
    _, reply = await events_of(duet(Scripted(LONG), answering(SURE), gate=gate), generator_params=Sampling(logprobs=1))
    assert len(reply.logprobs) == 10


@BOTH
async def test_several_answers_are_judged_by_the_first_and_all_go_on(gate):
    _, reply = await events_of(duet(Scripted(LONG), answering(SURE), gate=gate), n=3)
    assert reply.answers == (TEN, TEN, TEN)
    assert reply.served_by == "generator"


@BOTH
async def test_a_tool_call_may_win(gate):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = ToolCall("c1", "weather", "{}")
    generator = Scripted(Script("let me see", tool_calls=(call,), logprob=SURE))
    _, reply = await events_of(duet(Scripted(LONG), generator, gate=gate), tools=[tool])
    assert (reply.tool_calls, reply.finish_reason, reply.served_by) == ((call,), "tool_calls", "generator")


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@BOTH
async def test_what_is_tried_has_the_requests_format(gate):
    generator = answering(SURE)
    form = {"type": "json_object"}
    await events_of(duet(Scripted(LONG), generator, gate=gate), response_format=form)
    assert [call.response_format for call in generator.calls] == [form]


@pytest.mark.parametrize(("mode", "calls"), [("reasoner", (1, 0)), ("generator", (0, 1)), ("signal", (1, 0))])
async def test_other_modes_know_no_gate(mode, calls):
    reasoner, generator = Scripted("r"), answering(SURE)
    async with duet(reasoner, generator, gate=RACE) as client:
        reply = await client.chat("q", mode=mode)
    assert (len(reasoner.calls), len(generator.calls)) == calls
    assert reply.gate is None


@BOTH
async def test_a_consumer_that_leaves_ends_both(gate):
    reasoner, generator = Scripted(Script("s", stall_after=0)), answering(SURE, stall_after=2)
    client = duet(reasoner, generator, gate=gate)
    async with client, client.stream("q") as run:
        async for event in run:
            if isinstance(event, AttemptStarted) and event.stage == "generator":
                break
    assert reasoner.open_calls == generator.open_calls == 0
    assert run.reply.finish_reason == "cancelled"
    assert sent(run.reply) == len(reasoner.calls) + len(generator.calls)


@BOTH
@pytest.mark.parametrize("at", range(12))
async def test_a_stream_left_at_any_event_leaves_nothing_open(gate, at):
    reasoner, generator = Scripted(Script("s1 s2", token_ids=True)), answering(SURE)
    client = duet(reasoner, generator, gate=gate)
    async with client, client.stream("q") as run:
        for _ in range(at):
            await anext(run)
    assert reasoner.open_calls == generator.open_calls == 0
    assert sent(run.reply) == len(reasoner.calls) + len(generator.calls)
    assert len(asyncio.all_tasks()) == 1


@BOTH
async def test_a_cancelled_request_ends_both(gate):
    reasoner, generator = Scripted(Script("s", stall_after=0)), answering(SURE, stall_after=2)
    async with duet(reasoner, generator, gate=gate) as client:
        asking = asyncio.create_task(client.chat("q"))
        while not generator.open_calls:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert reasoner.open_calls == generator.open_calls == 0
    assert len(asyncio.all_tasks()) == 1


async def test_a_passed_deadline_ends_both():
    reasoner, generator = Scripted(Script("s", stall_after=0)), answering(SURE, stall_after=2)
    with pytest.raises(DeadlineExceeded):
        await events_of(duet(reasoner, generator, gate=RACE), budget=Budget(deadline_s=0.2, signal_deadline_s=0.19))
    assert reasoner.open_calls == generator.open_calls == 0


async def test_confidence_waits_no_longer_than_its_share_of_the_time():
    reasoner, generator = Scripted("the signal"), answering(SURE, stall_after=2)
    events, reply = await events_of(duet(reasoner, generator, gate=BEFORE), budget=Budget(deadline_s=0.8))
    check(events, reply, reasoner, generator)
    assert (reply.text, reply.served_by) == (GUIDED, "pair")
    assert reply.gate.reason == "the generator's first tokens did not arrive in time"


async def test_an_adopted_answer_has_all_of_the_requests_time():
    generator = answering(SURE, stall_after=8)
    client = duet(Scripted("s"), generator, gate=BEFORE)
    with pytest.raises(DeadlineExceeded) as late:
        await events_of(client, budget=Budget(deadline_s=0.3))
    assert late.value.reply.text == "a1 a2 a3 a4 a5 a6 a7 a8"
    assert late.value.spent >= 0.3


def gate_of_mine(judge, when="before"):
    class Mine:
        name, first_tokens = "mine", 4

        def __init__(self):
            self.when = when

        async def judge(self, request, tokens):
            return await judge(request, tokens)

    return Mine()


@pytest.mark.parametrize("when", ["before", "beside"])
async def test_a_gate_of_ones_own_sees_request_and_tokens(when):
    seen = []

    async def judge(request, tokens):
        seen.append((request.messages[-1].text, [token.token for token in tokens]))
        return GateDecision(False, "mine")

    gate = gate_of_mine(judge, when)
    assert isinstance(gate, TokenGate)
    _, reply = await events_of(duet(Scripted(LONG), answering(DOUBT), gate=gate))
    assert seen == [("why is it so?", ["a1", " a2", " a3", " a4"])]
    assert (reply.text, reply.gate) == (TEN, GateDecision(False, "mine"))


@pytest.mark.parametrize("when", ["before", "beside"])
@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (lambda: asyncio.Event().wait(), "the gate took longer than 0.05 s"),
        (lambda: asyncio.sleep(0, "yes"), "the gate returned a str"),
        (lambda: 1 / 0, "the gate failed with ZeroDivisionError"),
    ],
)
async def test_a_gate_of_ones_own_that_hangs_or_fails_counts_as_yes(when, judge, reason):
    async def broken(request, tokens):
        return await judge()

    reasoner, generator = Scripted(Script("the signal", token_s=0.1)), answering(SURE)
    client = duet(reasoner, generator, gate=gate_of_mine(broken, when), gate_deadline_s=0.05)
    events, reply = await events_of(client)
    check(events, reply, reasoner, generator)
    assert reply.gate == GateDecision(True, "mine", reason=reason)
    assert reply.text == GUIDED


async def test_a_request_takes_another_threshold_than_the_client():
    client = duet(Scripted("the signal"), answering(-0.5), gate="always")
    async with client:
        sure = await client.chat("q", gate=GateConfig("confidence", threshold=0.9, first_tokens=2))
        unsure = await client.chat("q", gate=GateConfig("confidence", threshold=0.1))
    assert (sure.served_by, unsure.served_by) == ("generator", "pair")


PRICES = {"scripted/big": TokenPrice(10, 50), "scripted/small": TokenPrice(1, 2)}


READ, SIGNAL, ANSWER = 51 + 54, 30, 50
"""Words that the reasoner and the generator read, and limits."""
PAIR = READ + 2 * SIGNAL + ANSWER


@pytest.mark.parametrize(
    ("total", "way"),
    [
        (PAIR + 54 + ANSWER, "beside"),
        (PAIR + 54 + ANSWER - 1, "before"),
        (PAIR + 54 + 4, "before"),
        (PAIR + 54 + 4 - 1, "not"),
    ],
)
async def test_a_budget_too_small_for_both_lets_the_generator_try_first_or_not_at_all(total, way):
    reasoner, generator = Scripted(LONG, "the signal", model="big"), answering(SURE)
    if way == "not":
        reasoner = Scripted("the signal", model="big")
    limits = Budget(total_tokens=total, signal_tokens=SIGNAL, answer_tokens=ANSWER)
    events, reply = await events_of(duet(reasoner, generator, gate=RACE, prices=PRICES), budget=limits)
    check(events, reply, reasoner, generator)
    assert reply.usage.total_tokens <= total
    told = {
        "beside": (1, "the generator is sure of its first 4 tokens"),
        "before": (
            0,
            "the generator is sure of its first 4 tokens; the budget has no room for both at once, so the generator "
            "tried first",
        ),
        "not": (1, "the budget leaves no room for the generator to try"),
    }[way]
    assert (len(reasoner.calls), reply.gate.reason) == told


async def test_a_signal_of_full_length_still_fits_after_a_generator_in_doubt():
    reasoner, generator = Scripted("s " * 40, model="big"), answering(DOUBT)
    limits = Budget(total_tokens=PAIR + 54 + 4, signal_tokens=SIGNAL, answer_tokens=ANSWER)
    _, reply = await events_of(duet(reasoner, generator, gate=BEFORE), budget=limits)
    assert (reply.signal.limit, reply.signal.tokens, reply.text) == (30, 30, GUIDED)


async def test_a_budget_too_small_for_a_pair_is_refused_before_the_generator_tries():
    reasoner, generator = Scripted("s"), answering(SURE)
    with pytest.raises(BudgetExceeded):
        await events_of(duet(reasoner, generator, gate=RACE), budget=Budget(total_tokens=20))
    assert reasoner.calls == generator.calls == []


async def test_the_reasoners_error_of_policy_ends_the_race():
    reasoner, generator = Scripted("s1 s2 s3"), answering(SURE, stall_after=1)
    client = duet(reasoner, generator, gate=RACE, on_cut="error")
    with pytest.raises(SignalError):
        await events_of(client, budget=Budget(signal_tokens=2))
    assert generator.open_calls == 0


async def test_a_generator_that_is_down_while_it_is_asked_again_falls_back():
    reasoner = Scripted("the signal", "the reasoner's own answer")
    generator = Scripted(Script(error=down(RateLimited)))
    events, reply = await events_of(duet(reasoner, generator, gate=BEFORE))
    check(events, reply, reasoner, generator)
    assert (reply.served_by, reply.text) == ("reasoner_fallback", "the reasoner's own answer")


async def test_a_race_tells_the_signal_once_it_is_needed():
    reasoner = Scripted(Script("the signal", token_s=0.01))
    events, _ = await events_of(duet(reasoner, answering(DOUBT), gate=RACE))
    assert [type(event) for event in events if isinstance(event, GateDecided | SignalDone)] == [
        GateDecided,
        SignalDone,
    ]
