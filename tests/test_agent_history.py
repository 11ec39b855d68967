"""What an agent's run tells: failed results, and what can pass for a signal."""

import time

import pytest
from support import agents

from duet_sdk.agents.history import guarded, has_failed, in_force, untrusted, why_ask_again
from duet_sdk.policies import RunScope
from duet_sdk.rendering import neutralise_unknown
from duet_sdk.types import ImagePart, Message, TextPart, ToolCall


def result(text, **fields):
    return Message("tool", text, tool_call_id="c", **fields)


@pytest.mark.parametrize(
    "text",
    [
        "Error: no such file",
        "  error : no",
        "ValueError: bad",
        "requests.exceptions.ConnectionError: gone",
        "ToolException('no')",
        "An error occurred while running the tool. Please try again.",
        "Error invoking tool 'read' with kwargs {}",
        "[Error: no]",
        "Traceback (most recent call last):\n  File …",
        '{"error": "no such file"}',
        '{"error": {"code": 5}}',
        '{"is_error": true, "content": []}',
        '{"isError": true}',
        '{"success": false}',
        '{"status": "error"}',
    ],
)
def test_a_result_that_reads_like_an_error_has_failed(text):
    assert has_failed(result(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 errors found",
        "Errors of the year: none",
        "The error rate is 3 %.",
        "no error: all fine",
        '{"error": null, "value": 3}',
        '{"error": false}',
        '{"success": true}',
        '{"status": "ok"}',
        '{"text": "Error: quoted"}',
        '["error"]',
        '{"error": "cut o',
    ],
)
def test_a_result_that_mentions_errors_has_not(text):
    assert not has_failed(result(text))


def test_a_mark_counts_whatever_the_text_says():
    assert has_failed(result("all fine", failed=True))


def test_only_tools_fail():
    assert not has_failed(Message("assistant", "Error: x"))


@pytest.mark.parametrize("text", ["." * 1_000_000, "a." * 500_000, '{"a": ' * 200_000, "{" + " " * 1_000_000])
def test_a_giant_result_is_judged_at_once(text):
    start = time.perf_counter()
    assert not has_failed(result(text))
    assert time.perf_counter() - start < 1


def test_a_signal_counts_from_where_it_first_stands():
    messages = agents.history(*"abcd", signals=["one", "one", None, "two"])
    assert [message.signal for message in in_force(messages) if message.role == "assistant"] == [
        "one",
        None,
        None,
        "two",
    ]


def test_signals_before_the_question_are_over():
    talk = [*agents.history("a", signals=["old"]), Message("user", "next")]
    assert not any(message.signal for message in in_force(talk))


def test_what_happened_before_the_newest_signal_asks_nobody():
    messages = agents.history("Error: x", "fine", signals=["one", "two"])
    assert why_ask_again(RunScope(), messages, [agents.READ]) is None


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_signal_grows_old_by_tool_turns(after):
    scope = RunScope(after_tool_turns=after)
    why = [why_ask_again(scope, agents.history(*"abc"[:n], signals=["plan"]), [agents.READ]) for n in (1, 2, 3)]
    assert [bool(reason) for reason in why] == [n >= after for n in (1, 2, 3)]


def test_without_a_limit_a_signal_never_grows_old():
    messages = agents.history(*"abcdefghijkl", signals=["plan"])
    assert why_ask_again(RunScope(after_tool_turns=None), messages, [agents.READ]) is None


def test_calls_are_the_same_however_their_arguments_are_written():
    calls = [ToolCall("a", "read", '{"path": "x", "lines": 1}'), ToolCall("b", "read", '{"lines":1,"path":"x"}')]
    messages = agents.history("1", "2", signals=["plan"], calls=calls)
    assert why_ask_again(RunScope(), messages, [agents.READ]) == "a tool call was repeated"


@pytest.mark.parametrize("arguments", ["", "{}", '{"anything": 1}'])
def test_a_tool_that_requires_nothing_takes_any_object_and_none(arguments):
    tool = {"type": "function", "function": {"name": "now"}}
    messages = agents.history("1", signals=["plan"], calls=[ToolCall("a", "now", arguments)])
    assert why_ask_again(RunScope(), messages, [tool]) is None


@pytest.mark.parametrize("arguments", ["3", "[]", '"path"', "null", "{'path': 1}", "[" * 100_000])
def test_arguments_that_are_no_object_are_invalid(arguments):
    messages = agents.history("1", signals=["plan"], calls=[agents.call(0, arguments=arguments)])
    assert why_ask_again(RunScope(), messages, [agents.READ]) == "a tool call was invalid"


def test_where_no_tools_are_given_no_call_is_unknown():
    messages = agents.history("1", signals=["plan"], calls=[agents.call(0, "write")])
    assert why_ask_again(RunScope(), messages, []) is None


def test_the_texts_of_parts_are_guarded_and_images_stay():
    image = ImagePart("https://example.org/a.png")
    parts = (TextPart("<notes>"), image)
    guard = guarded([Message("user", parts)], lambda text: "not for users")[0]
    assert guard.content == (TextPart("<\u200bnotes>"), image)


def test_system_messages_are_the_callers_own():
    messages = (Message("system", "Write <notes>."),)
    assert guarded(messages, str.upper) == messages


def test_calls_ids_and_names_are_guarded_too_and_stay_in_step():
    call = ToolCall("<s>1", "<s>f", '{"a": "<s>"}')
    turns = (
        Message("user", "q", name="<s>me"),
        Message("assistant", "<s>", (call,)),
        Message("tool", "r", tool_call_id="<s>1"),
    )
    user, assistant, answer = guarded(turns, neutralise_unknown)
    assert (user.name, user.text) == ("<\u200bs>me", "q")
    assert assistant.tool_calls == (ToolCall("<\u200bs>1", "<\u200bs>f", '{"a": "<\u200bs>"}'),)
    assert answer.tool_call_id == assistant.tool_calls[0].id
    assert list(untrusted(turns)) == ["<s>me", "<s>1", "<s>f", '{"a": "<s>"}', "r", "<s>1"]


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        (r'{"a": "\u003c|im_end|\u003e"}', '{"a": "<\u200b|im_end|>"}'),
        (r'{"a": ["<\/think>", {"<\/s>": 1}]}', '{"a": ["<\u200b/think>", {"<\u200b/s>": 1}]}'),
        (r'{"a": "\u003cnotes>"}', '{"a": "<\u200bnotes>"}'),
        (r'{"a": "C:\\temp\n\u00e9",  "b": 1.50}', r'{"a": "C:\\temp\n\u00e9",  "b": 1.50}'),
        (r'{"a": "\u003c', r'{"a": "\u003c'),
        ("[" * 100_000 + "\\", "[" * 100_000 + "\\"),
    ],
)
def test_no_control_string_hides_behind_the_escapes_of_a_calls_arguments(written, clean):
    turn = Message("assistant", "", (ToolCall("c", "f", written),))
    assert guarded([turn], neutralise_unknown)[0].tool_calls[0].arguments == clean
