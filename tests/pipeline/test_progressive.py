"""The generator probes the growing signal; the reasoner goes on until a probe is sure, and pays no slice more."""

import asyncio

import pytest
from pipeline.scenes import DOUBT, SURE, check, duet, events_of, kinds

from duet_sdk import Budget
from duet_sdk.backends.base import Capabilities
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError, ConnectFailed, SignalError, StreamBroken
from duet_sdk.events import AttemptStarted, FellBack, GateDecided, SignalDelta, SignalDone
from duet_sdk.gate import Race
from duet_sdk.policies import FailurePolicy, Progressive, Retry

SENTENCES = "One is it. Two is it. Three is it. Four is it. Five is it. Six is it."
OPTIONS = Progressive(slice_tokens=4, probe_tokens=2, share=1.0)


def knows_from(word, **script):
    """A generator that is sure as soon as its notes hold that word, and answers with what it read."""

    def line(call):
        text = call.messages[-1].text
        notes = text.partition("<notes>\n")[2].partition("\n</notes>")[0]
        return Script(f"I read: {notes}", logprob=SURE if word in notes else DOUBT, token_ids=True, **script)

    return Scripted(line, model="small")


def reasoner(text=SENTENCES, **script):
    """Writes slowly enough for probes to come between."""
    return Scripted(Script(text, **{"token_ids": True, "token_s": 0.01, **script}), model="big")


async def test_the_reasoner_is_stopped_once_a_probe_is_sure():
    big, small = reasoner(), knows_from("Two")
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert reply.text == "I read: One is it. Two is it."
    assert (reply.served_by, reply.finish_reason, reply.handoff) == ("pair", "stop", "instruct")
    assert (reply.signal.text, reply.signal.truncated) == ("One is it. Two is it.", False)
    assert big.cancelled == 1
    assert 8 <= reply.usage.reasoner.output_tokens < 18
    assert reply.signal.tokens == reply.usage.reasoner.output_tokens
    # What the sure probe wrote is the answer: nothing is generated twice, and the one in doubt is charged.
    assert sorted(kinds(reply)) == [("answer", False), ("probe", True), ("signal", False)]


async def test_what_the_reasoner_wrote_while_the_probe_was_judged_is_overlap():
    going_on = asyncio.Event()

    class Slow(Scripted):
        async def stream(self, call):
            async with asyncio.timeout(5):
                await going_on.wait()
            async for chunk in super().stream(call):
                yield chunk

    class Watched(Scripted):
        async def stream(self, call):
            written = 0
            async for chunk in super().stream(call):
                written += bool(chunk.text)
                yield chunk
                if written == 9:
                    going_on.set()  # the probe saw four or five tokens, and five more have come since

    big = Watched(Script(SENTENCES, token_ids=True, token_s=0.01, stall_after=10), model="big")
    small = Slow(*knows_from("One")._lines, model="small")
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert reply.signal.text == "One is it."
    signal = reply.receipt.attempts[0]
    assert (signal.kind, signal.error_type) == ("signal", "cancelled")
    assert signal.overlap_tokens == signal.usage.output_tokens - 4
    assert reply.receipt.overlap_tokens == signal.overlap_tokens
    assert signal.usage.output_tokens in (9, 10)


async def test_a_generator_that_is_never_sure_has_the_whole_signal():
    big, small = reasoner(), knows_from("Seven")
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert reply.signal.text == SENTENCES
    assert reply.text == f"I read: {SENTENCES}"
    assert reply.usage.reasoner.output_tokens == 18
    assert kinds(reply).count(("probe", True)) >= 2
    assert all(a.usage.output_tokens <= 2 for a in reply.receipt.attempts if a.kind == "probe")


async def test_a_probe_of_what_turns_out_to_be_the_whole_signal_goes_on_in_doubt():
    # The last sentence is complete with the last slice: the probe of it is under way when the reasoner ends.
    big, small = reasoner("One is it. Two is it.", token_s=0.0), knows_from("Three", token_s=0.01)
    events, reply = await events_of(duet(big, small, progressive=Progressive(6, probe_tokens=2, share=1.0)))
    check(events, reply, big, small)
    assert reply.text == f"I read: {reply.signal.text}"


