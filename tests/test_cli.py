"""The command line: what goes where, exit codes, interrupts."""

import json
import os
import subprocess
import sys
import traceback
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from support import templates
from typer.testing import CliRunner

from duet_sdk import _shown
from duet_sdk.cli.app import app
from duet_sdk.cli.figures import short_name
from duet_sdk.errors import ConfigError, InvalidRequest, StreamBroken
from duet_sdk.rendering import signal_template
from duet_sdk.settings import load_settings

TOY_PAIR = Path(__file__).parents[1] / "examples" / "toy_pair" / "pair"
PAIR = ["--reasoner", "scripted/17 of them", "--generator", "scripted/There are 17."]


def duet(*arguments, stdin=None):
    return CliRunner().invoke(app, arguments, input=stdin)


def test_ask_prints_the_answer_to_stdout_and_all_else_to_stderr():
    done = duet("ask", "How many?", *PAIR)
    assert done.exit_code == 0
    assert done.stdout == "There are 17.\n"
    assert "17 of them" in done.stderr
    assert "served by pair" in done.stderr
    assert not {"\x1b", "waiting"} & {*done.stderr, *done.stderr.split()}  # what moves is for terminals


def test_ask_reads_the_question_from_standard_input():
    done = duet(
        "ask",
        "-",
        "--reasoner",
        "scripted/s",
        "--generator",
        "scripted/echo",
        "--mode",
        "generator",
        stdin="What is this?\n",
    )
    assert done.stdout == "What is this?\n"  # the newline that ends the input is not part of the question


def test_a_byte_order_mark_in_front_of_standard_input_is_read_over():
    pair = ["--reasoner", "scripted/s", "--generator", "scripted/echo", "--mode", "generator"]
    assert duet("ask", "-", *pair, stdin=b"\xef\xbb\xbfWhat?").stdout == "What?\n"


def test_a_question_that_is_no_text_is_refused():
    done = duet("ask", "-", *PAIR, stdin=b"caf\xe9")
    assert (done.exit_code, "not UTF-8" in done.stderr) == (2, True)


def test_ask_prints_the_reply_as_json():
    done = duet("ask", "How many?", *PAIR, "--json", "--signal-tokens", "64")
    reply = json.loads(done.stdout)
    assert (reply["text"], reply["signal"]["text"], reply["signal"]["limit"]) == ("There are 17.", "17 of them", 64)
    assert (reply["usage"]["reasoner"]["output_tokens"], reply["cost"]["usd"], reply["served_by"]) == (3, "0", "pair")
    assert reply["receipt"]["attempts"][0]["stage"] == "reasoner"


def test_ask_in_signal_mode_shows_the_signal():
    done = duet("ask", "How many?", *PAIR, "--mode", "signal")
    assert (done.stdout, done.exit_code) == ("17 of them\n", 0)


def test_ask_takes_what_it_does_not_name_from_the_settings():
    Path("duet.toml").write_text('reasoner = "scripted/from file"\n[budget]\nsignal_tokens = 7\n')
    reply = json.loads(duet("ask", "q", "--generator", "scripted/a", "--json").stdout)
    assert (reply["signal"]["text"], reply["signal"]["limit"]) == ("from file", 7)


def test_ask_says_when_the_signal_was_cut():
    done = duet("ask", "How many?", *PAIR, "--signal-tokens", "2")
    assert "cut at 2 tokens" in done.stderr
    assert "served by pair_cut" in done.stderr


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_ask_says_that_an_answer_was_cut_or_is_none(how):
    cut = duet("ask", "q", *how, "--reasoner", "scripted/s", "--generator", "scripted/a b c", "--answer-tokens", "2")
    assert (cut.exit_code, "was cut at its limit of 2 tokens" in " ".join(cut.stderr.split())) == (0, True)
    none = duet("ask", "q", *how, "--reasoner", "scripted/<think>x", "--generator", "scripted/<think>x")
    assert (none.exit_code, "it wrote nothing but thinking" in " ".join(none.stderr.split())) == (1, True)


