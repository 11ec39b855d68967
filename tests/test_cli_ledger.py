"""The commands `duet ledger …`: what is shown of a ledger, and what is refused."""

import asyncio
import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from support.pseudo_terminal import Terminal
from typer.testing import CliRunner

from duet_sdk.budget import Amount, EntryFacts, Limit, SqliteLedger
from duet_sdk.cli.app import app

URL = "sqlite:///ledger.db"
DAY = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
SIGNAL = EntryFacts("reasoner", "vllm/big", "signal", "t1", input_tokens=300, output_tokens=12)
ANSWER = EntryFacts("generator", "vllm/small", "answer", "t1", input_tokens=320, output_tokens=40)


def duet(*arguments):
    return CliRunner().invoke(app, ["ledger", *arguments])


class Clock:
    now = DAY

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def filled(clock):
    """Two tenants, two days, one attempt that expired and was settled late, one without a price."""

    async def fill():
        async with SqliteLedger("ledger.db", clock=clock) as ledger:
            await ledger.set_limit("tenant:a", Limit(usd=Decimal("5"), requests=10, window="day"))
            hold = await ledger.hold(["tenant:a", "session:1"], Amount(Decimal("0.05"), 400, 0, 1), facts=SIGNAL)
            await hold.settle(Amount(Decimal("0.0123"), 312, 0, 1), SIGNAL)
            hold = await ledger.hold(["tenant:a", "session:1"], Amount(Decimal("0.01"), 0, 400), ttl_s=60)
            clock.now += 61
            await hold.settle(Amount(Decimal("0.0007"), 0, 360), ANSWER)
            clock.now += 86_400
            hold = await ledger.hold(["tenant:b"], Amount(None, 0, 10), facts=ANSWER)
            await hold.settle(Amount(None, 0, 25), ANSWER)

    asyncio.run(fill())


def test_a_report_by_scope_sums_tokens_and_money(filled):
    done = duet("report", "--ledger", URL, "--json")
    assert done.exit_code == 0, done.stderr
    rows = {row["group"]: row for row in json.loads(done.stdout)}
    assert list(rows) == ["session:1", "tenant:a", "tenant:b"]
    assert rows["tenant:a"] == {
        "group": "tenant:a",
        "attempts": 2,
        "requests": 1,
        "reasoner_tokens": 312,
        "generator_tokens": 360,
        "input_tokens": 620,
        "output_tokens": 52,
        "usd": "0.0130",
        "overrun_usd": "0",
        "unpriced": 0,
        "expired": 1,
    }
    assert (rows["tenant:b"]["usd"], rows["tenant:b"]["unpriced"]) == ("0", 1)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("model", ["unknown", "vllm/big", "vllm/small"]),
        ("stage", ["generator", "reasoner", "unknown"]),
        ("kind", ["answer", "signal", "unknown"]),
        ("day", ["2026-11-25", "2026-11-26"]),
    ],
)
def test_a_report_can_be_grouped(filled, by, groups):
    rows = json.loads(duet("report", "--ledger", URL, "--by", by, "--json").stdout)
    assert [row["group"] for row in rows] == groups


@pytest.mark.parametrize(
    ("filters", "attempts"),
    [
        (["--scope", "tenant:b"], [1]),
        (["--model", "vllm/big"], [1]),
        (["--stage", "generator", "--since", "2026-11-26"], [1]),
        (["--until", "2026-11-26T00:00Z", "--scope", "tenant:a"], [2]),
        (["--since", "2027-01-01"], []),
    ],
)
def test_a_report_can_be_filtered(filled, filters, attempts):
    rows = json.loads(duet("report", "--ledger", URL, "--by", "day", "--json", *filters).stdout)
    assert [row["attempts"] for row in rows] == attempts


def test_a_report_as_csv_has_the_same_figures(filled):
    rows = list(csv.DictReader(io.StringIO(duet("report", "--ledger", URL, "--csv").stdout)))
    assert [(row["group"], row["usd"], row["reasoner_tokens"]) for row in rows] == [
        ("session:1", "0.0130", "312"),
        ("tenant:a", "0.0130", "312"),
        ("tenant:b", "0", "0"),
    ]


@pytest.mark.parametrize("by", ["scope", "model", "stage", "kind", "day"])
def test_a_report_fits_80_columns_and_cuts_nothing(filled, by):
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["ledger", "report", "--by", by, "--ledger", URL])
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "…" not in done.stdout


