"""An answer without the form that was asked for is asked for once more: an attempt like any other."""

from dataclasses import replace

import pytest

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import DEFAULT_CAPABILITIES, Script, Scripted
from duet_sdk.budget import Limit, MemoryLedger
from duet_sdk.errors import ConnectFailed
from duet_sdk.events import AnswerDelta, Retried
from duet_sdk.policies import FailurePolicy, Retry
from duet_sdk.types import ToolCall

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
JSON = {"type": "json_object"}
CALL = Script(tool_calls=(ToolCall("1", "look_up", "{}"),))


def duet(*answers, **options):
    generator = Scripted(*answers)
    return AsyncDuetClient("scripted/notes", generator, **options), generator


async def test_text_in_place_of_json_is_asked_for_once_more_and_told_why():
    client, generator = duet("It is Paris.", '{"city": "Paris"}')
    reply = await client.chat("Which city?", response_format=JSON)
    assert reply.text == '{"city": "Paris"}'
    *_, question, refused, correction = generator.calls[1].messages
    assert question.text.startswith("Which city?")
    assert (refused.role, refused.text) == ("assistant", "It is Paris.")
    assert correction.text == (
        "That is not what was asked for: the answer must be JSON, with nothing before or after it. "
        "Answer again in the requested format."
    )


async def test_a_tool_that_must_be_called_is_asked_for_once_more():
    client, generator = duet("I would rather not.", CALL)
    reply = await client.chat("q", tools=[TOOL], tool_choice="required")
    assert [call.name for call in reply.tool_calls] == ["look_up"]
    assert (reply.text, len(generator.calls)) == ("", 2)


async def test_asking_once_more_stands_in_the_receipt_and_is_charged():
    ledger = MemoryLedger()
    client, _ = duet("no json", "{}", ledger=ledger)
    reply = await client.chat("q", response_format=JSON, tenant="a")
    answers = [attempt for attempt in reply.receipt.attempts if attempt.kind == "answer"]
    assert [(attempt.attempt, attempt.usage.output_tokens, attempt.discarded) for attempt in answers] == [
        (1, 2, True),
        (2, 1, False),
    ]
    assert reply.usage.generator.output_tokens == 3
    assert (await ledger.balance("tenant:a")).spent.generator_tokens == reply.usage.generator.total_tokens


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_a_second_answer_that_is_no_better_stays():
    client, generator = duet("no json", "none either", "never asked for")
    reply = await client.chat("q", response_format=JSON)
    assert (reply.text, len(generator.calls)) == ("none either", 2)


async def test_an_answer_of_the_right_form_is_not_asked_for_again():
    client, generator = duet("{}")
    await client.chat("q", response_format=JSON)
    assert len(generator.calls) == 1


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_a_stream_that_has_shown_its_answer_is_not_asked_for_again():
    client, generator = duet("no json", "{}")
    async with client.stream("q", response_format=JSON) as run:
        texts = [event.text async for event in run if isinstance(event, AnswerDelta)]
    assert ("".join(texts), len(generator.calls)) == ("no json", 1)


async def test_an_answer_that_was_cut_off_is_not_asked_for_again():
    client, generator = duet('{"a": "one two three four"}')
    reply = await client.chat("q", response_format=JSON, budget=Budget(answer_tokens=2))
    assert (reply.finish_reason, len(generator.calls)) == ("length", 1)


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_without_room_in_the_budget_the_first_answer_stays():
    client, generator = duet("no json", "{}")
    reply = await client.chat("q", mode="generator", response_format=JSON, budget=Budget(total_tokens=8))
    assert (reply.text, len(generator.calls)) == ("no json", 1)


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_without_room_in_the_ledger_the_first_answer_stays():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=20))
    client, generator = duet("no json", "{}", ledger=ledger, budget=Budget(answer_tokens=8))
    reply = await client.chat("q", mode="generator", response_format=JSON, tenant="a")
    assert (reply.text, len(generator.calls)) == ("no json", 1)
    assert [attempt.discarded for attempt in reply.receipt.attempts] == [False]


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_the_model_that_fails_when_asked_once_more_is_replaced_as_always():
    broken = Script(error=ConnectFailed("gone", backend="scripted", model="lines"))
    client, _ = duet("no json", broken, retry=Retry(attempts=1))
    reply = await client.chat("q", response_format=JSON)
    assert (reply.text, reply.served_by) == ("notes", "reasoner_fallback")


async def test_a_stream_whose_caller_lets_answers_start_over_is_told_that_the_first_is_void():
    client, _ = duet("no json", "{}", on_failure=FailurePolicy(answer_broken="restart"))
    async with client.stream("q", response_format=JSON) as run:
        seen = [event async for event in run if isinstance(event, AnswerDelta | Retried)]
    started_over = seen.index(Retried("generator", discard=True))
    assert ["".join(event.text for event in part) for part in (seen[:started_over], seen[started_over + 1 :])] == [
        "no json",
        "{}",
    ]


async def test_several_answers_are_left_as_they_are():
    client, generator = duet("no json")
    reply = await client.chat("q", response_format=JSON, n=2)
    assert (reply.answers, len(generator.calls)) == (("no json", "no json"), 1)


async def test_a_server_whose_grammar_wants_strict_is_told_so_where_a_call_is_forced():
    generator = Scripted(CALL, "Paris.", capabilities=replace(DEFAULT_CAPABILITIES, strict_tools=True))
    client = AsyncDuetClient("scripted/notes", generator)
    for choice in ("required", "auto"):
        await client.chat("q", mode="generator", tools=[TOOL], tool_choice=choice)
    assert [call.tools[0]["function"].get("strict") for call in generator.calls] == [True, None]
