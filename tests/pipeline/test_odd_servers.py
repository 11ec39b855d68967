"""Servers that lie, run away or contradict themselves: limits hold, sums stay sane, nothing hangs."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded
from duet_sdk.backends import Capabilities, Chunk, Served
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError, ConnectFailed, InvalidRequest, RateLimited, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.reply import StageUsage
from duet_sdk.types import TokenLogprob


class Server(Scripted):
    """Streams what a function gives."""

    def __init__(self, chunks, **options):
        super().__init__(**options)
        self._chunks = chunks

    async def stream(self, call):
        self.open_calls += 1
        try:
            for chunk in self._chunks(call):
                await asyncio.sleep(0)
                yield chunk
        finally:
            self.open_calls -= 1


def client(reasoner="sketch", generator="answer", **options):
    made = [one if isinstance(one, Scripted) else Scripted(one) for one in (reasoner, generator)]
    return AsyncDuetClient(*made, retry=Retry(attempts=1), **options)


@pytest.mark.parametrize("stuck_at", [0, 1])
async def test_a_usage_that_stands_still_does_not_lift_the_limit(stuck_at):
    def chunks(call):
        for _ in range(3000):
            yield Chunk("word ", usage=StageUsage(10, stuck_at))
        yield Chunk(finish_reason="stop", usage=StageUsage(10, 3000))

    reply = await client(Server(chunks), on_cut="keep").chat("q", budget=Budget(signal_tokens=16))
    assert len(reply.signal.text.split()) <= 16
    assert not reply.signal.honoured


async def test_one_giant_piece_with_a_small_usage_is_cut():
    def chunks(call):
        yield Chunk("word " * 3000, usage=StageUsage(10, 1))
        yield Chunk(finish_reason="stop", usage=StageUsage(10, 1))

    reply = await client(Server(chunks), on_cut="keep").chat("q", budget=Budget(signal_tokens=16))
    assert len(reply.signal.text) < 1000
    assert not reply.signal.honoured


async def test_one_output_that_runs_away_does_not_keep_the_stream_alive_for_the_others():
    generator = Server(lambda call: (Chunk("w ", index=0) for _ in itertools.count()))
    async with asyncio.timeout(10):
        reply = await client(generator=generator).chat("q", n=2, budget=Budget(answer_tokens=5))
    assert len(reply.answers[0].split()) <= 5
    assert generator.open_calls == 0


@pytest.mark.parametrize("index", [3, -1])
async def test_an_output_that_was_not_asked_for_is_an_error_of_ours(index):
    generator = Server(lambda call: iter([Chunk("a", index=index), Chunk(finish_reason="stop")]))
    with pytest.raises(StreamBroken, match=f"output number {index} of 2"):
        await client(generator=generator, on_failure="raise").chat("q", n=2)


async def test_text_after_the_end_of_an_output_is_left_out():
    def chunks(call):
        yield Chunk("hi.", finish_reason="stop")
        for _ in range(50):
            yield Chunk("more")

    assert (await client(generator=Server(chunks)).chat("q")).text == "hi."


async def test_a_usage_below_zero_is_no_refund():
    def chunks(call):
        yield Chunk("hello there. ", finish_reason="stop")
        yield Chunk(usage=StageUsage(-100_000, -5))

    reply = await client(Server(chunks)).chat("q", budget=Budget(total_tokens=900))
    assert reply.usage.reasoner.output_tokens > 0
    assert reply.usage.total_tokens <= 900


async def test_no_part_of_a_usage_is_larger_than_its_whole_or_below_zero():
    def chunks(call):
        told = StageUsage(10, 2, 4, cache_write_tokens=50, reasoning_tokens=9)
        yield Chunk("a", usage=replace(told, cached_tokens=-1, reasoning_tokens=-1))
        yield Chunk("b", finish_reason="stop", usage=told)

    assert (await client(Server(chunks)).chat("q")).usage.reasoner == StageUsage(
        10, 2, 4, cache_write_tokens=6, reasoning_tokens=2
    )


async def test_who_answered_is_in_the_receipt():
    def chunks(call):
        yield Chunk(served=Served("m-2026-11-01", "c-7"))
        yield Chunk("b", finish_reason="stop")

    (attempt,) = (await client(Server(chunks)).chat("q", mode="reasoner")).receipt.attempts
    assert (attempt.response_model, attempt.response_id) == ("m-2026-11-01", "c-7")


async def test_more_cached_than_sent_is_all_cached():
    def chunks(call):
        yield Chunk("s", finish_reason="stop", usage=StageUsage(10, 1, 50))

    assert (await client(Server(chunks)).chat("q")).usage.reasoner == StageUsage(10, 1, 10)


async def test_a_reasoner_that_never_gets_ready_leaves_the_generator_its_time():
    class Stuck(Scripted):
        async def connect(self):
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        reply = await client(Stuck("s")).chat("q", budget=Budget(signal_deadline_s=0.05))
        assert (reply.text, reply.served_by) == ("answer", "generator_fallback")
        reply = await client(Stuck("s")).chat("q", budget=Budget(deadline_s=0.5))
        assert (reply.text, reply.served_by) == ("answer", "generator_fallback")


async def test_a_wrap_up_that_cannot_be_counted_leaves_the_trimmed_signal():
    class Uncountable(Scripted):
        async def count_tokens(self, messages, *, tools=(), thinking=None):
            if messages[-1].text.startswith("Stop here."):
                raise ConnectFailed("gone", backend="b", model="m")
            return 10

    duet = client(Uncountable("One two. Three four five six"), on_cut="wrap_up")
    reply = await duet.chat("q", budget=Budget(signal_tokens=5, total_tokens=5000))
    assert reply.signal.text == "One two."


async def test_what_the_reasoner_cannot_do_does_not_hide_why_the_generator_failed():
    slow = RateLimited("slow down", backend="b", model="m")
    tool = {"type": "function", "function": {"name": "f"}}
    duet = client(Scripted("s", capabilities=Capabilities()), Scripted(Script(error=slow)))
    with pytest.raises(RateLimited, match="slow down"):
        await duet.chat("q", tools=[tool])


async def test_a_reasoner_that_stands_in_answers_as_the_generator_was_to():
    broken = Script(error=ConnectFailed("gone", backend="b", model="m"))
    reasoner = Scripted("sketch", "one STOP two")
    reply = await client(reasoner, Scripted(broken)).chat("q", stop="STOP", temperature=0.5)
    assert reply.text == "one "
    assert reasoner.calls[1].sampling.temperature == 0.5


async def test_logprobs_and_tool_calls_are_those_of_the_winner():
    def chunks(call):
        for index, word in enumerate("AB"):
            yield Chunk(word, index=index, logprobs=(TokenLogprob(word, -1.0),))
            yield Chunk(finish_reason="stop", index=index)

    reply = await client(generator=Server(chunks)).chat("q", n=2, vote=lambda answers: 1)
    assert (reply.text, [item.token for item in reply.logprobs]) == ("B", ["B"])


async def test_what_was_held_back_as_a_possible_tag_is_shown_when_the_answer_is_cut():
    generator = Server(lambda call: itertools.chain([Chunk("<")], (Chunk("") for _ in itertools.count())))
    async with asyncio.timeout(10):
        reply = await client(generator=generator).chat("q", budget=Budget(answer_tokens=1))
    assert (reply.text, reply.finish_reason) == ("<", "length")


async def test_a_vote_that_fails_says_so():
    with pytest.raises(InvalidRequest, match="the vote failed with ZeroDivisionError"):
        await client().chat("q", n=2, vote=lambda answers: 1 // 0)


async def test_closing_closes_every_model_also_after_one_that_fails():
    class Stubborn(Scripted):
        async def aclose(self):
            raise RuntimeError("will not close")

    others = [Scripted("a", model="one"), Scripted("a", model="two")]
    duet = AsyncDuetClient(Stubborn("s"), others)
    with pytest.raises(RuntimeError):
        await duet.aclose()
    assert all(other.closed for other in others)


@pytest.mark.parametrize("reserve", [-1, 1.0, float("nan"), "half"])
def test_a_cut_policy_that_reserves_an_impossible_share_is_refused(reserve):
    class Mine:
        name = "mine"

        def cut(self, text, *, limit):
            return text

    Mine.reserve = reserve
    with pytest.raises(ConfigError, match="must be in"):
        client(on_cut=Mine())


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 5},
        {"budget": {"signal_tokens": "five"}},
        {"tools": 5},
        {"tools": "abc"},
        {"tools": ["x"]},
        {"tools": [{"function": {"name": "f", "parameters": "x"}}]},
        {"tools": [{"function": {"name": "f", "parameters": {(1, 2): 3}}}]},
        {"temperature": "hot"},
        {"stop": 5},
        {"stop": [5]},
        {"reasoner_params": {"temperature": "hot"}},
        {"scopes": 5},
    ],
)
async def test_an_option_of_another_kind_is_refused_by_an_error_of_ours(options):
    reasoner = Scripted("s")
    with pytest.raises(InvalidRequest):
        await client(reasoner).chat("q", **options)
    assert reasoner.calls == []


async def test_a_total_used_up_by_a_lying_server_ends_the_request_with_what_there_is():
    def chunks(call):
        yield Chunk("s", finish_reason="stop", usage=StageUsage(10, 5000))

    with pytest.raises(BudgetExceeded) as used_up:
        await client(Server(chunks)).chat("q", budget=Budget(total_tokens=1000))
    assert used_up.value.reply.usage.reasoner.output_tokens == 5000


async def test_a_whole_signal_stays_whole_when_only_the_bill_is_above_the_limit():
    reasoner = Scripted(Script("One sentence. Then the rest here", usage="last", billed=100))
    reply = await client(reasoner).chat("q", budget=Budget(signal_tokens=10))
    assert (reply.signal.text, reply.signal.truncated) == ("One sentence. Then the rest here", False)
    assert (reply.signal.tokens, reply.signal.honoured, reply.served_by) == (100, False, "pair")
