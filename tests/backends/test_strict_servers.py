"""Servers that refuse conversations for the order of their turns: folded, asked again, remembered."""

from __future__ import annotations

import asyncio
import itertools
from importlib.util import find_spec

import pytest
from support.agents import READ
from support.thinking_server import CALL as CALL_ON_WIRE
from support.thinking_server import thinking_server

from duet_sdk import AsyncDuetClient, Endpoint, Message, ToolCall
from duet_sdk.backends.server.remote import Remote
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


CALL = ToolCall("c1", "read", '{"path": "a"}')
FOREIGN = [Message("user", "Sum up."), Message("assistant", "", (CALL,)), Message("tool", "5", tool_call_id="c1")]
SIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}


def wants_reasoning(turns):
    called = [at for at, turn in enumerate(turns) if turn.get("tool_calls") and not turn.get("reasoning_content")]
    words = "thinking is enabled but reasoning_content is missing in assistant tool call message at index"
    return f"{words} {called[0]}" if called else None


def wants_reasoning_everywhere(turns):
    lack = any(turn["role"] == "assistant" and not turn.get("reasoning_content") for turn in turns)
    return "The `reasoning_content` in the thinking mode must be passed back to the API." if lack else None


def wants_signatures(turns):
    calls = [call for turn in turns for call in turn.get("tool_calls") or ()]
    lack = any("extra_content" not in call for call in calls)
    return "Function call is missing a thought_signature in functionCall parts." if lack else None


@pytest.mark.parametrize("wants", [wants_reasoning, wants_reasoning_everywhere, wants_signatures])
async def test_a_turn_that_another_model_wrote_gets_a_stand_in_for_what_this_one_wants(wants):
    async with thinking_server({"content": "Five."}) as server:
        server.refuses_turns = wants
        endpoint = Endpoint(model="vllm/m", base_url=server.url)
        async with AsyncDuetClient("scripted/x", endpoint) as duet:
            for _ in range(2):
                reply = await duet.chat(FOREIGN, tools=[READ], mode="generator")
    assert (reply.text, len(server.seen)) == ("done", 3)
    turn = server.seen[-1][1]
    assert turn.get("reasoning_content") in (None, "I call read (c1).")
    assert turn["tool_calls"][0].get("extra_content") in (None, SIGNED)


async def test_stand_ins_of_several_turns_are_not_alike_and_real_ones_stay():
    message = {"content": "", "tool_calls": [CALL_ON_WIRE], "reasoning_content": "I look it up."}
    async with thinking_server(message) as server:
        async with AsyncDuetClient("scripted/x", f"vllm/m@{server.url}") as duet:
            first = await duet.chat([FOREIGN[0]], tools=[READ], mode="generator")
            server.refuses_turns = wants_reasoning_everywhere
            history = [*HELLO, *FOREIGN, HELLO[1], FOREIGN[0], first.message, FOREIGN[2]]
            await duet.chat(history, tools=[READ], mode="generator")
    thoughts = [turn["reasoning_content"] for turn in server.seen[-1] if turn["role"] == "assistant"]
    assert thoughts[-1] == "I look it up."
    assert len(set(thoughts)) == len(thoughts) == 4


@pytest.mark.parametrize(
    "words",
    [
        "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property "
        "'reasoning_content' is unsupported, did you mean 'role'?)]",
        "body.messages.1.assistant.reasoning_content: Extra inputs are not permitted",
    ],
)
async def test_a_server_that_does_not_read_what_it_writes_gets_it_no_more(words):
    message = {"content": "", "tool_calls": [CALL_ON_WIRE], "reasoning_content": "I look it up."}
    async with thinking_server(message) as server:
        server.refuses_turns = lambda turns: words if any("reasoning_content" in turn for turn in turns) else None
        async with AsyncDuetClient("scripted/x", f"vllm/m@{server.url}") as duet:
            first = await duet.chat([FOREIGN[0]], tools=[READ], mode="generator")
            for _ in range(2):
                reply = await duet.chat([FOREIGN[0], first.message, FOREIGN[2]], tools=[READ], mode="generator")
    assert (reply.text, len(server.seen)) == ("done", 4)


async def test_a_server_that_wants_and_refuses_the_same_is_not_asked_without_end():
    async with thinking_server({"content": "Five."}) as server:
        odd = "reasoning_content is not supported"
        server.refuses_turns = lambda turns: wants_reasoning(turns) or odd
        with pytest.raises(Rejected, match="reasoning_content"):
            await answered(server, FOREIGN)
    assert len(server.seen) <= 4


async def test_a_server_s_own_template_gets_turns_folded_too():
    asked = []

    async def ask(path, body):
        asked.append([turn["role"] for turn in body["messages"]])
        if (words := one_system(asked[-1])) is not None:
            raise Rejected(words, backend="vllm", model="m", status=400)
        return {"tokens": [1, 2]}

    remote = Remote(ask, "m")
    turns = [message.on_wire() for message in (BRIEF, *HELLO, ENGLISH, ASK)]
    for _ in range(2):
        assert await remote.chat_ids(turns) == (1, 2)
    assert [len(roles) for roles in asked] == [5, 4, 4]
