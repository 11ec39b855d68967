"""Several answers from one signal, and the vote among them."""

import pytest
from support import agents

from duet_sdk import AsyncDuetClient, Sampling
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import InvalidRequest
from duet_sdk.pipeline.votes import choose, normalise
from duet_sdk.types import ToolCall


def saying(*lines):
    """A generator whose n-th answer is the n-th line."""
    rest = iter(lines)
    return Scripted(lambda call: next(rest))


async def ask(*lines, vote="majority", reasoner="scripted/sketch", **options):
    duet = AsyncDuetClient(reasoner, saying(*lines))
    return await duet.chat("q", n=len(lines), vote=vote, **options)


async def test_all_answers_come_from_one_signal_that_is_paid_for_once():
    reasoner = Scripted("a sketch")
    reply = await ask("17", "18", "17.0", reasoner=reasoner)
    assert (len(reasoner.calls), reply.usage.reasoner.output_tokens) == (1, 2)
    assert reply.answers == ("17", "18", "17.0")


@pytest.mark.parametrize(
    "same",
    [
        ["17", "17.0", " 17. ", "**17**", "$17$", "\\boxed{17}", "So it is \\boxed{17}, surely.", "The answer is 17."],
        ["1000", "$1,000", "1,000.00", "\\boxed{\\$1,000}", "\\(1000\\)", "Final answer: $1,000\nThat was it."],
        ["-0.5", "-.50", "- 0.5"],
        ["50 %", "50%", "\\boxed{50\\%}"],
        ["b", "B", "(B)", "B)", "B.", "(b) Paris", "Answer: B", "The answer is (B). It lies on the Seine."],
        ["Paris", "paris!", "  PARIS ", "*Paris*", "The answer is: Paris."],
    ],
)
def test_answers_that_say_the_same_have_one_form(same):
    assert len({normalise(answer) for answer in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("17", "-17"),
        ("1.5", "15"),
        ("17", "17 %"),
        ("(A)", "(B)"),
        ("17 primes", "17"),
        ("x+1", "x-1"),
        ("0.1", "0.10001"),
    ],
)
def test_answers_that_differ_have_different_forms(one, other):
    assert normalise(one) != normalise(other)


def test_the_last_boxed_part_counts():
    assert normalise("\\boxed{3}, no, \\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"


async def test_on_a_tie_the_form_that_came_first_wins():
    reply = await ask("19", "17", "17.0", "19.")
    assert (reply.text, reply.agreement) == ("19", 0.5)


async def test_the_winner_is_shown_as_it_was_written():
    assert (await ask("18", "It is \\boxed{17}.", "17")).text == "It is \\boxed{17}."


async def test_a_single_answer_agrees_with_itself():
    reply = await ask("17")
    assert (reply.text, reply.agreement) == ("17", 1.0)


async def test_without_a_vote_the_first_answer_is_taken_and_nothing_said_of_agreement():
    reply = await ask("19", "17", "17", vote=None)
    assert (reply.text, reply.agreement) == ("19", None)


async def test_a_vote_of_the_users_own_sees_the_texts_and_agreement_is_counted_all_the_same():
    seen = []

    def last(answers):
        seen.extend(answers)
        return len(answers) - 1

    reply = await ask("17", "17.0", "19", "17", vote=last)
    assert (seen, reply.text, reply.agreement) == (["17", "17.0", "19", "17"], "17", 0.75)


@pytest.mark.parametrize("given", [4, -1, None, "0", True, 1.0])
async def test_a_vote_that_names_no_answer_is_refused(given):
    with pytest.raises(InvalidRequest, match="vote must return an index from 0 to 2"):
        await ask("a", "b", "c", vote=lambda answers: given)


async def test_what_a_stream_has_shown_survives_a_vote_that_fails():
    duet = AsyncDuetClient("scripted/sketch", saying("a", "b"))
    async with duet.stream("q", n=2, vote=lambda answers: answers[7]) as run:
        with pytest.raises(InvalidRequest, match="the vote failed with IndexError"):
            [event async for event in run]
    assert (run.reply.answers, run.reply.finish_reason) == (("a", "b"), "error")
    assert run.reply.usage.generator.output_tokens == 2


async def test_answers_that_call_tools_agree_where_their_calls_do():
    def calling(path, text=""):
        return Script(text, tool_calls=(ToolCall("c", "read", path),))

    lines = ("I cannot.", calling('{"path": "a"}', "Let me see."), calling('{"path":"a"}'), calling('{"path": "b"}'))
    reply = await ask(*lines, tools=[agents.READ])
    assert (reply.text, reply.tool_calls) == ("Let me see.", (ToolCall("c", "read", '{"path": "a"}'),))
    assert reply.agreement == 0.5
    assert reply.finish_reason == "tool_calls"


def test_a_call_agrees_with_no_text():
    calls = [[], [ToolCall("c", "read", "{")], []]
    assert choose(["", "", "x"], "majority", calls=calls) == (1, 1 / 3)


async def test_the_logprobs_are_the_winners():
    params = Sampling(logprobs=0)
    reply = await ask("no", Script("yes yes", logprob=-0.5), "yes yes", generator_params=params)
    assert [item.logprob for item in reply.logprobs] == [-0.5, -0.5]
