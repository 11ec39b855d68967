"""What an attempt's outputs come to: the answer without its thinking, and whether there is one at all."""

import json

import pytest
from support import templates
from support.fault_server import Answer, FaultServer

from duet_sdk import AsyncDuetClient, BreakerPolicy, Budget, FailurePolicy, NoAnswer
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.events import AnswerDelta, AnswerDone, AttemptEnded, FellBack, Retried
from duet_sdk.policies import Ladder, Retry
from duet_sdk.types import ToolCall

ONCE = Retry(attempts=1)
OPEN = "The west coast.\n</think>\n\nBergen is one."
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
ANSWER_ONLY = {"mode": "generator"}


def duet(generator, reasoner="scripted/17", **options):
    options.setdefault("retry", ONCE)
    return AsyncDuetClient(reasoner, generator if not isinstance(generator, str) else Scripted(generator), **options)


def saying(*words, finish="stop", index=0):
    """A model that ends as told, with one chunk for each word."""

    class Model(Scripted):
        async def stream(self, call):
            self.calls.append(call)
            for at, word in enumerate(words):
                yield Chunk(word, index=index, usage=StageUsage(3, at + 1))
            yield Chunk(finish_reason=finish, usage=StageUsage(3, len(words)), last=True)

    from duet_sdk.backends.base import Chunk
    from duet_sdk.reply import StageUsage

    return Model()


async def streamed(client, **options):
    async with client.stream("Which town?", **options) as run:
        events = [event async for event in run]
    return "".join(event.text for event in events if isinstance(event, AnswerDelta)), events, run.reply


# Thinking in the text


async def test_what_stands_before_a_closing_tag_alone_is_no_answer():
    async with duet(OPEN) as client:
        reply = await client.chat("q", **ANSWER_ONLY)
    assert (reply.text.strip(), reply.finish_reason) == ("Bergen is one.", "stop")


async def test_a_stream_is_held_back_once_a_model_is_known_to_open_its_thinking():
    async with duet(OPEN) as client:
        shown, events, first = await streamed(client, **ANSWER_ONLY)
        (done,) = [event for event in events if isinstance(event, AnswerDone)]
        assert shown == OPEN  # nothing was known of the model
        assert first.text.strip() == done.text.strip() == "Bergen is one."
        shown, _, second = await streamed(client, **ANSWER_ONLY)
        assert shown == second.text == first.text


@pytest.mark.parametrize("template", ["deepseek_r1_distill", "llama3"])
async def test_a_server_that_shares_its_template_tells_whether_it_opens_thinking(template):
    said = "We count.\n</think>\n\nBergen."
    async with FaultServer(Answer(said), files=templates.files(template)) as server:
        async with AsyncDuetClient("scripted/a", f"vllm/m@{server.url}") as client:
            shown, _, reply = await streamed(client, **ANSWER_ONLY)
    assert (shown.strip(), reply.text.strip()) == ("Bergen." if "r1" in template else said, "Bergen.")


async def test_holding_back_ends_with_the_first_answer_without_thinking():
    async with duet(Scripted(OPEN, "Bergen is one.")) as client:
        await client.chat("q", **ANSWER_ONLY)
        shown, events, _ = await streamed(client, **ANSWER_ONLY)
        assert [event.text for event in events if isinstance(event, AnswerDelta)] == ["Bergen is one."] == [shown]
        _, events, _ = await streamed(client, **ANSWER_ONLY)
        assert len([event for event in events if isinstance(event, AnswerDelta)]) == 3


async def test_a_held_stream_that_its_limit_cuts_is_all_thinking():
    async with duet(OPEN, on_failure=FailurePolicy(answer_empty="keep")) as client:
        await client.chat("q", **ANSWER_ONLY)
        shown, _, reply = await streamed(client, **ANSWER_ONLY, budget=Budget(answer_tokens=2))
    assert (shown, reply.text, reply.finish_reason) == ("", "", "length")


async def test_each_of_several_answers_loses_its_own_thinking():
    async with duet(Scripted(lambda call: "<seed:think>a b</seed:think>Bergen is one.")) as client:
        reply = await client.chat("q", n=2, **ANSWER_ONLY)
    assert reply.answers == ("Bergen is one.", "Bergen is one.")


async def test_a_closing_tag_in_code_is_part_of_the_answer():
    text = "Thinking ends with `</think>` in R1."
    async with duet(text) as client:
        assert (await client.chat("q", **ANSWER_ONLY)).text == text
        assert (await streamed(client, **ANSWER_ONLY))[0] == text


async def test_a_reasoner_s_thinking_is_no_part_of_its_notes():
    async with duet("a b", reasoner=Scripted("Let me see.\n</think>\n\nResult: 17.")) as client:
        assert (await client.chat("q")).signal.text == "Result: 17."


