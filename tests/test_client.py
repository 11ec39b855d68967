"""The client: options, streams, lifetimes, concurrency."""

import asyncio
import gc
import json

import pytest
from support import agents

from duet_sdk import AsyncDuetClient, Budget, Message, Sampling
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.context import LastTurns
from duet_sdk.errors import ConfigError, ConnectFailed, InvalidRequest
from duet_sdk.events import AnswerDelta, Done, SignalDelta


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate": "sometimes"}, "gate 'sometimes' is unknown; known: always, never"),
        ({"gate": 7}, "gate must be a name"),
        ({"handoff": "telepathy"}, "handoff 'telepathy' is unknown; known: instruct, think"),
        ({"on_cut": "chop"}, "on_cut 'chop' is unknown"),
        ({"on_failure": "shrug"}, "on_failure 'shrug' is unknown"),
        ({"context": "none"}, "context 'none' is unknown"),
        ({"context": 7}, "context must be a name or a function"),
    ],
)
def test_unknown_options_are_refused_when_the_client_is_made(options, words):
    with pytest.raises(ConfigError, match=words):
        AsyncDuetClient("scripted/a", "scripted/b", **options)


def test_an_option_that_does_not_exist_is_a_type_error():
    with pytest.raises(TypeError, match="'gates' is not an option here; did you mean 'gate'"):
        AsyncDuetClient("scripted/a", "scripted/b", gates="always")


class LooksLikeABackend:
    """Has the methods of a backend and of an endpoint, and is neither."""

    name = model = "x"

    async def connect(self):
        raise NotImplementedError

    def stream(self, call):
        raise NotImplementedError

    def connect_options(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "'nonsense' does not name a model"),
        ("/x", "does not name a model"),
        ("scripted/", "does not name a model"),
        ("gtp/four", "there is no backend 'gtp'; there are litellm, scripted, transformers, vllm"),
        ("scripted/x@http://127.0.0.1:1/v1", "no option 'base_url'"),
        (7, "got int; for a model of your own derive from duet_sdk.backends.Backend"),
        (LooksLikeABackend(), "got LooksLikeABackend; for a model of your own derive from"),
        ([LooksLikeABackend()], "got LooksLikeABackend"),
        ([], "list of models is empty"),
    ],
)
def test_a_model_that_cannot_be_found_is_refused_when_the_client_is_made(name, words):
    with pytest.raises(ConfigError, match=words):
        AsyncDuetClient(name, "scripted/b")


@pytest.mark.parametrize(
    ("models", "missing"), [({"reasoner": "scripted/a"}, "generator"), ({"generator": "scripted/a"}, "reasoner")]
)
def test_half_a_pair_is_refused(models, missing):
    with pytest.raises(ConfigError, match=f"the {missing} is not named"):
        AsyncDuetClient(**models)


def test_nothing_named_means_the_embedded_pair():
    assert AsyncDuetClient().models == {"reasoner": "transformers/embedded", "generator": "transformers/embedded"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "both"}, "mode 'both' is unknown; known: duet, reasoner, generator, signal"),
        ({"n": 0}, "n must be a whole number from 1 to 64"),
        ({"n": True}, "n must be"),
        ({"vote": "loudest"}, "vote must be 'majority' or a function"),
        ({"temperature": -1}, "temperature must be a number of at least 0"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"stop": ""}, "stop contains an empty string"),
    ],
)
async def test_a_request_out_of_range_is_refused_before_anything_is_spent(options, words):
    reasoner = Scripted("s")
    with pytest.raises(InvalidRequest, match=words):
        await AsyncDuetClient(reasoner, Scripted("a")).chat("q", **options)
    assert reasoner.calls == []


async def test_leaving_a_stream_early_ends_the_stage_and_gives_the_partial_reply():
    generator = Scripted(Script("one two three", stall_after=2))
    async with AsyncDuetClient(Scripted("sketch"), generator) as duet:
        async with duet.stream("q") as run:
            async for event in run:
                if isinstance(event, AnswerDelta) and event.text == " two":
                    break
            assert generator.open_calls == 1
        assert generator.open_calls == 0
        assert generator.cancelled == 1
    assert (run.reply.text, run.reply.finish_reason) == ("one two", "cancelled")
    assert run.reply.usage.generator.output_tokens == 2
    assert run.reply.receipt.attempts[1].error_type == "cancelled"


async def test_leaving_before_the_first_event_spends_nothing():
    reasoner = Scripted("s")
    async with AsyncDuetClient(reasoner, Scripted("a")).stream("q") as run:
        pass
    assert reasoner.calls == []
    assert run.reply.finish_reason == "cancelled"