def test_a_name_that_is_too_long_for_the_screen_goes_on_in_the_next_line():
    model = "vllm/" + "Qwen3-235B-A22B-Thinking-2507-" * 3

    async def fill():
        async with SqliteLedger("ledger.db") as ledger:
            hold = await ledger.hold(["tenant:a"], Amount(Decimal("0.05"), 400, 0, 1), facts=SIGNAL)
            await hold.settle(Amount(Decimal("0.0123"), 312, 0, 1), replace(SIGNAL, model=model))

    asyncio.run(fill())
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["ledger", "report", "--by", "model", "--ledger", URL])
    assert "".join(line[2:40].split(" ")[0] for line in done.stdout.splitlines()[4:]).rstrip("─┴━") == model


def test_a_report_says_what_its_few_columns_leave_out_and_wide_has_all(filled):
    short = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["ledger", "report", "--ledger", URL]).stdout
    assert "1 attempts without a price, 2 not settled in time; --wide shows more" in " ".join(short.split())
    wide = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["ledger", "report", "--ledger", URL, "--wide"]).stdout
    for word in ("tenant:a", "attempts", "requests", "overrun", "unpriced", "expired", "0.0130"):
        assert word in wide


def test_a_balance_shows_spent_held_and_limit(filled):
    # The real clock is another day's.
    balance = json.loads(duet("balance", "tenant:a", "--ledger", URL, "--json").stdout)["tenant:a"]
    assert balance["limit"] == {
        "usd": "5",
        "reasoner_tokens": None,
        "generator_tokens": None,
        "requests": 10,
        "window": "day",
    }
    assert json.loads(duet("balance", "session:1", "--ledger", URL, "--json").stdout)["session:1"]["spent"] == {
        "usd": "0.013",
        "reasoner_tokens": 312,
        "generator_tokens": 360,
        "requests": 1,
    }


def test_balances_without_a_scope_are_those_with_a_limit(filled):
    done = duet("balance", "--ledger", URL)
    assert "tenant:a" in done.stdout
    assert "session:1" not in done.stdout


def test_set_limit_limits_and_removes():
    assert duet("set-limit", "tenant:a", "--usd", "0.5", "--window", "rolling:24h", "--ledger", URL).exit_code == 0
    assert json.loads(duet("balance", "--ledger", URL, "--json").stdout)["tenant:a"]["limit"]["usd"] == "0.5"
    assert duet("set-limit", "tenant:a", "--remove", "--ledger", URL).exit_code == 0
    assert json.loads(duet("balance", "--ledger", URL, "--json").stdout) == {}


def test_set_limit_says_what_it_did(filled):
    done = duet("set-limit", "session:1", "--usd", "2", "--requests", "1", "--ledger", URL)
    assert done.stderr == "session:1: at most 2 USD, 1 request (window: forever); spent so far: 0.013 USD, 1 request\n"
    done = duet("set-limit", "session:1", "--usd", "2", "--requests", "1", "--ledger", URL)
    assert done.stderr.endswith("1 request; replaces at most 2 USD, 1 request (window: forever)\n")
    done = duet("set-limit", "session:1", "--remove", "--ledger", URL)
    assert done.stderr == "session:1: no limit any more, was at most 2 USD, 1 request (window: forever)\n"
    assert duet("set-limit", "session:1", "--remove", "--ledger", URL).stderr == "session:1: had no limit\n"


def test_balances_fit_80_columns_and_show_what_is_limited():
    duet("set-limit", "tenant:a", "--reasoner-tokens", "50000", "--window", "rolling:24h", "--ledger", URL)
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["ledger", "balance", "--ledger", URL])
    assert "│ tenant:a │ rolling:24h │ reasoner tokens │     0 │    0 │ 50000 │   0% │" in done.stdout
    assert "USD" not in done.stdout


def test_watch_shows_limits_and_entries_as_they_change(filled):
    duet("set-limit", "tenant:new", "--requests", "3", "--ledger", URL)
    with Terminal("ledger", "watch", "--ledger", URL) as terminal:
        assert "tenant:new" in terminal.expect("Ctrl-C ends")

        async def spend():
            async with SqliteLedger("ledger.db") as ledger:
                hold = await ledger.hold(["tenant:new"], Amount(Decimal("0.05"), 400, 0, 1), facts=SIGNAL)
                await hold.settle(Amount(Decimal("0.0123"), 312, 0, 1), SIGNAL)

        asyncio.run(spend())
        terminal.expect("33%")
        terminal.expect("vllm/big")
        terminal.type("\x03")
        assert terminal.ended()[0] == 0


def test_tail_prints_entries_from_then_on_one_a_line(filled):
    lines = duet("tail", "--since", "2026-11-01", "--scope", "tenant:a", "--ledger", URL).stdout.splitlines()
    assert lines[0] == (
        "2026-11-25 12:00:00  settled  reasoner  signal  vllm/big  312+0 tokens  0.0123 USD  tenant:a  session:1"
    )
    assert len(lines) == 3
    last = duet("tail", "--since", "2026-11-26", "--json", "--ledger", URL).stdout.splitlines()
    assert len(last) == 1
    assert json.loads(last[0])["usd"] is None
    assert json.loads(last[0])["overrun"]["generator_tokens"] == 15