# An answer in the field for thinking


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_an_answer_that_a_parser_took_for_thinking_is_the_answer(how):
    async with duet(Scripted(Script(reasoning="Bergen is one."))) as client:
        if how == "whole":
            reply = await client.chat("q")
        else:
            shown, _, reply = await streamed(client)
            assert shown == "Bergen is one."
    assert (reply.text, reply.served_by, reply.finish_reason) == ("Bergen is one.", "pair", "stop")


async def test_so_it_is_under_a_response_format_and_nothing_is_asked_twice():
    generator = Scripted(Script(reasoning='{"a": 1}'))
    async with duet(generator, reasoner=generator) as client:
        reply = await client.chat("q", mode="reasoner", response_format={"type": "json_object"})
    assert (reply.text, len(generator.calls)) == ('{"a": 1}', 1)


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ({"type": "function", "function": {"name": "look_up"}}, '{"town": "Bergen"}'),
        ("required", '[{"name": "look_up", "parameters": {"town": "Bergen"}}]'),
    ],
)
async def test_so_it_is_where_a_tool_had_to_be_called(choice, written):
    generator = Scripted(Script(reasoning=written))
    async with duet(generator) as client:
        reply = await client.chat("q", tools=[TOOL], tool_choice=choice)
    (call,) = reply.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look_up", {"town": "Bergen"})
    assert call.id
    assert (reply.text, reply.finish_reason, len(generator.calls)) == ("", "tool_calls", 1)


async def test_thinking_beside_a_text_or_a_call_stays_thinking():
    calling = Script(reasoning="I look it up.", tool_calls=(ToolCall("c", "look_up", "{}"),))
    async with duet(Scripted(Script("Bergen", reasoning="West."), calling)) as client:
        assert (await client.chat("q")).text == "Bergen"
        reply = await client.chat("q", tools=[TOOL])
    assert (reply.text, reply.finish_reason, reply.tool_calls[0].name) == ("", "tool_calls", "look_up")


# Answers that say nothing

EMPTY = {
    "no text": (Script(""), "its text is empty"),
    "whitespace": (saying(" \n", "\n"), "its text is empty"),
    "a block alone": (Script("<think>West.</think>\n"), "it wrote nothing but thinking"),
    "a block left open": (Script("<think>West."), "it wrote nothing but thinking"),
    "a filter": (saying(finish="content_filter"), "a content filter ended it"),
    "thinking up to the limit": (Script(reasoning="a b c d e"), "its limit of 3 tokens was used up by thinking"),
}


def model_of(given):
    return given if isinstance(given, Scripted) else Scripted(given)


@pytest.mark.parametrize(("given", "what"), EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_where_an_answer_says_nothing_the_reasoner_answers(given, what, how):
    async with duet(model_of(given), reasoner=Scripted("17", "Bergen")) as client:
        budget = Budget(answer_tokens=3)
        if how == "whole":
            reply = await client.chat("q", budget=budget)
        else:
            shown, events, reply = await streamed(client, budget=budget)
            assert shown == "Bergen"
            (fell,) = [event for event in events if isinstance(event, FellBack)]
            assert (fell.error_type, fell.discard) == ("NoAnswer", False)
    assert (reply.text, reply.served_by, reply.finish_reason) == ("Bergen", "reasoner_fallback", "stop")
    assert what in reply.why
    tried = next(attempt for attempt in reply.receipt.attempts if attempt.stage == "generator")
    assert (tried.error_type, tried.discarded) == ("NoAnswer", True)
    assert what in tried.error
    assert tried.usage.input_tokens > 0


@pytest.mark.parametrize(("given", "what"), EMPTY.values(), ids=EMPTY)
async def test_where_nothing_else_can_answer_the_reply_says_that_it_says_nothing(given, what):
    async with duet(model_of(given)) as client:
        reply = await client.chat("q", **ANSWER_ONLY, budget=Budget(answer_tokens=3))
    assert (reply.text, reply.served_by) == ("", "generator")
    assert reply.finish_reason in ("empty", "length", "content_filter")
    assert what in reply.why
    assert reply.usage.generator.input_tokens > 0


async def test_it_is_raised_where_failures_are():
    async with duet("", on_failure="raise") as client:
        with pytest.raises(NoAnswer, match="its text is empty") as empty:
            await client.chat("q", **ANSWER_ONLY)
    assert empty.value.retryable


async def test_an_empty_answer_is_asked_for_again_and_one_that_was_cut_is_not():
    again = Retry(attempts=2, first_wait_s=0)
    events = (await streamed(duet(Scripted("", "Bergen"), retry=again)))[1]
    assert events[-1].reply.text == "Bergen"
    (retried,) = [event for event in events if isinstance(event, Retried)]
    assert "its text is empty" in retried.error
    cut = Scripted(Script(reasoning="a b c d"))
    reply = await duet(cut, retry=again).chat("q", **ANSWER_ONLY, budget=Budget(answer_tokens=2))
    assert (len(cut.calls), reply.finish_reason) == (1, "length")


async def test_the_next_model_of_a_chain_answers():
    async with duet([Scripted(""), Scripted("Bergen")]) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by) == ("Bergen", "pair")
    assert "gave no answer" in reply.why


