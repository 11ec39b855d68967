"""What callers may write as messages."""

import copy
import dataclasses
import json
import pickle

import pytest

from duet_sdk.errors import InvalidRequest
from duet_sdk.messages import check_tools, parse_messages
from duet_sdk.types import ImagePart, Message, ProviderParts, TextPart, ToolCall


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
        ([], "messages is empty"),
        (None, "got NoneType"),
        ({"role": "user", "content": "q"}, "got one dict"),
        (
            [{"role": "robot", "content": "q"}],
            "message 0 has the role 'robot'; known: system, user, assistant, tool",
        ),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": None}], "message 0 has no content"),
        ([{"role": "user", "content": []}], "message 0 has no content"),
        ([{"role": "user", "content": 7}], "got int"),
        ([{"role": "user", "content": [{"type": "video"}]}], "type 'video'"),
        ([{"role": "user", "content": [7]}], "neither a string nor a mapping"),
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
        ([{}], "tool 0 must look like"),
        ([{"type": "function", "function": {"name": ""}}], "tool 0 must look like"),
        ([{"function": {"name": "a"}}, {"function": {"name": "a"}}], "two tools are named 'a'"),
        (
            [{"function": {"name": "a", "parameters": {"properties": 7}}}],
            "the parameters of tool 'a' must be a JSON schema",
        ),
    ],
)
def test_tools_without_names_or_with_the_same_are_refused(tools, words):
    with pytest.raises(InvalidRequest, match=words):
        check_tools(tools)


def test_an_assistant_message_carries_its_signal():
    ours = [Message("user", "q"), Message("assistant", "a", signal="plan"), Message("user", "q")]
    assert list(parse_messages(ours)) == ours
    wire = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "signal": "plan"}, ours[2]]
    assert list(parse_messages(wire)) == ours


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_in_a_history_may_be_any_model_s_and_is_no_signal(field):
    wire = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", field: "mumble"}]
    assert parse_messages([*wire, {"role": "user", "content": "q"}])[1] == Message("assistant", "a")


PARTS = ProviderParts("e", "m", '{"message": {"reasoning_content": "secret"}, "calls": {}}')
WHOLE = (
    Message("system", "be brief"),
    Message("user", (TextPart("which?"), ImagePart("https://x/y.png", "low")), name="ada"),
    Message("assistant", "", (ToolCall("c1", "look_up", '{"town": 1}'),), signal="plan", provider_parts=PARTS),
    Message("tool", "none", tool_call_id="c1", name="look_up", failed=True),
)


def test_messages_come_back_from_json_as_they_were():
    text = json.dumps([message.to_dict() for message in WHOLE])
    assert parse_messages(json.loads(text)) == WHOLE


def test_messages_come_back_from_pickles_and_copies_as_they_were():
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE
    assert copy.deepcopy(WHOLE) == WHOLE
    assert parse_messages([dataclasses.asdict(WHOLE[2]), WHOLE[3], WHOLE[1]])[0] == WHOLE[2]


def test_provider_parts_are_in_no_repr():
    assert "secret" not in repr(WHOLE) + repr(PARTS)


@pytest.mark.parametrize("given", ["text", {"endpoint": "e"}, {"endpoint": "e", "model": 1, "text": ""}])
def test_provider_parts_of_another_form_are_refused(given):
    wire = {"role": "assistant", "content": "a", "provider_parts": given}
    with pytest.raises(InvalidRequest, match="message 0: provider_parts must be as"):
        parse_messages([wire, Message("user", "q")])


@pytest.mark.parametrize("value", ["", "  ", None, [{"type": "reasoning.text"}], {"text": "plan"}])
def test_reasoning_of_other_forms_is_dropped(value):
    wire = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": value}, "q"][:2]
    assert parse_messages([*wire, {"role": "user", "content": "q"}])[1] == Message("assistant", "a")


def test_reasoning_on_a_message_of_another_role_is_dropped():
    assert parse_messages([{"role": "user", "content": "q", "reasoning": "plan"}])[0].signal is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message("user", "q", signal="plan"), "message 0 is from 'user' and carries a signal"),
        ({"role": "assistant", "content": "a", "signal": 3}, "message 0: signal must be a string, got int"),
    ],
)
def test_a_signal_where_none_can_be_is_refused(message, words):
    with pytest.raises(InvalidRequest, match=words):
        parse_messages([message, Message("user", "q")])


@pytest.mark.parametrize("mark", [{"is_error": True}, {"status": "error"}])
def test_a_tool_result_can_be_marked_as_failed(mark):
    wire = {"role": "tool", "content": "no", "tool_call_id": "c", **mark}
    assert parse_messages([Message("user", "q"), wire])[1] == Message("tool", "no", tool_call_id="c", failed=True)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thought", "text": "mumble"},
        {"type": "reasoning_text", "text": "mumble"},
        {"type": "text", "text": "mumble", "thought": True},
    ],
)
def test_a_foreign_thought_in_a_history_is_left_out_however_it_is_marked(part):
    history = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [part, {"type": "text", "text": "17"}]},
        {"role": "user", "content": "sure?"},
    ]
    assert parse_messages(history)[1].content == "17"


@pytest.mark.parametrize(
    "said", [{"content": None, "refusal": "I cannot."}, {"content": [{"type": "refusal", "refusal": "I cannot."}]}]
)
def test_a_refusal_in_a_history_is_what_was_said(said):
    history = [{"role": "user", "content": "q"}, {"role": "assistant", **said}, {"role": "user", "content": "why?"}]
    assert parse_messages(history)[1].content == "I cannot."


def test_arguments_that_are_null_in_a_history_are_none():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": None}}
    history = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    ]
    assert parse_messages(history)[1].tool_calls[0].arguments == "{}"
