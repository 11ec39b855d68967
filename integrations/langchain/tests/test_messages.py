"""LangChain's messages as DUET reads them."""

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_duet.messages import to_duet

from duet_sdk import ImagePart, InvalidRequest, Message, TextPart, ToolCall

PNG = "iVBORw0KGgo="


def test_every_role_finds_its_own():
    read = to_duet(
        [
            SystemMessage("be brief"),
            HumanMessage("hello", name="ada"),
            AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}]),
            ToolMessage("2", tool_call_id="c1", name="add"),
            ChatMessage("and now?", role="user"),
        ]
    )
    assert read == [
        Message("system", "be brief"),
        Message("user", "hello", name="ada"),
        Message("assistant", "", (ToolCall("c1", "add", '{"a": 1}'),)),
        Message("tool", "2", tool_call_id="c1", name="add"),
        Message("user", "and now?"),
    ]


def test_a_tool_that_failed_is_known_to_have():
    (read,) = to_duet([ToolMessage("no such city", tool_call_id="c1", status="error")])
    assert read.failed


def test_a_signal_of_ours_returns_to_its_message():
    ours = AIMessage(
        "4", additional_kwargs={"reasoning_content": "2+2=4"}, response_metadata={"model_provider": "duet"}
    )
    assert to_duet([ours]) == [Message("assistant", "4", signal="2+2=4")]


def test_a_signal_that_a_stream_showed_in_another_form_returns_as_it_was_used():
    ours = AIMessage(
        "4",
        additional_kwargs={"reasoning_content": "2+2=4. And th"},
        response_metadata={"model_provider": "duet", "signal": {"tokens": 9, "text": "2+2=4."}},
    )
    assert to_duet([ours])[0].signal == "2+2=4."


@pytest.mark.parametrize(
    "message",
    [
        AIMessage(
            "4", additional_kwargs={"reasoning_content": "mine"}, response_metadata={"model_provider": "deepseek"}
        ),
        AIMessage("4", additional_kwargs={"reasoning_content": "mine"}),
        AIMessage([{"type": "thinking", "thinking": "mine", "signature": "x"}, {"type": "text", "text": "4"}]),
        AIMessage([{"type": "reasoning", "reasoning": "mine"}, {"type": "text", "text": "4"}]),
        AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": "mine"}}, "4"]),
        AIMessage([{"type": "redacted_thinking", "data": "mine"}, {"type": "output_text", "text": "4"}]),
    ],
)
def test_the_reasoning_of_other_providers_is_left_out(message):
    assert to_duet([message]) == [Message("assistant", "4")]


def test_calls_that_stand_in_the_content_as_well_are_read_once():
    message = AIMessage(
        [{"type": "text", "text": "let me see"}, {"type": "tool_use", "id": "c1", "name": "add", "input": {}}],
        tool_calls=[{"name": "add", "args": {}, "id": "c1"}],
    )
    assert to_duet([message]) == [Message("assistant", "let me see", (ToolCall("c1", "add", "{}"),))]


def test_a_call_with_broken_arguments_stands_without_them_where_a_result_answers_it():
    broken = AIMessage("", invalid_tool_calls=[{"name": "add", "args": '{"a": ', "id": "c1", "error": None}])
    answered = to_duet([broken, ToolMessage("arguments are not JSON", tool_call_id="c1")])
    assert answered[0].tool_calls == (ToolCall("c1", "add", "{}"),)
    assert to_duet([broken])[0].tool_calls == ()


def test_an_empty_assistant_message_stays():
    assert to_duet([AIMessage("")]) == [Message("assistant", "")]


@pytest.mark.parametrize(
    ("block", "image"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}, ("https://x/y.png", "low")),
        ({"type": "image_url", "image_url": "https://x/y.png"}, ("https://x/y.png", None)),
        ({"type": "image", "url": "https://x/y.png"}, ("https://x/y.png", None)),
        ({"type": "image", "base64": PNG, "mime_type": "image/png"}, (f"data:image/png;base64,{PNG}", None)),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            (f"data:image/png;base64,{PNG}", None),
        ),
    ],
)
def test_images_are_read_in_every_form_that_langchain_has(block, image):
    (read,) = to_duet([HumanMessage([{"type": "text", "text": "what is it?"}, block])])
    assert read.content == (TextPart("what is it?"), ImagePart(*image))


def test_parts_that_are_all_text_are_one_text():
    message = HumanMessage(["one ", {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}])
    assert to_duet([message]) == [Message("user", "one two")]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            [HumanMessage("x"), HumanMessage([{"type": "audio", "base64": "x"}])],
            "message 1 has content of type 'audio'",
        ),
        ([HumanMessage([{"type": "image", "file_id": "x"}])], "message 0 has content of type 'image'"),
        ([ChatMessage("x", role="narrator")], "message 0 has the role 'narrator'"),
        ([FunctionMessage("x", name="f")], "message 0 is a FunctionMessage"),
    ],
)
def test_what_no_stage_can_read_is_refused_by_its_place(messages, problem):
    with pytest.raises(InvalidRequest, match=problem):
        to_duet(messages)