def test_ask_shows_the_answer_once_more_where_thinking_had_been_taken_for_it():
    done = duet("ask", "q", "--reasoner", "scripted/s", "--generator", "scripted/West coast.</think> Bergen.")
    assert done.stdout.endswith("\nBergen.\n")
    assert "that began with thinking" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ask", ""], 2, "the question is empty"),
        (["ask", "q", "--signal-tokens", "0"], 2, "signal_tokens must be a whole number of at least 1"),
        (["ask", "q", "--signal-tokens", "many"], 2, "a valid integer"),
        (["ask", "q", "--mode", "both"], 2, "both"),
        (["ask", "q", "--reasoner", "gtp/4", "--generator", "scripted/a"], 2, "there is no backend 'gtp'"),
        (["ask", "q", "--reasoner", "scripted/a"], 2, "the generator is not named"),
        (["ask", "q", "--pair", "./no-such-pair", "--reasoner", "scripted/a"], 1, "error:"),
        (["ask", "q", "--pair", "./no-such-pair"], 1, "error:"),
        (["ask"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["pair", "show", "./no-such-pair"], 1, "error:"),
        (["models", "remove", "no-such-model"], 1, "there is no model"),
        (["models", "template", "./no-such-folder"], 2, "there is no tokenizer.json"),
    ],
)
def test_mistakes_end_with_what_to_do_and_the_right_code(arguments, code, words):
    done = duet(*arguments)
    assert done.exit_code == code
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-4o", "did you mean 'litellm/openai/gpt-4o'?"),
        ("openai/gpt-4o", "did you mean 'litellm/openai/gpt-4o'?"),
        ("ollama/llama3", "did you mean 'litellm/ollama/llama3'?"),
        ("Qwen/Qwen3-4B", "did you mean 'vllm/Qwen/Qwen3-4B@http://host:port/v1', where it is served, or"),
        ("http://127.0.0.1:8000/v1", "did you mean 'vllm/MODEL@http://127.0.0.1:8000/v1', with a MODEL that the"),
    ],
)
def test_a_name_of_other_libraries_is_answered_with_what_it_is_here(name, meant):
    done = duet("ask", "q", "--reasoner", name, "--generator", "scripted/a")
    assert (done.exit_code, meant in done.stderr) == (2, True)
    if "/" not in name or ":" in name:
        done = duet("pair", "save", "./mine", "--reasoner", name, "--generator", "scripted/a")
        assert (done.exit_code, meant in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--total-tokens", "3"], 1, "total_tokens"),
        (["--total-tokens", "3000"], 0, "served by pair"),
        (["--cost-usd", "much"], 2, "cost_usd must be a number of USD, got 'much'"),
        (["--deadline", "0"], 2, "deadline_s must be"),
        (["--signal-deadline", "-1"], 2, "signal_deadline_s must be"),
        (["--temperature", "-1"], 2, "temperature must be"),
        (["--gate", "never"], 0, "the gate 'never' did not ask the reasoner"),
        (["--gate", "sometimes"], 2, "sometimes"),
        (["--handoff", "instruct"], 0, "served by pair"),
        (["--on-failure", "never"], 2, "never"),
        (["--tenant", "a"], 0, "served by pair"),
        (["-n", "0"], 2, "'-n'"),
        (["-n", "65"], 2, "'-n'"),
    ],
)
def test_ask_takes_every_limit_and_choice(arguments, code, words):
    done = duet("ask", "How many?", *PAIR, *arguments)
    assert (done.exit_code, words in " ".join(done.stderr.split())) == (code, True)