async def test_the_reply_is_refused_while_the_run_goes_on():
    async with AsyncDuetClient(Scripted("s"), Scripted("a")).stream("q") as run:
        await anext(run)
        with pytest.raises(InvalidRequest, match="not complete"):
            _ = run.reply


async def test_a_run_is_iterated_inside_its_context():
    with pytest.raises(InvalidRequest, match="async with"):
        await anext(AsyncDuetClient(Scripted("s"), Scripted("a")).stream("q"))


async def test_cancelling_the_task_ends_the_stage():
    reasoner = Scripted(Script("never", stall_after=0))
    task = asyncio.create_task(AsyncDuetClient(reasoner, Scripted("a")).chat("q"))
    while not reasoner.open_calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (reasoner.open_calls, reasoner.cancelled) == (0, 1)


async def test_a_run_can_be_closed_while_another_task_waits_for_its_next_event():
    generator = Scripted(Script("one two three", stall_after=2))
    run = AsyncDuetClient(Scripted("sketch"), generator).stream("q")
    seen: list[str] = []

    async def read() -> str:
        async with run:
            async for event in run:
                seen.extend([event.text] if isinstance(event, AnswerDelta) else [])
        return run.reply.text

    reading = asyncio.create_task(read())
    while len(seen) < 2:
        await asyncio.sleep(0)
    await run.aclose()
    assert (generator.open_calls, generator.cancelled) == (0, 1)
    assert run.reply.finish_reason == "cancelled"
    assert await reading == "one two"
    assert reading.cancelling() == 0


async def test_a_reader_that_is_cancelled_itself_stays_cancelled_when_its_run_is_closed_too():
    generator = Scripted(Script("one two", stall_after=1))
    run = AsyncDuetClient(Scripted("sketch"), generator).stream("q")

    async def read() -> None:
        async with run:
            async for _ in run:
                pass

    reading = asyncio.create_task(read())
    while not generator.open_calls:
        await asyncio.sleep(0)
    reading.cancel()
    await run.aclose()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert generator.open_calls == 0


async def test_a_run_that_is_forgotten_ends_its_stage():
    reasoner = Scripted(Script("one two", stall_after=1))
    run = AsyncDuetClient(reasoner, Scripted("a")).stream("q")
    await run.__aenter__()
    async for event in run:
        if isinstance(event, SignalDelta):
            break
    del run, event
    gc.collect()
    while reasoner.open_calls:
        await asyncio.sleep(0)
    assert reasoner.cancelled == 1


async def test_an_error_leaves_the_partial_reply_on_the_run():
    generator = Scripted(Script("one two", error=ConnectFailed("x", backend="b", model="m"), fail_after=1))
    async with AsyncDuetClient(Scripted("sketch"), generator).stream("q") as run:
        with pytest.raises(ConnectFailed.__mro__[1]):
            async for _ in run:
                pass
    assert (run.reply.text, run.reply.signal.text, run.reply.finish_reason) == ("one", "sketch", "error")


async def test_one_client_serves_many_tasks_and_keeps_them_apart():
    reasoner = Scripted(lambda call: f"for {call.messages[-1].text}")
    generator = Scripted(lambda call: Script(call.messages[-1].text.split("for ")[1].split("\n")[0], token_s=0.001))
    async with AsyncDuetClient(reasoner, generator) as duet:
        replies = await asyncio.gather(*(duet.chat(f"q{number}") for number in range(200)))
    assert [reply.text for reply in replies] == [f"q{number}" for number in range(200)]
    assert reasoner.open_calls == generator.open_calls == 0


async def test_a_closed_client_says_so_and_closes_both_models():
    reasoner, generator = Scripted("s"), Scripted("a")
    async with AsyncDuetClient(reasoner, generator) as duet:
        pass
    assert reasoner.closed
    assert generator.closed
    with pytest.raises(ConfigError, match="closed"):
        await duet.chat("q")


def test_one_client_works_in_two_event_loops_one_after_the_other():
    duet = AsyncDuetClient(Scripted("s"), Scripted("a"))
    assert [asyncio.run(duet.chat("q")).text for _ in range(2)] == ["a", "a"]


async def test_a_conversation_keeps_questions_and_answers_but_no_signals():
    generator = Scripted("first answer", "second answer")
    talk = AsyncDuetClient(Scripted("sketch"), generator).conversation(system="Be kind.")
    await talk.chat("one?")
    async with talk.stream("two?") as run:
        async for _ in run:
            pass
    assert talk.messages == [
        Message("system", "Be kind."),
        Message("user", "one?"),
        Message("assistant", "first answer"),
        Message("user", "two?"),
        Message("assistant", "second answer"),
    ]
    assert "sketch" not in "".join(message.text for message in generator.calls[1].messages[:-1])


