"""What every gate owes the pipeline, asked of each shipped one."""

import asyncio
import math

import pytest

from duet_sdk.gate import GATES, Always, Confidence, Gate, Heuristic, Never, Race, TokenGate, find_gate
from duet_sdk.reply import GateDecision
from duet_sdk.request import Request
from duet_sdk.types import ImagePart, Message, TextPart, TokenLogprob, ToolCall

REQUESTS = [
    Request((Message("user", "kumquat?"),)),
    Request((Message("user", ""),)),
    Request((Message("system", "kumquat"), Message("user", "kumquat " * 5000))),
    Request((Message("user", (TextPart("kumquat"), ImagePart("https://kumquat/x.png"))),)),
    Request(
        (
            Message("user", "kumquat"),
            Message("assistant", "", (ToolCall("c", "kumquat", "{"),)),
            Message("tool", "kumquat error", tool_call_id="c"),
        )
    ),
    Request((Message("user", "\ud83d"), Message("assistant", "kumquat"), Message("user", "且"))),
]
TOKENS = [
    [TokenLogprob("kumquat", -0.1)],
    [TokenLogprob("kumquat", -0.0), TokenLogprob("x", -9999.0)],
    [TokenLogprob("kumquat", 0.3)],  # some servers round up
    [TokenLogprob("kumquat", -math.inf)],
    [TokenLogprob("kumquat", math.nan), TokenLogprob("x", -0.1)],
]
BEFORE = pytest.mark.parametrize("gate", [Always(), Never(), Heuristic()], ids=lambda gate: gate.name)
BY_TOKENS = pytest.mark.parametrize("gate", [Confidence(), Race()], ids=lambda gate: gate.name)


def holds(decision, gate):
    assert type(decision) is GateDecision
    assert decision.policy == gate.name
    assert "kumquat" not in decision.reason
    if decision.score is not None:
        assert 0 <= decision.score <= 1
        assert decision.ask is (decision.score >= decision.threshold)


@pytest.mark.parametrize("name", GATES)
def test_a_shipped_gate_is_found_by_its_name_and_is_of_one_protocol(name):
    gate = find_gate(name)
    assert gate.name == name
    assert isinstance(gate, Gate) is not isinstance(gate, TokenGate)


@BEFORE
@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_decision_is_whole_and_quotes_nothing(gate, request_):
    holds(await gate.decide(request_), gate)


@BEFORE
async def test_a_decision_depends_on_the_request_alone(gate):
    once = [await gate.decide(request) for request in REQUESTS]
    assert once == await asyncio.gather(*map(gate.decide, REQUESTS))


@BY_TOKENS
@pytest.mark.parametrize("tokens", TOKENS)
async def test_a_verdict_is_whole_and_quotes_nothing(gate, tokens):
    holds(await gate.judge(REQUESTS[0], tokens), gate)


@BY_TOKENS
async def test_the_surer_the_tokens_the_lower_the_score(gate):
    scores = [(await gate.judge(REQUESTS[0], [TokenLogprob("x", logprob)])).score for logprob in (-4, -1, -0.1, 0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0.0


@BY_TOKENS
async def test_tokens_that_tell_nothing_count_as_yes(gate):
    assert (await gate.judge(REQUESTS[0], [TokenLogprob("x", math.nan)])).ask
    assert (await gate.judge(REQUESTS[0], [])).ask


@BY_TOKENS
def test_it_says_how_many_tokens_it_wants_and_when(gate):
    assert gate.first_tokens >= 1
    assert gate.when in ("before", "beside")
