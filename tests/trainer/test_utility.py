"""The utility of a pair on held-out questions: scripted pairs with known answers, and the embedded pair for real."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from duet_sdk import AsyncDuetClient, Message, Pair, Retry
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.cli.app import app
from duet_sdk.errors import ConnectFailed, EvaluationError
from duet_sdk.evaluation.grading import Exact, find_grader
from duet_sdk.evaluation.intervals import difference_interval, share_interval
from duet_sdk.evaluation.question import Question
from duet_sdk.evaluation.utility import measure_utility

GRADES = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def asked(count: int, answer: str = "17") -> list[Question]:
    return [Question((Message("user", f"How many, case {at}?"),), answer) for at in range(count)]


def questions_file(path: Path, count: int, answer: str = "17") -> str:
    path.write_text("".join(json.dumps({"prompt": f"Case {at}?", "answer": answer}) + "\n" for at in range(count)))
    return str(path)


@example([(0.0, 0.0)] * 7)
@given(GRADES)
def test_intervals_hold_their_values_and_stay_in_range(pairs):
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    share, difference = share_interval(sum(one), len(one)), difference_interval(one, other)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert -1 <= difference.low <= difference.value + 1e-12
    assert difference.value - 1e-12 <= difference.high <= 1
    turned = difference_interval(other, one)
    assert (turned.low, turned.high) == pytest.approx((-difference.high, -difference.low))


@pytest.mark.parametrize(("questions", "guided", "alone", "kept"), [(30, 0.8, 0.5, 0.3), (50, 0.95, 0.15, 0.2)])
def test_the_interval_of_a_difference_covers_it_as_often_as_it_says(questions, guided, alone, kept):
    draw = random.Random(3)
    covered, trials = 0, 2000
    for _ in range(trials):
        one, other = [], []
        for _ in range(questions):
            luck = draw.random()
            one.append(float(luck < guided))
            other.append(float((luck if draw.random() < kept else draw.random()) < alone))
        interval = difference_interval(one, other)
        covered += interval.low <= guided - alone <= interval.high
    assert 0.93 < covered / trials < 0.98


def test_the_interval_of_a_share_has_a_width_where_all_are_right():
    # Wilson's bound for n of n is n / (n + z²).
    assert share_interval(20, 20).low == pytest.approx(20 / (20 + 3.8415), abs=1e-4)


def answers(guided: str, alone: str) -> Scripted:
    """A generator that answers by whether it was given notes."""

    class ByNotes(Scripted):
        async def stream(self, call):
            text = guided if any("<notes>" in message.text for message in call.messages) else alone
            async for chunk in Scripted(text).stream(call):
                yield chunk

    return ByNotes()


@pytest.mark.parametrize(
    ("guided", "alone", "recorded", "verdict"),
    [
        ("17", "19", None, "ok"),
        ("17", "19", 0.9, "ok"),
        ("17", "17", None, "none"),
        ("17", "17", 0.9, "worse"),
        ("19", "17", None, "none"),
    ],
)
async def test_the_worth_of_a_signal_is_measured_on_the_same_questions(guided, alone, recorded, verdict):
    async with AsyncDuetClient("scripted/by sieve", answers(guided, alone)) as client:
        found = await measure_utility(client, asked(40), Exact(), recorded=recorded)
    right = {"17": 1.0, "19": 0.0}
    assert (found.guided.value, found.alone.value) == (right[guided], right[alone])
    assert found.utility.value == right[guided] - right[alone]
    assert found.utility.low < found.utility.value or found.utility.value == -1
    assert (found.questions, found.failed, found.signal_tokens, found.verdict) == (40, 0, 2, verdict)


async def test_a_pair_that_does_not_answer_says_nothing_of_its_worth():
    async with AsyncDuetClient("vllm/m@http://127.0.0.1:9/v1", "scripted/17") as client:
        with pytest.raises(EvaluationError, match="3 of 3 questions failed; the first: .*generator_fallback"):
            await measure_utility(client, asked(3), Exact())


async def test_a_pair_that_learned_silence_is_measured_all_the_same():
    async with AsyncDuetClient(Scripted(""), "scripted/17") as client:
        found = await measure_utility(client, asked(10), Exact())
    assert (found.questions, found.failed) == (10, 0)
    assert (found.guided.value, found.alone.value) == (1.0, 1.0)


async def test_a_guided_answer_that_says_nothing_is_the_pair_s_own_whoever_stands_in():
    client = AsyncDuetClient(Scripted("17"), answers("<think>", "17"), retry=Retry(attempts=1))
    async with client:
        found = await measure_utility(client, asked(4), Exact())
    assert (found.failed, found.guided.value, found.alone.value) == (0, 0.0, 1.0)


async def test_a_reasoner_that_fails_is_not_silent():
    broken = Scripted(Script("", error=ConnectFailed("it broke", backend="scripted", model="r")))
    async with AsyncDuetClient(broken, "scripted/17") as client:
        with pytest.raises(EvaluationError, match="3 of 3 questions failed"):
            await measure_utility(client, asked(3), Exact())


async def test_a_grader_that_fails_on_everything_says_nothing_of_a_pair():
    def failing(completions, **_columns):
        raise ValueError("broken")

    async with AsyncDuetClient("scripted/by sieve", "scripted/17") as client:
        with pytest.raises(EvaluationError, match=r"the grader 'failing' failed on 3 of .*ValueError \(3 times\)"):
            await measure_utility(client, asked(3), find_grader(failing))


async def test_both_models_are_sampled_by_the_seed():
    reasoner, generator = Scripted("by sieve"), Scripted("17")
    async with AsyncDuetClient(reasoner, generator) as client:
        await measure_utility(client, asked(2), Exact(), seed=5)
    assert [call.sampling.seed for call in [*reasoner.calls, *generator.calls]] == [5] * 6


async def test_no_questions_are_refused():
    async with AsyncDuetClient("scripted/x", "scripted/17") as client:
        with pytest.raises(EvaluationError, match="there are no questions to measure on"):
            await measure_utility(client, [], Exact())


def test_the_command_prints_intervals_and_ends_by_what_is_asked(tmp_path):
    Pair.of("scripted/by sieve", "scripted/17").save(tmp_path / "pair")
    file = questions_file(tmp_path / "canaries.jsonl", 20)
    run = CliRunner().invoke
    done = run(app, ["pair", "check", str(tmp_path / "pair"), "--questions", file, "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["questions"], found["guided"]["value"], found["verdict"]) == (0, 20, 1.0, "none")
    table = run(app, ["pair", "check", str(tmp_path / "pair"), "--questions", file, "--most", "5"])
    assert "5 questions, 0 failed" in table.stdout
    low = run(app, ["pair", "check", str(tmp_path / "pair"), "--questions", file, "--at-least", "0.1"])
    assert (low.exit_code, "--at-least asks for 0.1" in " ".join(low.stderr.split())) == (1, True)
    bad = run(app, ["pair", "check", str(tmp_path / "pair"), "--questions", str(tmp_path / "no.jsonl")])
    assert (bad.exit_code, "cannot be read" in bad.stderr) == (1, True)


def test_a_missing_column_is_named_by_the_commands_own_options(tmp_path):
    Pair.of("scripted/by sieve", "scripted/17").save(tmp_path / "pair")
    (tmp_path / "q.jsonl").write_text('{"question": "q", "answer": "1"}\n' * 5)
    bad = CliRunner().invoke(app, ["pair", "check", str(tmp_path / "pair"), "--questions", str(tmp_path / "q.jsonl")])
    told = " ".join(bad.stderr.split())
    assert "no column 'prompt', it has 'question', 'answer'; name them with --prompt-column and --answer-column" in told
    assert told.count("no column") == 1


@pytest.mark.model
def test_the_embedded_pair_is_measured_for_real(tmp_path):
    """No quality is claimed: what is shown is that a real pair answers both ways and is graded."""
    Pair.of("transformers/embedded", "transformers/embedded").save(tmp_path / "pair")
    values = json.loads((tmp_path / "pair" / "pair.json").read_text())
    (tmp_path / "pair" / "pair.json").write_text(
        json.dumps({**values, "limits": {"signal_tokens": 12, "answer_tokens": 12}})
    )
    rows = [("What is the capital of France?", "Paris"), ("What is 1 + 1?", "2")]
    file = tmp_path / "canaries.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in rows))
    done = CliRunner().invoke(app, ["pair", "check", str(tmp_path / "pair"), "--questions", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["questions"], found["failed"]) == (2, 0)
    assert 0 < found["signal_tokens"] <= 12
    assert -1 <= found["utility"]["low"] < found["utility"]["high"] <= 1