async def test_a_conversation_carries_the_signal_through_its_tool_turns_and_no_further():
    generator = agents.reading(2)
    reasoner = Scripted("read them all")
    talk = AsyncDuetClient(reasoner, generator).conversation()
    reply = await talk.chat(agents.TASK.text, tools=[agents.READ])
    while reply.tool_calls:
        assert [message.signal for message in talk.messages if message.signal]
        results = [Message("tool", "nothing", tool_call_id=made.id) for made in reply.tool_calls]
        reply = await talk.chat(results, tools=[agents.READ])
    assert [message.role for message in talk.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert not any(message.signal for message in talk.messages)
    assert len(reasoner.calls) == 1


async def test_a_question_in_the_middle_of_a_run_ends_its_signal():
    talk = AsyncDuetClient(Scripted("plan", "plan B"), agents.reading(2)).conversation()
    reply = await talk.chat(agents.TASK.text, tools=[agents.READ])
    result = {"role": "tool", "content": "nothing", "tool_call_id": reply.tool_calls[0].id}
    reply = await talk.chat([result, {"role": "user", "content": "Only the first!"}], tools=[agents.READ])
    assert [message.signal for message in talk.messages] == [None, None, None, None, "plan B"]


async def test_a_conversation_takes_text_or_messages():
    with pytest.raises(InvalidRequest, match="said must be a string or a list of messages, got int"):
        await AsyncDuetClient("scripted/a", "scripted/b").conversation().chat(3)


async def test_an_answer_that_says_nothing_is_no_turn_of_a_conversation():
    talk = AsyncDuetClient("scripted/a", "scripted/<think>b").conversation()
    reply = await talk.chat("q", mode="generator")
    assert (reply.is_empty, reply.finish_reason, talk.messages) == (True, "empty", [])


async def test_a_turn_that_fails_leaves_the_conversation_as_it_was():
    broken = Scripted(Script(error=ConnectFailed("x", backend="b", model="m")))
    talk = AsyncDuetClient(broken, broken).conversation()
    with pytest.raises(ConnectFailed):
        await talk.chat("one?")
    assert talk.messages == []


async def test_a_context_policy_that_leaves_no_question_is_refused():
    reasoner = Scripted("s")
    duet = AsyncDuetClient(reasoner, Scripted("a"), context=lambda messages, stage: ())
    with pytest.raises(ConfigError, match="left the reasoner without a user message"):
        await duet.chat("q")
    assert reasoner.calls == []


def test_last_turns_keep_system_messages_and_what_follows_the_turn():
    talk = (
        Message("system", "s"),
        Message("user", "1"),
        Message("assistant", "a"),
        Message("user", "2"),
        Message("assistant", "b"),
    )
    assert [message.text for message in LastTurns(1)(talk, "reasoner")] == ["s", "2", "b"]
    assert LastTurns(1, stages=("reasoner",))(talk, "generator") == talk
    with pytest.raises(ConfigError, match="turns must be a whole number of at least 1"):
        LastTurns(0)


async def test_the_budget_of_a_request_goes_over_that_of_the_client():
    reasoner = Scripted("s")
    duet = AsyncDuetClient(reasoner, Scripted("a"), budget=Budget(signal_tokens=99, answer_tokens=7))
    reply = await duet.chat("q", budget=Budget(signal_tokens=11))
    assert reply.signal.limit == reasoner.calls[0].max_tokens == 11


async def test_the_answers_sampling_reaches_the_reasoner_when_it_answers():
    reasoner = Scripted("answer")
    await AsyncDuetClient(reasoner, Scripted("a")).chat("q", mode="reasoner", temperature=0.3, stop=["x", "y"])
    assert reasoner.calls[0].sampling == Sampling(temperature=0.3, stop=("x", "y"))


async def test_every_event_is_delivered_and_done_is_last():
    async with AsyncDuetClient(Scripted("s t"), Scripted("a b")).stream("q") as run:
        events = [event async for event in run]
    assert isinstance(events[-1], Done)
    assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == run.reply.text


async def test_a_summary_tells_everything_but_what_the_models_wrote():
    async with AsyncDuetClient(Scripted("a secret sketch"), Scripted("an answer")) as duet:
        told = (await duet.chat("q", budget=Budget(signal_tokens=2))).summary()
    assert (told["served_by"], told["mode"], told["handoff"], told["finish_reason"]) == (
        "pair_cut",
        "duet",
        "instruct",
        "stop",
    )
    assert told["gate"]["policy"] == "always"
    assert (told["signal"]["tokens"], told["signal"]["limit"], told["signal"]["truncated"]) == (2, 2, True)
    assert told["cost"]["usd"] == "0"
    assert told["usage"]["reasoner"]["output_tokens"] == 2
    assert not {"secret", "answer"} & set(json.dumps(told).replace('"', " ").split())
