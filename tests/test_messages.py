"""What callers may write as messages."""

import pytest

from duet_sdk.errors import InvalidRequest
from duet_sdk.messages import check_tools, parse_messages
from duet_sdk.types import ImagePart, Message, TextPart, ToolCall


def test_a_text_is_a_question():
    assert parse_messages("why?") == (Message("user", "why?"),)


def test_mappings_in_openai_form_become_messages():
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Oslo?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    assert parse_messages(given) == (
        Message("system", "Be brief."),
        Message("user", "Weather in Oslo?"),
        Message("assistant", "", (ToolCall("1", "w", "{}"),)),
        Message("tool", "rain", tool_call_id="1"),
    )


def test_images_stay_beside_their_text():
    (message,) = parse_messages(
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:x"}}],
            }
        ]
    )
    assert message.content == (TextPart("?"), ImagePart("data:x"))


def test_thoughts_of_other_models_are_left_out():
    given = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]},
        {"role": "user", "content": "q2"},
    ]
    assert parse_messages(given)[1] == Message("assistant", "a")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "the question is empty"),
        (" \n", "the question is empty"),
        ([], "there are no messages"),
        (None, "got NoneType"),
        ({"role": "user", "content": "q"}, "got dict"),
        (
            [{"role": "robot", "content": "q"}],
            "message 0 has the role 'robot'; known are system, user, assistant, tool",
        ),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": None}], "message 0 has no content"),
        ([{"role": "user", "content": []}], "message 0 has no content"),
        ([{"role": "user", "content": 7}], "got int"),
        ([{"role": "user", "content": [{"type": "video"}]}], "type 'video'"),
        ([{"role": "user", "content": [7]}], "neither text nor mapping"),
        ([7], "message 0 must be a Message or a mapping"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "from 'assistant'"),
        ([{"role": "system", "content": "s"}], "from 'system'"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "r"}], "without tool_call_id"),
        ([{"role": "tool", "tool_call_id": "1", "content": "r"}], "no message is from 'user'"),
        (
            [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [{"id": 1}]},
                {"role": "user", "content": "q"},
            ],
            "message 1 has a tool call",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_with_what_is_wrong(given, words):
    with pytest.raises(InvalidRequest, match=words):
        parse_messages(given)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([{}], "tool 0 must read"),
        ([{"type": "function", "function": {"name": ""}}], "tool 0 must read"),
        ([{"function": {"name": "a"}}, {"function": {"name": "a"}}], "two tools are called 'a'"),
    ],
)
def test_tools_without_names_or_with_the_same_are_refused(tools, words):
    with pytest.raises(InvalidRequest, match=words):
        check_tools(tools)
