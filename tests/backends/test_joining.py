"""Chunks that arrive together come as one, and nothing of them is lost, moved or counted otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fault_server.answers import Answer, Fault
from support.served import served

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.base import Chunk, TokenLogprob, ToolCallDelta
from duet_sdk.backends.scripted import Scripted
from duet_sdk.backends.server.decoding import Joiner
from duet_sdk.events import SignalDelta
from duet_sdk.reply import StageUsage

words = st.text("ab ", max_size=3)
chunks = st.builds(
    Chunk,
    text=words,
    reasoning=words,
    token_ids=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    logprobs=st.sampled_from([(), (), (), (TokenLogprob("a", -0.5),)]),
    tool_calls=st.sampled_from([(), (), (), (ToolCallDelta(0, "id", "name", "{}"),)]),
    usage=st.none() | st.builds(StageUsage, st.integers(0, 9), st.integers(0, 9)),
    cost_usd=st.none() | st.just(Decimal("0.5")),
    finish_reason=st.sampled_from([None, None, None, "stop"]),
    index=st.sampled_from([0, 0, 0, 1]),
)


def joined(most: int, given: Sequence[Chunk]) -> list[Chunk]:
    return Joiner(most).join([replace(chunk) for chunk in given])


@given(st.lists(chunks, max_size=12), st.integers(1, 12))
def test_what_is_joined_says_the_same(given: list[Chunk], most: int) -> None:
    came = joined(most, given)
    for index in (0, 1):
        before = [chunk for chunk in given if chunk.index == index]
        after = [chunk for chunk in came if chunk.index == index]
        for part in ("text", "reasoning"):
            assert "".join(getattr(one, part) for one in after) == "".join(getattr(one, part) for one in before)
        for part in ("token_ids", "logprobs", "tool_calls"):
            assert sum((getattr(one, part) for one in after), ()) == sum((getattr(one, part) for one in before), ())
        ends = [one.finish_reason for one in before if one.finish_reason is not None]
        assert [one.finish_reason for one in after if one.finish_reason is not None] == ends
        assert next((one.cost_usd for one in after if one.cost_usd), None) == (
            next((one.cost_usd for one in before if one.cost_usd), None)
        )
    usages = [chunk.usage for chunk in given if chunk.usage is not None]
    assert [chunk.usage for chunk in came if chunk.usage is not None][-1:] == usages[-1:]


@given(st.lists(chunks, max_size=12), st.integers(1, 12))
def test_what_is_beyond_the_limit_stays_in_its_own_pieces(given: list[Chunk], most: int) -> None:
    tokens = 0
    for at, chunk in enumerate(given):
        tokens += len(chunk.token_ids)
        if tokens > most:
            assert joined(most, given)[at - len(given) :] == given[at:]
            break


def test_the_limit_counts_over_all_reads() -> None:
    joiner = Joiner(3)
    one = [Chunk("a", token_ids=(1,)), Chunk("b", token_ids=(2,))]
    assert joiner.join(one) == [Chunk("ab", token_ids=(1, 2))]
    two = [Chunk("c", token_ids=(3,)), Chunk("d", token_ids=(4,)), Chunk("e", token_ids=(5,))]
    assert [chunk.text for chunk in joiner.join(two)] == ["c", "d", "e"]


def test_text_without_token_ids_stays_as_it_came() -> None:
    given = [Chunk("a", usage=StageUsage(1, 1)), Chunk("b", usage=StageUsage(1, 2)), Chunk(finish_reason="stop")]
    assert joined(9, given) == given  # each piece is evidence of a token where there are no ids


def test_thinking_then_text_is_one_and_text_then_thinking_is_not() -> None:
    thought, said = Chunk(reasoning="t", token_ids=(1,)), Chunk("s", token_ids=(2,))
    assert joined(9, [thought, said]) == [Chunk("s", "t", (1, 2))]
    assert joined(9, [said, thought]) == [said, thought]


@pytest.mark.parametrize("fault", [None, "ignored_max_tokens", "no_usage"])
async def test_a_signal_is_the_same_with_and_without_its_deltas(fault: Fault | None) -> None:
    async with served(Answer("One two three. Four five six. Seven eight nine.", fault=fault)) as (_, backend):
        budget = Budget(signal_tokens=5)
        async with AsyncDuetClient(backend, Scripted("answer"), budget=budget, on_cut="keep") as duet:
            whole = await duet.chat("q")
            async with duet.stream("q") as run:
                shown = "".join([event.text async for event in run if isinstance(event, SignalDelta)])
    assert whole.signal == run.reply.signal
    assert whole.usage == run.reply.usage
    assert whole.signal.text == shown.strip() == "One two three. Four five"


async def test_chat_asks_for_fewer_chunks_and_a_stream_for_all() -> None:
    reasoner = Scripted("plan")
    async with AsyncDuetClient(reasoner, Scripted("answer")) as duet:
        await duet.chat("q")
        async with duet.stream("q") as run:
            async for _ in run:
                pass
    assert [call.joined for call in reasoner.calls] == [True, False]
