"""What failed on the way is told with its cause: in the receipt, the reply, the events, the log and the terminal."""

import json
import socket

import pytest
from typer.testing import CliRunner

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.cli.app import app
from duet_sdk.errors import ConnectFailed, RateLimited, StreamBroken
from duet_sdk.events import AttemptEnded, AttemptStarted, FellBack, Retried
from duet_sdk.pipeline.causes import cause
from duet_sdk.policies import FailurePolicy, Ladder, Retry
from duet_sdk.reply import StageUsage

ONCE, AT_ONCE = Retry(attempts=1), Retry(first_wait_s=0)


def busy(words="too many requests"):
    return RateLimited(words, backend="scripted", model="lines", status=429)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def duet(reasoner, generator, **options):
    options.setdefault("retry", ONCE)
    return AsyncDuetClient(reasoner, generator, **options)


async def events_of(client, **options):
    async with client, client.stream("why?", **options) as run:
        return [event async for event in run]


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
async def test_a_model_that_cannot_be_reached_is_an_attempt_without_tokens(stage):
    url = f"http://127.0.0.1:{closed_port()}/v1"
    gone, works = f"vllm/m@{url}", "scripted/There are 17."
    pair = (gone, works) if stage == "reasoner" else (works, gone)
    async with duet(*pair) as client:
        reply = await client.chat("How many?")
    lost = reply.receipt.attempts[0]
    assert (lost.stage, lost.error_type, lost.usage, lost.usd) == (stage, "ConnectFailed", StageUsage(), 0)
    assert f"vllm/m at {url}" in lost.error
    assert "is the server running?" in lost.error
    assert lost.error in reply.why
    assert reply.cost.usd == 0


async def test_each_retry_of_a_connection_is_an_attempt():
    down = ConnectFailed("no answer", backend="scripted", model="lines")
    events = await events_of(duet(Scripted(connect_error=down), "scripted/a", retry=AT_ONCE))
    reply = events[-1].reply
    assert [attempt.attempt for attempt in reply.receipt.attempts if attempt.stage == "reasoner"] == [1, 2, 3]
    told = [event for event in events if isinstance(event, AttemptStarted | AttemptEnded)]
    assert [type(event).__name__ for event in told] == ["AttemptStarted", "AttemptEnded"] * 4
    assert [event.error for event in events if isinstance(event, Retried)] == ["scripted/lines says: no answer"] * 2


async def test_every_event_and_record_has_the_cause():
    events = await events_of(duet(Scripted(Script(error=busy())), "scripted/alone"))
    said = "scripted/lines (429) says: too many requests"
    (ended, _) = [event for event in events if isinstance(event, AttemptEnded)]
    (fell,) = [event for event in events if isinstance(event, FellBack)]
    reply = events[-1].reply
    assert (ended.error, fell.error, reply.receipt.attempts[0].error) == (said, said, said)
    assert reply.why == f"there was no signal, so the generator answered alone: {said}"
    assert reply.to_dict()["why"] == reply.summary()["why"] == reply.why
    assert reply.to_dict()["receipt"]["attempts"][0]["error"] == said


async def test_the_log_says_why_another_model_takes_over(caplog):
    async with duet([Scripted(Script(error=busy())), "scripted/17"], "scripted/a") as client:
        reply = await client.chat("q")
    assert "scripted/lines (429) says: too many requests" in caplog.text
    assert reply.why == (
        "the generator answered from the reasoner's signal: "
        "scripted/lines failed (scripted/lines (429) says: too many requests) and scripted/17 took over"
    )


async def test_the_sentence_tells_modes_gates_and_cuts():
    async with duet("scripted/One two. Three", "scripted/a b c") as client:
        assert (await client.chat("q")).why == "the generator answered from the reasoner's signal"
        assert (await client.chat("q", mode="generator")).why == "only the generator was asked"
        alone = await client.chat("q", gate="never")
        assert alone.why == "the generator answered without a signal: the gate 'never' did not ask the reasoner"
        cut = await client.chat("q", budget=Budget(signal_tokens=2, answer_tokens=2))
    assert cut.finish_reason == "length"
    assert cut.why == (
        "the generator answered from a signal that was cut: its limit was 2 tokens; "
        "the answer was cut at its limit of 2 tokens"
    )


