"""What was asked for by name and cannot be had: one warning for each client and cause, and nothing paid for it twice."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
from support.raw_server import answering, piece, used, whole

from duet_sdk import (
    AsyncDuetClient,
    DegradedWarning,
    DuetClient,
    FailurePolicy,
    Prompts,
    Reply,
    Retry,
    Sampling,
    StreamBroken,
    ToolCall,
)
from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.scripted import DEFAULT_CAPABILITIES, Script, Scripted
from duet_sdk.gate import Confidence, Race
from duet_sdk.policies import Progressive

JSON = {"type": "json_object"}


def noted(town: str) -> str:
    """A town is noted."""
    return town


class Silent(Scripted):
    """Takes a call for logprobs and sends none."""

    async def stream(self, call: Call) -> Any:
        async for chunk in super().stream(call):
            yield replace(chunk, logprobs=()) if isinstance(chunk, Chunk) else chunk


def warned(duet: DuetClient, times: int = 3, **options: Any) -> tuple[list[Any], list[Reply]]:
    """The warnings of that many requests, and their replies."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        replies = [duet.chat("Which town?", **options) for _ in range(times)]
    return [one for one in told if one.category is DegradedWarning], replies


@pytest.mark.parametrize("gate", [Confidence(first_tokens=4), Race(first_tokens=4)], ids=["confidence", "race"])
def test_a_gate_without_logprobs_pays_for_one_try_and_says_so_once(gate: Any) -> None:
    generator = Silent("one two three four five six seven eight")
    with DuetClient(Scripted(Script("the signal", token_s=0.01)), generator, gate=gate) as duet:
        (told,), replies = warned(duet)
    assert f"'{gate.name}' cannot be had with scripted/lines, whose server sends no logprobs" in str(told.message)
    kinds = [[attempt.kind for attempt in reply.receipt.attempts] for reply in replies]
    assert sorted(kinds[0]) == ["answer", "probe", "signal"]
    assert kinds[1:] == [["signal", "answer"]] * 2
    assert replies[1].gate is not None
    assert replies[1].gate.ask
    assert replies[1].gate.reason == "the generator reports no logprobs, as it has shown before"


def test_a_signal_is_probed_once_where_logprobs_do_not_come() -> None:
    reasoner = Scripted(Script(" ".join(["word."] * 60), token_s=0.002))
    options = Progressive(slice_tokens=5, probe_tokens=2, share=1.0)
    with DuetClient(reasoner, Silent("one two three four"), progressive=options) as duet:
        (told,), replies = warned(duet)
    assert "'progressive' cannot be had" in str(told.message)
    assert [sum(one.kind == "probe" for one in reply.receipt.attempts) for reply in replies] == [1, 0, 0]


def test_a_tool_call_without_logprobs_proves_nothing() -> None:
    generator = Silent(Script("", tool_calls=(ToolCall("c1", "noted", '{"town": "Oslo"}'),)))
    with DuetClient(Scripted("s"), generator, gate=Confidence(first_tokens=1)) as duet:
        told, _ = warned(duet, tools=[noted])
    assert told == []


def test_a_handoff_that_cannot_be_rendered_is_said_once_for_each_client() -> None:
    for _ in range(2):
        with DuetClient("scripted/s", "scripted/a", handoff="think") as duet:
            (told,), replies = warned(duet)
        assert "handoff='think' cannot be had with scripted/a" in str(told.message)
        assert told.filename == __file__
        assert replies[0].handoff == "instruct"


def test_logprobs_that_do_not_come_are_said_once() -> None:
    with DuetClient("scripted/s", Silent("an answer")) as duet:
        (told,), _ = warned(duet, generator_params=Sampling(logprobs=1))
        assert warned(duet)[0] == []
    assert "logprobs cannot be had from scripted/lines" in str(told.message)


class OneAnswer(Scripted):
    """Takes a call for several answers and gives one."""

    async def stream(self, call: Call) -> Any:
        async for chunk in super().stream(replace(call, n=1)):
            yield chunk


def test_answers_that_do_not_come_are_said_once() -> None:
    with DuetClient("scripted/s", OneAnswer("an answer")) as duet:
        (told,), replies = warned(duet, n=3)
    assert "n=3 cannot be had from scripted/lines: its server was asked for 3 answers and gave 1" in str(told.message)
    assert replies[0].text == "an answer"


async def test_a_server_that_ignores_n_is_called_once_and_its_answer_kept() -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Any:
        asked.append(body)
        return [piece("hello", "stop"), used(1)] if body.get("stream") else whole("hello")

    async with answering(answer) as url, AsyncDuetClient("scripted/s", f"vllm/m@{url}") as duet:
        with pytest.warns(DegradedWarning, match="n=3 cannot be had from vllm/m"):
            reply = await duet.chat("q", n=3, vote="majority")
        assert (reply.text, reply.answers, reply.served_by) == ("hello", ("hello", "", ""), "pair")
        async with duet.stream("q", n=3) as run:  # a second warning would fail
            events = [event async for event in run]
    assert run.reply.text == "hello"
    assert events
    assert [body["n"] for body in asked] == [3, 3]


def test_several_answers_that_their_limit_cuts_are_no_missing_ones() -> None:
    with DuetClient("scripted/s", "scripted/a b c d e f") as duet:
        assert warned(duet, n=2, budget={"answer_tokens": 2})[0] == []


def test_a_format_that_no_server_holds_is_said_once() -> None:
    with DuetClient("scripted/s", "scripted/no JSON") as duet:
        (told,), _ = warned(duet, response_format=JSON)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            duet.chat("q")
    assert "response_format cannot be had with scripted/no JSON" in str(told.message)


def test_a_format_that_is_kept_when_asked_again_is_not_warned_of() -> None:
    with DuetClient("scripted/s", Scripted("no JSON", '{"a": 1}')) as duet:
        assert warned(duet, times=1, response_format=JSON)[0] == []


def test_a_tool_that_is_not_called_though_it_must_be_is_said_once() -> None:
    with DuetClient("scripted/s", "scripted/no call") as duet:
        (told,), _ = warned(duet, tools=[noted], tool_choice="required")
    assert "tool_choice cannot be had with scripted/no call" in str(told.message)


def test_a_signal_that_cannot_go_on_is_said_once() -> None:
    def broken() -> Script:
        error = StreamBroken("gone", backend="scripted", model="lines")
        return Script("a signal that breaks off", error=error, fail_after=2)

    reasoner = Scripted(broken(), "whole", broken(), "whole")
    policy = FailurePolicy(retry=Retry(first_wait_s=0), signal_broken="continue")
    with DuetClient(reasoner, "scripted/a", on_failure=policy) as duet:
        (told,), replies = warned(duet, times=2)
    assert "signal_broken='continue' cannot be had with scripted/lines" in str(told.message)
    assert replies[0].signal.text == "whole"


async def test_a_filter_makes_it_an_error_before_anything_is_paid() -> None:
    reasoner = Scripted("s", capabilities=DEFAULT_CAPABILITIES)
    async with AsyncDuetClient(reasoner, "scripted/a", handoff="think") as duet:
        for _ in range(2):
            with pytest.raises(DegradedWarning, match="handoff='think' cannot be had"):
                await duet.chat("q")
    assert reasoner.calls == []


def test_what_is_not_asked_for_is_not_missed() -> None:
    with DuetClient("scripted/s", Silent("an answer"), prompts=Prompts("Plan.")) as duet:
        assert warned(duet)[0] == []