async def test_the_signal_is_done_before_the_answer_and_tells_what_the_probe_saw():
    events, reply = await events_of(duet(reasoner(), knows_from("Two"), progressive=OPTIONS))
    done = [event for event in events if isinstance(event, SignalDone)]
    assert [(event.signal.text, event.handoff) for event in done] == [("One is it. Two is it.", "instruct")]
    assert done[0].signal == reply.signal
    assert "".join(event.text for event in events if isinstance(event, SignalDelta)).startswith(reply.signal.text)


async def test_chat_shows_no_deltas_and_stops_the_reasoner_all_the_same():
    async with duet(reasoner(), knows_from("Two"), progressive=OPTIONS) as client:
        reply = await client.chat("why?")
    assert reply.signal.text == "One is it. Two is it."


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (Progressive(slice_tokens=4, probe_tokens=2, share=1.0, most_probes=1), 1),
        (Progressive(slice_tokens=4, probe_tokens=2, share=0.2), 1),  # 2 of 10 tokens, and never 4 of 20
        (Progressive(slice_tokens=9, probe_tokens=2, share=1.0), 2),
        (Progressive(slice_tokens=400), 0),
    ],
)
async def test_probes_are_no_more_than_slices_share_and_number_allow(options, most):
    big, small = reasoner(), knows_from("Seven")
    _, reply = await events_of(duet(big, small, progressive=options))
    assert kinds(reply).count(("probe", True)) <= most
    assert reply.signal.text == SENTENCES
    probed = sum(a.usage.output_tokens for a in reply.receipt.attempts if a.kind == "probe")
    assert probed <= options.share * reply.usage.reasoner.output_tokens


async def test_text_that_has_no_new_sentence_is_not_probed_again():
    big, small = reasoner("One is it. " + "and so on " * 8), knows_from("Seven")
    _, reply = await events_of(duet(big, small, progressive=OPTIONS))
    assert kinds(reply).count(("probe", True)) == 1


async def test_probes_do_not_make_the_reasoner_wait():
    big, small = reasoner(), knows_from("Seven", stall_after=0)
    options = Progressive(slice_tokens=4, probe_tokens=2, share=1.0, most_probes=1)

    def line(call):
        return Script("unused", stall_after=0) if len(small.calls) == 1 else Script("the answer")

    small._lines = (line,)
    events, reply = await events_of(duet(big, small, progressive=options))
    check(events, reply, big, small)
    assert (reply.text, reply.signal.text) == ("the answer", SENTENCES)
    assert kinds(reply)[0] == ("signal", False) or reply.receipt.attempts[0].kind == "probe"


async def test_a_generator_without_logprobs_is_refused_before_anything_is_spent():
    big = reasoner()
    small = Scripted("a", capabilities=Capabilities(logprobs=False))
    with pytest.raises(ConfigError, match="reports no logprobs"):
        await events_of(duet(big, small, progressive=OPTIONS))
    assert big.calls == small.calls == []


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_a_generator_whose_logprobs_do_not_come_is_probed_no_more_than_it_is_worth():
    class Silent(Scripted):
        async def stream(self, call):
            async for chunk in super().stream(call):
                chunk.logprobs = ()
                yield chunk

    big, small = reasoner(), Silent("a b c d")
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert reply.signal.text == SENTENCES


async def test_a_probe_that_fails_is_the_last_and_the_reasoner_goes_on():
    error = ConnectFailed("gone", backend="scripted", model="small")
    small = Scripted(Script("x", error=error), Script("the answer"))
    big = reasoner()
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert (reply.text, reply.signal.text, len(small.calls)) == ("the answer", SENTENCES, 2)


async def test_a_reasoner_that_breaks_off_voids_the_probe_of_what_it_wrote():
    error = StreamBroken("cut", backend="scripted", model="big")
    slow = {"token_ids": True, "token_s": 0.01}
    big = Scripted(Script(SENTENCES, error=error, fail_after=7, **slow), Script("Seven is it.", **slow), model="big")
    small = knows_from("Seven", stall_after=1)
    lines = small._lines
    small._lines = (*lines, *knows_from("Seven")._lines)
    events, reply = await events_of(duet(big, small, progressive=OPTIONS, retry=Retry(attempts=2, first_wait_s=0)))
    check(events, reply, big, small)
    assert reply.signal.text == "Seven is it."
    assert reply.text == "I read: Seven is it."


async def test_a_reasoner_that_fails_for_good_leaves_the_generator_alone():
    error = StreamBroken("cut", backend="scripted", model="big")
    big = reasoner(error=error, fail_after=7)
    small = knows_from("Seven", stall_after=None)
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small)
    assert (reply.text, reply.served_by) == ("I read: ", "generator_fallback")
    assert [event.error_type for event in events if isinstance(event, FellBack)] == ["StreamBroken"]


