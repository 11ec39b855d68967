"""`duet chat` and `duet ask` on a terminal: what a person sees, types and interrupts."""

import json
import os
import re

import pytest
from support.pseudo_terminal import Terminal

PAIR = ("--reasoner", "scripted/17 of them", "--generator", "scripted/echo")
ALONE = (*PAIR, "--mode", "generator")
# Models whose answers are written by a program: what is asked decides.
SLOW = """
import sys
from duet_sdk.backends import scripted
from duet_sdk.cli import app
from duet_sdk.errors import ConnectFailed

def line(call):
    asked = call.messages[-1].text
    if "fail" in asked:
        return scripted.Script(error=ConnectFailed("nobody is there", backend="scripted", model="m"))
    if "hang" in asked:
        return scripted.Script("one two three", stall_after=2)
    return asked

scripted.connect = lambda model, options: scripted.Scripted(line, model=model)
sys.argv[0] = "duet"
app.main()
"""


def plain(text: str) -> str:
    """The text without the terminal's own sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r", "")


def test_the_banner_names_both_models_and_says_how_to_leave():
    with Terminal("chat", *PAIR) as terminal:
        banner = plain(terminal.expect("you> "))
        assert banner == (
            "scripted/17 of them writes signals, scripted/echo answers; /help lists commands, Ctrl-D leaves\n"
        )
        terminal.type("\x04")
        assert terminal.ended()[0] == 0


def test_a_line_is_edited_and_an_earlier_one_comes_back():
    with Terminal("chat", *ALONE) as terminal:
        terminal.expect("you> ")
        terminal.type("helo\x1b[Dl\n")  # arrow left, then the missing letter
        assert "answer hello\n" in plain(terminal.expect("generator · "))
        terminal.expect("you> ")
        terminal.type("\x1b[A!\n")  # arrow up
        assert "answer hello!\n" in plain(terminal.expect("generator · "))


def test_an_empty_line_asks_nothing_and_ends_nothing():
    with Terminal("chat", *ALONE) as terminal:
        terminal.expect("you> ")
        terminal.type("\n   \nhello\n")
        assert plain(terminal.expect("generator · ")).count("answer") == 1


def test_an_error_does_not_end_the_talk():
    with Terminal("chat", *ALONE, program=SLOW) as terminal:
        terminal.expect("you> ")
        terminal.type("fail\n")
        assert "error: " in plain(terminal.expect("you> "))
        terminal.type("hello\n")
        assert "answer hello\n" in plain(terminal.expect("generator · "))


def test_ctrl_c_stops_the_answer_and_the_talk_goes_on_as_it_was_before():
    with Terminal("chat", *ALONE, program=SLOW) as terminal:
        terminal.expect("you> ")
        terminal.type("hang\n")
        terminal.expect("two")
        terminal.type("\x03")
        assert "stopped; the conversation is as it was before this question" in plain(terminal.expect("you> "))
        terminal.type("hello\n")
        assert "answer hello\n" in plain(terminal.expect("generator · "))


def test_ctrl_c_at_the_prompt_leaves_when_it_comes_twice():
    with Terminal("chat", *ALONE) as terminal:
        terminal.expect("you> ")
        terminal.type("half a quest")
        terminal.expect("half a quest")
        terminal.interrupt()
        assert "Ctrl-C again, or Ctrl-D, leaves" in plain(terminal.expect("you> "))
        terminal.type("hello\n")
        assert "answer hello\n" in plain(terminal.expect("generator · "))
        terminal.expect("you> ")
        terminal.interrupt()
        terminal.expect("you> ")
        terminal.interrupt()
        assert terminal.ended()[0] == 0


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("/help", "/mode MODE     who is asked: duet, reasoner, generator, signal"),
        ("/mode", "mode generator"),
        ("/mode reasoner", "mode reasoner"),
        ("/mode both", "error: there is no mode 'both'; the modes are duet, reasoner, generator, signal"),
        ("/system", "no system prompt; /system TEXT sets one"),
        ("/system Answer in French.", "system prompt: Answer in French."),
        ("/clear", "forgotten; the next question begins a new conversation"),
        ("/hepl", "error: there is no command /hepl; did you mean /help?"),
        ("/etc/hosts", "A line to be sent as it is begins with a space"),
    ],
)
def test_a_command_says_what_it_did(typed, seen):
    with Terminal("chat", *ALONE) as terminal:
        terminal.expect("you> ")
        terminal.type(f"{typed}\n")
        assert seen in plain(terminal.expect("you> "))
        terminal.type("/exit\n")
        assert terminal.ended()[0] == 0


def test_a_mode_and_a_system_prompt_hold_for_the_next_questions():
    program = SLOW.replace("return asked", "return f'{call.messages[0].text} / {len(call.messages)}'")
    with Terminal("chat", *PAIR, program=program) as terminal:
        terminal.expect("you> ")
        terminal.type("/mode generator\n/system First.\n/system Second.\nhello\n")
        assert "answer Second. / 2\n" in plain(terminal.expect("generator · "))
        terminal.type("more\n")
        assert "answer Second. / 4\n" in plain(terminal.expect("generator · "))
        terminal.type("/clear\nmore\n")
        assert "answer Second. / 2\n" in plain(terminal.expect("generator · "))


def test_a_line_that_begins_with_a_space_is_sent_as_it_is():
    with Terminal("chat", *ALONE) as terminal:
        terminal.expect("you> ")
        terminal.type(" /etc/hosts\n")
        assert "answer /etc/hosts\n" in plain(terminal.expect("generator · "))


def test_what_is_waited_for_is_shown_until_the_first_token():
    with Terminal(
        "ask", "hang", *ALONE, "--deadline", "1", program=SLOW.replace("stall_after=2", "stall_after=0")
    ) as t:
        code, seen = t.ended()
    assert "waiting for scripted/echo" in plain(seen)
    assert "\x1b[2K" in seen  # and wiped out
    assert code == 1
    assert "served by" not in seen


def test_a_reply_as_json_is_waited_for_on_standard_error_alone():
    program = SLOW.replace('"one two three", stall_after=2', '"one", first_s=0.3')
    reading, writing = os.pipe()
    with Terminal("ask", "hang", *ALONE, "--json", program=program, stdout=writing) as terminal:
        seen = terminal.ended()[1]
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert json.load(pipe)["text"] == "one"
    assert "waiting for the answer" in seen


def test_where_the_answer_goes_to_a_pipe_nothing_but_the_answers_does():
    reading, writing = os.pipe()
    with Terminal("chat", *ALONE, stdout=writing) as terminal:
        terminal.expect("you> ")
        terminal.type("hello\n")
        assert "answer" not in plain(terminal.expect("you> "))
        terminal.type("\x04")
        assert terminal.ended()[0] == 0
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "hello\n"


def test_an_answer_that_was_cut_says_so_on_its_own_line():
    with Terminal("ask", "one two three", *ALONE, "--answer-tokens", "2") as terminal:
        code, seen = terminal.ended()
    assert (code, "answer one two (cut at 2 tokens)\n" in plain(seen)) == (0, True)
    assert "was cut at its limit" not in seen  # once is enough


def test_what_has_been_written_before_a_failure_keeps_its_line():
    with Terminal("ask", "hang", *ALONE, "--deadline", "1", program=SLOW) as terminal:
        seen = plain(terminal.ended()[1])
    assert "answer one two\n" in seen
    assert "\nerror: the request's deadline of 1 s passed" in seen


def test_a_bar_moves_and_what_is_printed_beside_it_has_nothing_to_obey():
    program = """
import sys
from duet_sdk.cli.terminal import progress_bar, safe_streams
with safe_streams(), progress_bar() as tell:
    tell("fetch", 0.5)
    sys.stderr.write("log \\x1b]0;title\\x07 \\x1b]8;;http://evil.example\\x1b\\\\here\\x1b]8;;\\x1b\\\\ line\\n")
    tell("fetch", 1)
"""
    with Terminal(program=program) as terminal:
        seen = terminal.ended()[1]
    assert "\\x1b[" not in seen  # rich's own sequences are sequences, not text
    assert "\x1b]" not in seen
    assert "here line" in seen