async def test_the_fallback_pair_answers():
    policy = FailurePolicy(retry=ONCE, fallback_pair=("scripted/x", "scripted/Bergen"))
    async with AsyncDuetClient("scripted/17", Scripted(""), on_failure=policy) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by) == ("Bergen", "fallback_pair")


async def test_keep_gives_the_empty_reply_at_once():
    generator = Scripted("")
    policy = FailurePolicy(answer_empty="keep")
    async with AsyncDuetClient("scripted/17", generator, on_failure=policy) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by, reply.finish_reason, len(generator.calls)) == ("", "pair", "empty", 1)
    assert "its text is empty" in reply.why


async def test_both_empty_is_said_of_both():
    async with duet("", reasoner=Scripted("17", "")) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by, reply.finish_reason) == ("", "reasoner_fallback", "empty")
    assert reply.why.count("its text is empty") == 2


async def test_one_empty_answer_of_several_is_labelled_and_not_the_reply():
    outputs = iter(["", "Bergen", "", "Oslo", "", ""])
    async with duet(Scripted(lambda call: next(outputs))) as client:
        _, events, reply = await streamed(client, n=2, **ANSWER_ONLY)
        voted = await client.chat("q", n=4, vote="majority", **ANSWER_ONLY)
    assert (reply.text, reply.finish_reason) == ("Bergen", "stop")
    assert [event.finish_reason for event in events if isinstance(event, AnswerDone)] == ["empty", "stop"]
    assert voted.text == "Oslo"


async def test_an_empty_answer_is_no_outage_of_its_server():
    breaking = FailurePolicy(retry=Retry(attempts=4, first_wait_s=0), breaker=BreakerPolicy(failures=2, rest_s=60))
    async with duet(Scripted("", "", "", "Bergen"), retry=None, on_failure=breaking) as client:
        _, events, reply = await streamed(client)
    assert reply.text == "Bergen"
    ended = [event.error_type for event in events if isinstance(event, AttemptEnded) and event.stage == "generator"]
    assert ended == ["NoAnswer", "NoAnswer", "NoAnswer", None]


async def test_an_empty_signal_says_why_the_generator_was_alone():
    async with duet("Bergen", reasoner=Scripted("")) as client:
        reply = await client.chat("q")
    assert reply.why == (
        "there was no signal, so the generator answered alone: the reasoner wrote no signal; it ended by itself"
    )


@pytest.mark.parametrize("said", [(), ("I cannot.",)])
async def test_a_signal_that_a_filter_ended_says_so(said):
    async with duet("Bergen", reasoner=saying(*said, finish="content_filter")) as client:
        reply = await client.chat("q")
    assert (reply.text, reply.served_by, reply.signal.text) == ("Bergen", "generator_fallback", "")
    assert reply.why.endswith("the reasoner wrote no signal; a content filter ended it")


@pytest.mark.parametrize("said", ["<think>Oslo? No.</think>Bergen.", "Oslo? No.\n</think>\n\nBergen."])
async def test_a_signal_in_the_reasoning_field_is_taken_without_its_thinking(said):
    async with FaultServer(Answer("", reasoning=said)) as server:
        async with AsyncDuetClient(f"vllm/m@{server.url}", "scripted/ok") as client:
            reply = await client.chat("q")
    assert (reply.signal.text, reply.served_by) == ("Bergen.", "pair")


async def test_the_ladder_decides():
    async with duet("", on_failure=Ladder(generator="raise")) as client:
        with pytest.raises(NoAnswer):
            await client.chat("q")


# Ends that do not fit


@pytest.mark.parametrize("said", ["<think>Oslo? No.</think>Bergen.", "Oslo? No.\n</think>\n\nBergen."])
async def test_an_answer_in_the_reasoning_field_is_shown_without_its_thinking(said):
    async with FaultServer(Answer("", reasoning=said)) as server:
        async with AsyncDuetClient("scripted/17", f"vllm/m@{server.url}") as client:
            reply = await client.chat("q", **ANSWER_ONLY)
    assert (reply.text, reply.finish_reason) == ("Bergen.", "stop")


async def test_an_output_that_names_calls_as_its_end_and_has_none_has_just_stopped():
    async with duet(saying("Bergen.", finish="tool_calls")) as client:
        reply = await client.chat("q", tools=[TOOL], **ANSWER_ONLY)
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("Bergen.", "stop", ())