def test_ask_says_who_a_failure_leaves_to_answer_or_ends_with_it():
    broken = ["--reasoner", "vllm/m@http://127.0.0.1:1/v1", "--generator", "scripted/There are 17."]
    goes_on = duet("ask", "q", *broken)
    assert (goes_on.exit_code, goes_on.stdout) == (0, "There are 17.\n")
    assert "served by generator_fallback" in goes_on.stderr
    ends = duet("ask", "q", *broken, "--on-failure", "raise")
    assert (ends.exit_code, ends.stdout) == (1, "")
    assert "served by" not in ends.stderr
    assert "┃" not in ends.stderr
    assert ends.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--reasoner", "vllm/m@http://127.0.0.1:1/v1", "--generator", "vllm/m@http://127.0.0.1:1/v1"],
        ["--reasoner", "transformers/./no-such-folder", "--generator", "scripted/a"],
        [*PAIR, "--mode", "generator", "--deadline", "0.000001"],
    ],
)
def test_a_failure_is_an_error_alone_without_a_table_or_who_served(wrong):
    done = duet("ask", "q", *wrong)
    assert (done.exit_code == 0, done.stdout) == (False, "")
    assert "served by" not in done.stderr
    assert "┃" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_ask_sends_the_system_prompt_and_prints_each_of_n_answers():
    echo = ["--reasoner", "scripted/s", "--generator", "scripted/echo", "--mode", "generator"]
    sent = json.loads(duet("ask", "q", *echo, "--system", "Be brief.", "--json").stdout)
    assert sent["usage"]["generator"]["input_tokens"] == 3
    assert duet("ask", "q", *echo, "-n", "3").stdout == "q\nq\nq\n"
    assert len(json.loads(duet("ask", "q", *echo, "-n", "3", "--json").stdout)["answers"]) == 3


def test_a_tenant_is_who_pays_in_the_ledger():
    Path("own.toml").write_text('ledger = "sqlite:///ledger.db"\n')
    for command in (["ask", "q"], ["chat"]):
        assert duet(*command, *PAIR, "--config", "own.toml", "--tenant", "a", stdin="q\n").exit_code == 0
    rows = json.loads(duet("ledger", "report", "--ledger", "sqlite:///ledger.db", "--json").stdout)
    assert [(row["group"], row["requests"]) for row in rows] == [("tenant:a", 2)]


def test_a_tenant_without_a_ledger_is_said_to_pay_nothing():
    done = duet("ask", "q", *PAIR, "--tenant", "a")
    assert "no ledger is set, so nothing is booked on tenant 'a'" in done.stderr


def test_the_limit_of_every_stage_is_in_the_table_and_no_name_is_cut():
    model = "scripted/" + "a-long-name-of-a-model-" * 4
    done = duet("ask", "q", "--reasoner", "scripted/s", "--generator", model, "--answer-tokens", "300")
    rows = [line for line in done.stderr.splitlines() if line.startswith("│")]
    assert "│   512 │" in rows[0]
    assert "│   300 │" in rows[1]
    assert "".join(row.split("│")[2].strip() for row in rows[1:]) == model


def test_a_model_in_a_folder_is_named_by_the_end_of_its_path():
    assert short_name("transformers//home/me/toy/pair/reasoner") == "…/pair/reasoner"
    assert short_name("transformers/Qwen/Qwen3-0.6B") == "transformers/Qwen/Qwen3-0.6B"
    assert short_name("vllm//models/me/big") == "vllm//models/me/big"