async def test_a_fallback_pair_says_what_it_stands_in_for():
    policy = FailurePolicy(retry=ONCE, fallback_pair=("scripted/x", "scripted/y"))
    async with AsyncDuetClient("scripted/a", Scripted(Script(error=busy())), on_failure=policy) as client:
        reply = await client.chat("q")
    assert reply.why == (
        "the fallback pair answered: the pair failed (scripted/lines (429) says: too many requests) "
        "and scripted/x with scripted/y took over"
    )


async def test_a_partial_reply_says_how_it_ended():
    broken = Scripted(Script("one two three", error=busy(), fail_after=2))
    async with duet("scripted/a", broken, on_failure=Ladder(generator="raise")) as client, client.stream("q") as run:
        with pytest.raises(StreamBroken):
            async for _ in run:
                pass
    assert run.reply.finish_reason == "error"
    assert run.reply.why.endswith("the answer broke off")


def test_a_cause_holds_no_key_no_escape_sequence_and_no_words_of_others():
    error = busy("\x1b[31mkey sk-abcdefghijklmnop\x1b[0m\r\nrefused\x07\u202e")
    said = cause(error)
    assert said.startswith("scripted/lines (429) says: ")
    assert "key ***" in said
    assert said.isprintable()
    assert cause(ValueError("the prompt")) == "ValueError"


def test_the_command_line_tells_causes_and_cuts():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    pair = ["--reasoner", f"vllm/m@{url}", "--generator", "scripted/one two three"]
    done = CliRunner().invoke(app, ["ask", "q", *pair, "--answer-tokens", "2"])
    assert done.exit_code == 0
    assert f"vllm/m at {url}" in done.stderr
    assert "the answer was cut at its limit of 2 tokens" in done.stderr
    reply = json.loads(CliRunner().invoke(app, ["ask", "q", *pair, "--json"]).stdout)
    assert url in reply["why"]


@pytest.mark.parametrize(
    ("script", "budget", "served_by", "why"),
    [
        (
            Script("One two. Three four", token_s=0.2),
            Budget(deadline_s=5, signal_deadline_s=0.5),
            "pair_cut",
            "the generator answered from a signal that was cut: its time was up",
        ),
        (
            Script("One two.", first_s=60.0),
            Budget(deadline_s=60, signal_deadline_s=0.05),
            "generator_fallback",
            "there was no signal, so the generator answered alone: the reasoner wrote no signal; its time was up: raise "
            "signal_deadline_s or deadline_s",
        ),
        (
            Script("One two.", first_s=60.0),
            Budget(deadline_s=0.5),
            "generator_fallback",
            "there was no signal, so the generator answered alone: the reasoner wrote no signal; its time was up: raise "
            "deadline_s",
        ),
    ],
)
async def test_a_signal_whose_time_was_up_is_not_said_to_have_met_its_limit(script, budget, served_by, why):
    async with duet(Scripted(script), "scripted/a") as client:
        reply = await client.chat("q", budget=budget)
    assert (reply.served_by, reply.why) == (served_by, why)


async def test_a_signal_that_broke_off_and_is_kept_is_told_with_its_error():
    broken = StreamBroken("gone", backend="scripted", model="lines")
    policy = FailurePolicy(retry=ONCE, signal_broken="keep")
    reasoner = Scripted(Script("One two. Three", error=broken, fail_after=3))
    async with AsyncDuetClient(reasoner, "scripted/a", on_failure=policy) as client:
        reply = await client.chat("q")
    assert reply.served_by == "pair_cut"
    assert reply.why == "the generator answered from a signal that was cut: it broke off (scripted/lines says: gone)"
