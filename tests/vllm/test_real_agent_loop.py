"""An eight-turn tool loop on a real server: what stays in its prefix cache when a signal keeps its place."""

import itertools
import sys
from dataclasses import dataclass

import cues
import pytest
from support import vllm_servers

from duet_sdk import AsyncDuetClient, Budget, Message, Sampling
from duet_sdk.backends.scripted import Scripted
from duet_sdk.policies import RunScope
from duet_sdk.reply import StageUsage

pytestmark = pytest.mark.vllm

TURNS = 8
OPENED = 8
"""Tokens with which a prompt may end that the next one lacks: the opened turn with its empty think block."""
PLAN = "Ask for the weather of every city once, note the warmest, and name it with its temperature in the end. "


@dataclass(frozen=True, slots=True)
class Turn:
    """What one call of the generator found in the server's cache."""

    usage: StageUsage
    hits: int
    queries: int
    text: str


def plans():
    """A reasoner whose signals are long enough to matter, each another one."""
    return Scripted(*(f"Plan {letter}. {PLAN * 6}" for letter in "ABCDEFGHIJ"))


async def loop(server: vllm_servers.Server, reasoner: Scripted, *, salt: str, **options) -> list[Turn]:
    """Eight tool turns, each with the weather of another city; ``salt`` keeps loops from finding each other's blocks."""
    call = cues.calls_weather()
    params = Sampling(temperature=0, extra_body={**call.extra_body, "cache_salt": salt})
    messages, done = [Message("user", "Which of these eight cities is the warmest?")], []
    async with AsyncDuetClient(reasoner, server.endpoint(), generator_params=params, **options) as duet:
        for turn in range(TURNS):
            before = server.prefix_cache()
            reply = await duet.chat(messages, tools=[cues.WEATHER], budget=Budget(answer_tokens=48))
            hits, queries = (now - then for now, then in zip(server.prefix_cache(), before, strict=True))
            done.append(Turn(reply.usage.generator, hits, queries, reply.message.text))
            result = f"City number {turn}: {turn + 11} degrees, light clouds, wind from the west at {turn} knots."
            answers = [Message("tool", result, tool_call_id=made.id) for made in reply.tool_calls]
            assert answers
            messages = [*messages, reply.message, *answers]
    return done


def share(turns: list[Turn]) -> float:
    return sum(turn.hits for turn in turns) / sum(turn.queries for turn in turns)


async def test_a_signal_that_keeps_its_place_lets_every_turn_hit_the_prompt_before_it(thinker):
    rules = RunScope(ask_again_on=[], after_tool_turns=None)
    planner, replanner = plans(), plans()
    kept = await loop(thinker, planner, salt="kept", signal_scope=rules)
    remade = await loop(thinker, replanner, salt="remade", signal_scope="turn")
    block = thinker.block_tokens()
    for scope, turns in (("run", kept), ("turn", remade)):
        found = " ".join(f"{turn.hits}/{turn.queries}" for turn in turns)
        sys.stdout.write(f"\n{scope}: {share(turns):.1%} of the prompts' tokens found; by turn {found}")  # shown by -s
    assert (len(planner.calls), len(replanner.calls)) == (1, TURNS)
    for before, after in itertools.pairwise(kept):
        whole_blocks = (before.usage.input_tokens - OPENED) // block * block
        assert after.hits >= whole_blocks
    assert share(kept) > share(remade)


async def test_a_second_signal_leaves_what_is_cached_in_place(thinker):
    planner = plans()
    turns = await loop(thinker, planner, salt="again", signal_scope=RunScope(ask_again_on=[], after_tool_turns=4))
    block = thinker.block_tokens()
    assert len(planner.calls) == 2
    for before, after in itertools.pairwise(turns):
        assert after.hits >= (before.usage.input_tokens - OPENED) // block * block