def test_where_both_streams_are_one_file_the_answer_has_its_label():
    script = f"{sys.executable} -m duet_sdk ask q -r scripted/s -g 'scripted/one two' --answer-tokens 1"
    run = partial(subprocess.run, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert "\nanswer one (cut at 1 tokens)\n┏" in run(f"{script} 2>&1").stdout
    apart = run(script)
    assert apart.stdout == "one\n"
    assert "answer ┏" not in apart.stderr


def test_a_limit_of_time_is_told_as_one():
    # The reasoner never writes; 60 % of the deadline are the signal's.
    code = """
import sys
from duet_sdk.backends import scripted
from duet_sdk.cli import app

answer = scripted.Script("There are 17.")
scripted.connect = lambda model, options: scripted.Scripted(
    scripted.Script("never said", stall_after=1) if model == "slow" else answer, model=model
)
sys.argv = ["duet", "ask", "q", "--reasoner", "scripted/slow", "--generator", "scripted/b", "--deadline", "3"]
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "signal never (cut by its deadline of 1.8 s)" in done.stderr


@pytest.mark.filterwarnings("default::duet_sdk.errors.DegradedWarning")
def test_what_was_asked_for_and_cannot_be_had_is_said_once_on_stderr(monkeypatch):
    monkeypatch.setenv("DUET_HANDOFF", "think")
    done = duet("ask", "q", "--reasoner", "scripted/s", "--generator", "scripted/a")
    assert done.stdout == "a\n"
    assert done.stderr.count("warning: handoff='think' cannot be had with scripted/a") == 1
    assert "degraded.py" not in done.stderr


def test_what_was_asked_for_by_name_and_cannot_be_had_is_said_in_a_line():
    command = [sys.executable, "-m", "duet_sdk", "ask", "q", *PAIR, "--handoff", "think"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[0].startswith(
        "warning: handoff='think' cannot be had with scripted/There are 17. ("
    )
    assert "Warning:" not in done.stderr  # Python's own form


def test_warnings_and_log_messages_are_one_plain_line():
    code = """
import logging, sys, warnings
from duet_sdk.cli.notices import notices
with notices():
    warnings.warn("asked for and not to be had\\nhere")
    logging.getLogger("duet_sdk.settings").warning("no setting of ours: %s", "DUET_X")
    logging.getLogger("duet_sdk.pipeline.flow").warning("told by an event")
    logging.getLogger("some.library").info("of no concern")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "warning: asked for and not to be had\\nhere\nwarning: no setting of ours: DUET_X\n"


@pytest.mark.parametrize("command", ["ask", "chat"])
@pytest.mark.parametrize("address", ["nonsense", "localhost:4317", "http://", "http://host:many"])
def test_an_address_that_is_none_is_refused_before_the_call(command, address):
    done = duet(command, *(["q"] if command == "ask" else []), *PAIR, "--otlp", address, stdin="q\n")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "the collector's address must be a URL such as http://127.0.0.1:4318" in done.stderr


def test_the_version_is_that_of_the_installed_package():
    assert duet("--version").stdout == f"duet {version('duet-sdk')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_commands(shell, monkeypatch):
    monkeypatch.setenv("_DUET_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "duet led")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "duet led")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    done = CliRunner().invoke(app, [], prog_name="duet")
    assert "ledger" in done.stdout


def test_chat_takes_each_line_of_its_input_as_a_turn_and_empty_lines_as_none():
    done = duet(
        "chat",
        "--reasoner",
        "scripted/s",
        "--generator",
        "scripted/echo",
        "--mode",
        "generator",
        stdin="one\ntwo\n\nthree\n",
    )
    assert done.stdout == "one\ntwo\nthree\n"
    assert done.exit_code == 0


def test_a_pair_is_saved_shown_and_asked():
    assert duet("pair", "save", "./mine", *PAIR, "--signal-tokens", "2").exit_code == 0
    shown = json.loads(duet("pair", "show", "./mine", "--json").stdout)
    assert shown["reasoner"]["model"] == "scripted/17 of them"
    assert "scripted/There are 17." in duet("pair", "show", "./mine").stdout
    reply = json.loads(duet("ask", "How many?", "--pair", "./mine", "--json").stdout)
    assert (reply["text"], reply["signal"]["limit"]) == ("There are 17.", 2)


def test_a_bundle_says_which_model_stays_a_name(tmp_path):
    toy = Path(__file__).resolve().parents[1] / "examples" / "toy_pair" / "pair" / "generator"
    words = ["--reasoner", "transformers/embedded", "--generator", f"transformers/{toy}", "--bundle"]
    told = " ".join(duet("pair", "save", "./mine", *words).stderr.split())
    assert "the reasoner stays a name, transformers/embedded: only a model that is named as a folder is copied" in told
    assert "the generator stays" not in told


def test_a_pair_is_shown_in_some_ten_lines():
    done = duet("pair", "show", str(TOY_PAIR))
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert len(lines) <= 10
    assert lines["handoff"].strip() == "think, trained together"
    assert lines["limits"].strip() == "signal tokens 8, answer tokens 3"
    assert lines["measured"].strip() == "guided 0.995, alone 0.525 on 200 questions"
    assert lines["licences"].strip() == "not stated"
    assert lines["files"].strip() == "12, 0.7 MB, all as the manifest says"


def test_a_bundle_that_would_copy_nothing_is_refused():
    embedded = ["--reasoner", "transformers/embedded", "--generator", "transformers/embedded"]
    refused = duet("pair", "save", "./mine", *embedded, "--bundle")
    assert (refused.exit_code, "duet models pull embedded" in refused.stderr) == (1, True)
    assert not Path("mine").exists()


def test_models_template_prints_the_template_that_takes_a_signal(tmp_path):
    files = templates.files("qwen3")
    (tmp_path / "tokenizer.json").write_text(files.tokenizer_json, "utf-8")
    (tmp_path / "chat_template.jinja").write_text(files.chat_template, "utf-8")
    assert duet("models", "template", str(tmp_path)).stdout == f"{signal_template(files)}\n"


def test_models_lists_what_is_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path))
    for command in (["models"], ["models", "list"]):
        assert json.loads(duet(*command, "--json").stdout) == []
        assert duet(*command).exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["ask"],
        ["chat"],
        ["pair"],
        ["pair", "show"],
        ["pair", "save"],
        ["models"],
        ["models", "list"],
        ["models", "pull"],
        ["models", "remove"],
        ["models", "template"],
    ],
)
def test_every_command_has_help(command):
    done = duet(*command, "--help")
    assert done.exit_code == 0
    if command not in ([], ["pair"]):
        assert "Example: duet" in done.stdout


