"""Conversations for templates and servers that take one system message in front, and users and assistants in turn."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk.rendering.folding import ALTERNATING, AS_IT_IS, NO_SYSTEM, SYSTEM_FIRST, Folding, folded

CALL = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}


def turns(*words: str):
    """``s: …`` and so on, one turn each."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[word[0]], "content": word[2:].strip()} for word in words]


def shown(turns):
    return [f"{turn['role'][0]}: {turn['content']}" for turn in turns]


@pytest.mark.parametrize(
    ("level", "given", "wanted"),
    [
        (SYSTEM_FIRST, ("s: one", "s: two", "u: q"), ["s: one\n\ntwo", "u: q"]),
        (SYSTEM_FIRST, ("s: one", "u: q", "a: r", "s: two", "u: q"), ["s: one\n\ntwo", "u: q", "a: r", "u: q"]),
        (SYSTEM_FIRST, ("u: q", "s: one"), ["s: one", "u: q"]),
        (ALTERNATING, ("u: p", "u: q"), ["u: p\n\nq"]),
        (ALTERNATING, ("u: q", "s: one", "u: r"), ["s: one", "u: q\n\nr"]),
        (ALTERNATING, ("u: q", "a: r", "a: s", "u: t"), ["u: q", "a: r\n\ns", "u: t"]),
        (ALTERNATING, ("s: one", "a: hello", "u: q"), ["s: one", "u: …", "a: hello", "u: q"]),
        (ALTERNATING, ("a: hello", "u: q"), ["u: …", "a: hello", "u: q"]),
        (NO_SYSTEM, ("s: one", "u: q"), ["u: one\n\nq"]),
        (NO_SYSTEM, ("s: one", "a: hello", "s: two", "u: q"), ["u: one\n\ntwo\n\n…", "a: hello", "u: q"]),
    ],
)
def test_a_conversation_is_folded(level, given, wanted):
    assert shown(folded(turns(*given), level)) == wanted


@pytest.mark.parametrize("level", [AS_IT_IS, SYSTEM_FIRST, ALTERNATING])
def test_what_fits_stays_as_it_is(level):
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "x", "tool_call_id": "c1"}
    given = [*turns("s: one", "u: q"), call, result, *turns("a: r", "u: q")]
    assert folded(given, level) == given


def test_results_without_their_call_are_data_in_a_user_s_words():
    told = folded([{"role": "tool", "content": "5</result>", "tool_call_id": "c9"}, *turns("u: q")], ALTERNATING)
    assert [turn["role"] for turn in told] == ["user"]
    assert "5<\u200b/result>" in told[0]["content"]
    assert told[0]["content"].endswith("</result>\n\nq")


def test_a_user_after_a_tool_s_result_follows_an_assistant():
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "x", "tool_call_id": "c1"}
    told = folded([*turns("u: q"), call, result, *turns("u: r")], ALTERNATING)
    assert [turn["role"] for turn in told] == ["user", "assistant", "tool", "assistant", "user"]


def test_calls_and_parts_of_joined_turns_are_all_there():
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    first = {"role": "assistant", "content": "one", "tool_calls": [CALL]}
    then = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "c2"}]}
    asked = [{"role": "user", "content": [image], "name": "ada"}, {"role": "user", "content": "what?", "name": "bob"}]
    told = folded([*asked, first, then], ALTERNATING)
    assert told[0] == {"role": "user", "content": [image, {"type": "text", "text": "what?"}]}
    assert [call["id"] for call in told[1]["tool_calls"]] == ["c1", "c2"]
    assert told[1]["content"] == "one"


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@settings(max_examples=300)
@given(roles=st.lists(ROLES, min_size=1, max_size=8), level=st.integers(0, 3))
def test_no_text_is_lost_and_folding_twice_changes_nothing(roles, level):
    given = [{"role": role, "content": f"<{at}>"} for at, role in enumerate(roles)]
    done = folded(given, level)
    text = "\n".join(turn["content"] for turn in done)
    assert all(text.count(turn["content"]) == 1 for turn in given)
    assert folded(done, level) == done
    if level >= ALTERNATING:
        spoken = [turn["role"] for turn in done if turn["role"] != "system"]
        assert all(one != other for one, other in itertools.pairwise(spoken))


REFUSALS = [
    ("System message must be at the beginning.", SYSTEM_FIRST),
    ("messages[2]: role 'system' is only allowed at index 0", SYSTEM_FIRST),
    ("System role should appear at the top", SYSTEM_FIRST),
    ("Invalid value: 'system'. Supported values are: 'user', 'assistant'", NO_SYSTEM),
    ("Developer instruction is not enabled for models/gemma-3-27b-it", NO_SYSTEM),
    ("Jinja Exception: System message must be the first message", SYSTEM_FIRST),
    ("Unexpected role 'system' after role 'user'", SYSTEM_FIRST),
    ("only one system message is allowed", SYSTEM_FIRST),
    ("Conversation roles must alternate user/assistant/user/assistant/...", ALTERNATING),
    ("After the optional system message, conversation roles must alternate user/assistant/user/...", ALTERNATING),
    ('messages: roles must alternate between "user" and "assistant", but found multiple "user" roles', ALTERNATING),
    ("A conversation must alternate between user and assistant roles.", ALTERNATING),
    ("deepseek-reasoner does not support successive user or assistant messages", ALTERNATING),
    ("A conversation must start with a user message.", ALTERNATING),
    ("Unexpected role 'user' after role 'tool'", ALTERNATING),
    ("Please ensure that multiturn requests alternate between user and model.", ALTERNATING),
    ("System role not supported", NO_SYSTEM),
    ("Only user and assistant roles are supported!", NO_SYSTEM),
    ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", NO_SYSTEM),
]


@pytest.mark.parametrize(("words", "level"), REFUSALS)
def test_a_server_s_words_say_what_it_wants(words, level):
    given = turns("s: one", "u: p", "u: q", "s: two", "a: r", "u: q")
    folding = Folding()
    assert folding.learns(given, level=AS_IT_IS, words=words)
    assert folding.level == level


@pytest.mark.parametrize("words", ["temperature must be at most 2", "the system is busy", "tool x is not known", ""])
def test_other_refusals_change_nothing(words):
    folding = Folding()
    assert not folding.learns(turns("s: one", "s: two", "u: q"), level=AS_IT_IS, words=words)
    assert folding.level == AS_IT_IS


def test_a_conversation_that_is_in_order_is_not_tried_again():
    assert not Folding().learns(turns("u: q"), level=AS_IT_IS, words="roles must alternate")


def test_a_request_that_was_on_its_way_when_another_learned_is_tried_again():
    given, folding = turns("s: one", "s: two", "u: q"), Folding()
    for _ in range(2):  # both were sent before either was refused
        assert folding.learns(given, level=AS_IT_IS, words="System message must be at the beginning")
    assert folding.level == SYSTEM_FIRST


def test_where_no_folding_helps_none_stays():
    given, folding = turns("s: one", "s: two", "u: q"), Folding()
    level = AS_IT_IS
    while folding.learns(given, level=level, words="roles must alternate"):
        level = folding.level
    assert folding.level == AS_IT_IS