async def test_what_is_kept_of_a_broken_signal_guides_the_answer():
    error = StreamBroken("cut", backend="scripted", model="big")
    big, small = reasoner(error=error, fail_after=7), knows_from("Seven")
    client = duet(big, small, progressive=OPTIONS, on_failure=FailurePolicy(signal_broken="keep"))
    events, reply = await events_of(client)
    check(events, reply, big, small)
    assert (reply.text, reply.served_by) == ("I read: One is it. Two is it.", "pair_cut")


@pytest.mark.parametrize("on_cut", ["sentence", "keep", "wrap_up"])
async def test_a_signal_that_its_limit_cuts_is_treated_as_ever(on_cut):
    big, small = reasoner(), knows_from("Seven")
    client = duet(big, small, progressive=OPTIONS, on_cut=on_cut)
    events, reply = await events_of(client, budget=Budget(signal_tokens=12))
    check(events, reply, big, small)
    assert reply.signal.truncated
    assert reply.signal.tokens <= 12
    assert reply.served_by == "pair_cut"


async def test_a_policy_to_fail_ends_the_probe_too():
    big, small = reasoner(), knows_from("Seven")
    client = duet(big, small, progressive=OPTIONS, on_cut="error")
    with pytest.raises(SignalError):
        await events_of(client, budget=Budget(signal_tokens=9))
    assert big.open_calls == small.open_calls == 0


async def test_a_budget_too_small_for_probes_makes_none():
    big, small = reasoner(), knows_from("One")
    read, signal, answer = 51 + 54, 18, 40
    limits = Budget(total_tokens=read + 2 * signal + answer, signal_tokens=signal, answer_tokens=answer)
    events, reply = await events_of(duet(big, small, progressive=OPTIONS), budget=limits)
    check(events, reply, big, small)
    assert reply.signal.text == SENTENCES
    assert [attempt.kind for attempt in reply.receipt.attempts] == ["signal", "answer"]


async def test_an_unreachable_generator_is_left_to_the_ladder():
    error = ConnectFailed("gone", backend="scripted", model="small")
    big, small = Scripted("the reasoner's own answer"), Scripted("a", connect_error=error)
    events, reply = await events_of(duet(big, small, progressive=OPTIONS))
    check(events, reply, big, small, unsent=1)
    assert reply.served_by == "reasoner_fallback"


@pytest.mark.parametrize("mode", ["reasoner", "generator", "signal"])
async def test_other_modes_know_no_probes(mode):
    big, small = reasoner(), knows_from("One")
    async with duet(big, small, progressive=OPTIONS) as client:
        reply = await client.chat("q", mode=mode)
    assert len(reply.receipt.attempts) == 1


async def test_a_race_and_probes_go_together_one_judged_at_a_time():
    big, small = reasoner(), knows_from("Two")
    events, reply = await events_of(duet(big, small, progressive=OPTIONS, gate=Race(first_tokens=2)))
    check(events, reply, big, small)
    assert reply.signal.text == "One is it. Two is it."
    decisions = [event.decision.ask for event in events if isinstance(event, GateDecided)]
    assert decisions == [True]
    starts = [event.attempt for event in events if isinstance(event, AttemptStarted) and event.stage == "generator"]
    assert starts == list(range(1, len(starts) + 1))


@pytest.mark.parametrize("at", range(0, 22, 2))
async def test_a_stream_left_at_any_event_leaves_nothing_open(at):
    big, small = reasoner(), knows_from("Three")
    client = duet(big, small, progressive=OPTIONS)
    async with client, client.stream("q") as run:
        for _ in range(at):
            await anext(run)
    assert big.open_calls == small.open_calls == 0
    assert len(asyncio.all_tasks()) == 1
    charged = sum(attempt.usage.total_tokens > 0 for attempt in run.reply.receipt.attempts)
    assert charged == len(big.calls) + len(small.calls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_tokens": 0}, "slice_tokens of progressive must be a whole number of at least 1"),
        ({"probe_tokens": 1.5}, "probe_tokens of progressive must be a whole number"),
        ({"most_probes": 0}, "most_probes"),
        ({"threshold": 2}, "threshold of progressive must be between 0 and 1"),
        ({"share": 0}, "share of progressive must be above 0"),
        ({"share": float("nan")}, "share of progressive must be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Progressive(**options)