def test_an_interrupt_ends_at_once_with_130():
    # The reasoner itself interrupts the process once it is asked.
    code = """
import os, signal, sys
from duet_sdk.cli import app as cli
from duet_sdk.backends import scripted

def interrupt(call):
    os.kill(os.getpid(), signal.SIGINT)
    return scripted.Script("never said", stall_after=0)

scripted.connect = lambda model, options: scripted.Scripted(interrupt)
sys.argv = ["duet", "ask", "q", "--reasoner", "scripted/a", "--generator", "scripted/b"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_the_installed_command_runs():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("duet")), "ask", "q", *PAIR],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "There are 17.\n")


def test_trace_prints_the_spans_with_tokens_cost_and_time():
    done = duet("ask", "How many?", *PAIR, "--trace", "--signal-tokens", "2")
    assert done.stdout == "There are 17.\n"
    root, gate, signal, answer = done.stderr.strip().splitlines()[-4:]
    assert "invoke_workflow duet  mode duet · served by pair_cut · " in root
    assert "duet.gate always  ask · 0.0" in gate
    assert "chat scripted/17 of them  reasoner 1 · signal · " in signal
    assert " in · 2 of 2 out · 0 USD · 0.0" in signal
    assert signal.endswith("s · cut")
    assert "generator 1 · answer" in answer


def test_trace_shows_what_a_request_that_failed_had_cost(tmp_path):
    done = duet("ask", "How many?", *PAIR, "--trace", "--mode", "generator", "--deadline", "0.000001")
    assert done.exit_code == 1
    assert "invoke_workflow duet" in done.stderr
    assert "ended by error" in done.stderr
    assert "served by" not in done.stderr


def test_trace_goes_to_stderr_beside_json():
    done = duet("ask", "How many?", *PAIR, "--trace", "--json")
    assert json.loads(done.stdout)["text"] == "There are 17."
    assert "chat scripted/There are 17." in done.stderr


# What a terminal obeys: title, clipboard (OSC 52), a link (OSC 8), the same by C1, another direction of writing.
OBEYED = (
    "\x1b]0;title\x07 \x1b]52;c;ZXZpbA==\x07 \x1b]8;;http://evil.example\x1b\\\\ \x9b2J \u202egnp.exe\u2066 \r \x08\x7f"
)
UNSAFE = [
    chr(at) for at in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
]


def obeyed_in(text):
    return [character for character in UNSAFE if character in text]


@pytest.mark.parametrize("more", [[], ["--trace"], ["--mode", "signal"], ["--json"], ["--json", "--trace"]])
def test_no_text_of_a_model_reaches_the_terminal_as_something_to_obey(more):
    done = duet("ask", "q", "--reasoner", f"scripted/17 {OBEYED}", "--generator", f"scripted/There. {OBEYED}", *more)
    assert done.exit_code == 0
    assert not obeyed_in(done.stdout + done.stderr)
    if "--json" in more:
        assert json.loads(done.stdout)["text"] == f"There. {OBEYED}"


def test_an_error_is_shown_with_nothing_to_obey_and_nothing_that_rich_takes_for_markup():
    done = duet("ask", "q", "--reasoner", f"gtp/[red]x[/red]{OBEYED}", "--generator", "scripted/a")
    assert done.exit_code == 2
    assert not obeyed_in(done.stdout + done.stderr)
    done = duet("pair", "show", f"./[red]none[/nothing]{OBEYED}")
    assert (done.exit_code, obeyed_in(done.stderr)) == (1, [])
    assert "[red]none[/nothing]" in done.stderr


def test_markup_in_a_models_words_is_text():
    done = duet("ask", "q", "--reasoner", "scripted/[bold]17[/bold] :smile:", "--generator", "scripted/[/x] [link=a]b")
    assert done.stdout == "[/x] [link=a]b\n"
    assert "signal [bold]17[/bold] :smile:" in done.stderr
    assert "scripted/[/x]" in done.stderr.replace("\n", "")


def test_log_messages_and_warnings_are_printed_with_nothing_to_obey():
    program = (
        "import logging, sys, warnings\n"
        "from duet_sdk.cli import terminal\n"
        "with terminal.safe_streams():\n"
        "    logging.getLogger('library').warning('from a server: %s', sys.argv[1])\n"
        "    warnings.warn(sys.argv[1])\n"
        "    print(sys.argv[1])\n"
    )
    argument = OBEYED.encode("utf-8", "surrogateescape")
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, timeout=60, check=True)
    text = (done.stdout + done.stderr).decode()
    assert not obeyed_in(text)
    assert text.count("\\x1b]0;title") == 3


def test_a_half_character_of_a_model_is_shown_and_ends_nothing():
    assert _shown.shown("a\ud800b") == "a\\ud800b"


def test_ordinary_text_is_shown_as_it_is():
    text = "Grüße, Ελλάδα, \u05e9\u05dc\u05d5\u05dd\u200f, 数学, 👩\u200d🔬\n\tnext"
    assert _shown.shown(text) == text


@pytest.mark.parametrize("kind", [ConfigError, InvalidRequest, partial(StreamBroken, backend="vllm", model="m")])
def test_no_error_of_ours_has_anything_in_its_text_that_a_terminal_obeys(kind):
    error = kind(f"bad {OBEYED}")
    assert not obeyed_in(str(error) + repr(error))
    assert not obeyed_in("".join(traceback.format_exception(error)))


def test_the_keys_of_a_found_settings_file_are_shown_with_nothing_to_obey():
    Path("duet.toml").write_text('[generator]\nmodel = "vllm/m"\n"\\u001b]0;x\\u0007" = 1\n"\\u202e" = 2\n')
    assert not obeyed_in(duet("ask", "q").stderr)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert not obeyed_in(str(refused.value))


def test_an_output_that_lacks_a_character_gets_its_notation():
    for switches, wanted in (((), b"\\u540d\n"), (("--json",), b'"text": "\\u540d"')):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "duet_sdk",
                "ask",
                "q",
                *switches,
                "--reasoner",
                "scripted/é",
                "--generator",
                "scripted/名",
            ],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert wanted in done.stdout
