"""Servers that refuse conversations for the order of their turns: folded, asked again, remembered."""

from __future__ import annotations

import asyncio
import itertools
from importlib.util import find_spec

import pytest
from support.thinking_server import thinking_server

from duet_sdk import AsyncDuetClient, Endpoint, Message
from duet_sdk.errors import Rejected

BRIEF, ENGLISH, ASK = Message("system", "Be brief."), Message("system", "Answer in English."), Message("user", "Where?")
HELLO = (Message("user", "Hello"), Message("assistant", "Hello."))


def one_system(roles):
    return "System message must be at the beginning." if "system" in roles[1:] else None


def alternating(roles):
    spoken = [role for role in roles if role != "tool"]
    in_order = all(one != other for one, other in itertools.pairwise(spoken))
    return None if in_order and "system" not in roles[1:] else "Conversation roles must alternate user/assistant/..."


def no_system(roles):
    return "System role not supported" if "system" in roles else alternating(roles)


async def answered(server, messages, *, model="vllm/m", streamed=False, **options):
    endpoint = Endpoint(model=model, base_url=server.url, **options)
    async with AsyncDuetClient("scripted/x", endpoint) as duet:
        if not streamed:
            return await duet.chat(messages, mode="generator")
        async with duet.stream(messages, mode="generator") as run:
            async for _ in run:
                pass
        return run.reply


@pytest.mark.parametrize("refusal", [one_system, alternating, no_system])
@pytest.mark.parametrize(
    "messages",
    [
        [BRIEF, ENGLISH, ASK],
        [BRIEF, *HELLO, ENGLISH, ASK],
        [BRIEF, ENGLISH, HELLO[1], *HELLO, ASK],
    ],
)
async def test_a_strict_server_answers_and_gets_every_text(refusal, messages):
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses = refusal
        reply = await answered(server, messages)
    assert (reply.text, [attempt.error_type for attempt in reply.receipt.attempts]) == ("Bergen.", [None])
    sent = "\n".join(turn["content"] for turn in server.seen[-1])
    assert all(message.text in sent for message in messages)


@pytest.mark.parametrize("refused_as", ["400", "500", "event", "json"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refusal_is_understood_however_it_comes(refused_as, streamed):
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses, server.refused_as = one_system, refused_as if streamed or refused_as != "event" else "400"
        reply = await answered(server, [BRIEF, ENGLISH, ASK], streamed=streamed)
    assert reply.text == "Bergen."


async def test_what_a_server_wants_is_remembered():
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses = one_system
        async with AsyncDuetClient("scripted/x", f"vllm/m@{server.url}") as duet:
            for _ in range(3):
                await duet.chat([BRIEF, ENGLISH, ASK], mode="generator")
    assert [len(turns) for turns in server.seen] == [3, 2, 2, 2]


async def test_requests_at_once_learn_together():
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses = one_system
        async with AsyncDuetClient("scripted/x", f"vllm/m@{server.url}") as duet:
            asked = [duet.chat([BRIEF, ENGLISH, ASK], mode="generator") for _ in range(8)]
            assert {reply.text for reply in await asyncio.gather(*asked)} == {"Bergen."}


async def test_a_server_that_takes_turns_as_they_are_gets_them_so():
    async with thinking_server({"content": "Bergen."}) as server:
        await answered(server, [BRIEF, *HELLO, ENGLISH, ASK])
    assert [turn["role"] for turn in server.seen[0]] == ["system", "user", "assistant", "system", "user"]


@pytest.mark.parametrize("words", ["roles must alternate", "temperature is too high"])
async def test_a_server_that_refuses_everything_is_not_asked_without_end(words):
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses = lambda roles: words
        with pytest.raises(Rejected, match=words):
            await answered(server, [BRIEF, *HELLO, ENGLISH, ASK])
    assert len(server.seen) <= 4


@pytest.mark.skipif(find_spec("litellm") is None, reason="the extra 'litellm' is not installed")
@pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute:DeprecationWarning")
@pytest.mark.parametrize("streamed", [True, False])
async def test_litellm_s_providers_may_be_strict_too(streamed):
    async with thinking_server({"content": "Bergen."}) as server:
        server.refuses = alternating
        messages = [BRIEF, *HELLO, ENGLISH, ASK, ASK]
        reply = await answered(server, messages, model="litellm/openai/m", api_key="k", streamed=streamed)
    assert reply.text == "Bergen."
    assert [turn["role"] for turn in server.seen[-1]] == ["system", "user", "assistant", "user"]