def test_prune_deletes_what_is_older(filled):
    assert "deleted 3 entries" in duet("prune", "2026-11-26", "--ledger", URL).stderr
    assert [row["group"] for row in json.loads(duet("report", "--ledger", URL, "--json").stdout)] == ["tenant:b"]


def test_the_ledger_of_the_settings_is_taken_where_none_is_named(filled):
    Path("own.toml").write_text(f'ledger = "{URL}"\n')
    done = duet("report", "--by", "day", "--json", "--config", "own.toml")
    assert [row["group"] for row in json.loads(done.stdout)] == ["2026-11-25", "2026-11-26"]
    Path("own.toml").rename("duet.toml")
    done = duet("report", "--by", "day", "--json")
    assert (done.exit_code, "sets ledger, which needs your consent" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report"], 2, "no ledger given"),
        (["report", "--ledger", "sqlite:///nowhere.db"], 2, "there is no ledger at nowhere.db"),
        (["report", "--ledger", "postgres://u:sesame@h/db"], 2, "unknown ledger URL"),
        (["report", "--ledger", "redis://u:sesame@h/0"], 2, "must not contain a password"),
        (["report", "--ledger", "redis://127.0.0.1:1/0"], 1, "redis://127.0.0.1:1/0 failed"),
        (["report", "--json", "--csv", "--ledger", URL], 2, "not both"),
        (["report", "--by", "user", "--ledger", URL], 2, "user"),
        (["report", "--since", "yesterday", "--ledger", URL], 2, "invalid time 'yesterday'"),
        (["report", "--since", "999999d", "--ledger", URL], 2, "invalid time '999999d'"),
        (["report", "--scope", "nobody", "--ledger", URL], 2, "must be kind:name"),
        (["watch", "--ledger", URL], 2, "watch needs a terminal; for a file or a pipe use duet ledger tail --follow"),
        (["set-limit", "tenant:a", "--ledger", URL], 2, "a limit must limit at least one of"),
        (["set-limit", "tenant:a", "--usd", "much", "--ledger", URL], 2, "--usd must be a number"),
        (["set-limit", "tenant:a", "--usd", "-1", "--ledger", URL], 2, "at least 0"),
        (["set-limit", "tenant:a", "--requests", "1", "--window", "week", "--ledger", URL], 2, "unknown window 'week'"),
        (["set-limit", "tenant:a", "--remove", "--usd", "1", "--ledger", URL], 2, "omit the other options"),
        (["set-limit", "tenant", "--usd", "1", "--ledger", URL], 2, "must be kind:name"),
    ],
)
def test_what_cannot_be_done_is_said(filled, arguments, code, words):
    done = duet(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert "sesame" not in done.stderr
    assert not Path("nowhere.db").exists()


@pytest.mark.parametrize("command", ["report", "balance", "set-limit", "tail", "watch", "prune"])
def test_every_command_shows_an_example(command):
    assert "Example: duet ledger" in duet(command, "--help").stdout


@pytest.mark.parametrize("command", [["report", "--by", "model"], ["tail", "--since", "2026-11-01"]])
def test_a_models_name_can_neither_act_on_the_terminal_nor_fake_a_line(command):
    model = "vllm/[red]a[/red]\x1b]0;title\x07\n2026-11-25 12:00:00  settled\u202e"

    async def fill():
        async with SqliteLedger("ledger.db", clock=Clock()) as ledger:
            hold = await ledger.hold(["tenant:a"], Amount(Decimal("0.05"), 400, 0, 1), facts=SIGNAL)
            await hold.settle(Amount(Decimal("0.0123"), 312, 0, 1), replace(SIGNAL, model=model))

    asyncio.run(fill())
    for more in ([], ["--json"], ["--csv"] if command[0] == "report" else []):
        done = duet(*command, "--ledger", URL, *more)
        assert done.exit_code == 0, done.stderr
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
        if "--json" in more:
            assert json.dumps(model)[1:-1] in json.dumps(json.loads(done.stdout))
        elif "--csv" not in more:
            assert "settled\\u202e" not in [line[21 : 21 + 13] for line in done.stdout.splitlines()]


def test_a_ledger_in_a_missing_folder_is_refused_and_nothing_is_made():
    done = duet("set-limit", "tenant:a", "--usd", "1", "--ledger", "sqlite:///missing/ledger.db")
    assert done.exit_code == 2
    assert "the ledger's folder missing does not exist" in done.stderr
    assert not Path("missing").exists()
