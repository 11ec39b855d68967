"""Gates that decide before any model is called: their time, their failures, and what the request makes of both."""

import asyncio
import logging

import pytest

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Scripted
from duet_sdk.errors import ConfigError, DeadlineExceeded, InvalidRequest
from duet_sdk.policies import GateConfig
from duet_sdk.reply import GateDecision


class Mine:
    """A gate that does what it is told to."""

    name = "mine"

    def __init__(self, decide):
        self.decide = decide


class Hanging:
    """A gate that never answers."""

    name = "hanging"

    def __init__(self):
        self.entered = asyncio.Event()
        self.left = False

    async def decide(self, request):
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True


async def test_a_gate_that_hangs_is_stopped_and_counts_as_yes(caplog):
    gate = Hanging()
    async with AsyncDuetClient("scripted/s", "scripted/a", gate=gate, gate_deadline_s=0.05) as duet:
        with caplog.at_level(logging.WARNING, "duet_sdk"):
            reply = await duet.chat("q")
    assert reply.gate == GateDecision(True, "hanging", reason="the gate took longer than 0.05 s")
    assert reply.served_by == "pair"
    assert gate.left
    assert reply.receipt.gate_s >= 0.05
    assert "gate hanging took longer than 0.05 s; the reasoner is asked" in caplog.text


async def test_a_gate_may_take_a_quarter_of_the_requests_time_at_most():
    async with AsyncDuetClient("scripted/s", "scripted/a", gate=Hanging()) as duet:
        reply = await duet.chat("q", budget=Budget(deadline_s=0.4))
    assert reply.gate.reason == "the gate took longer than 0.1 s"
    assert reply.text == "a"


async def test_a_request_that_is_cancelled_in_its_gate_ends_the_gate():
    gate, reasoner = Hanging(), Scripted("s")
    async with AsyncDuetClient(reasoner, "scripted/a", gate=gate) as duet:
        asking = asyncio.create_task(duet.chat("q"))
        await gate.entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert gate.left
    assert reasoner.calls == []


@pytest.mark.parametrize(
    ("decide", "reason"),
    [
        (lambda request: 1 / 0, "the gate failed with ZeroDivisionError"),
        (lambda request: GateDecision(False, "mine"), "the gate failed with TypeError"),
    ],
)
async def test_a_gate_that_is_broken_counts_as_yes(decide, reason):
    async def broken(request):
        return decide(request)

    gate = Mine(broken if "Zero" in reason else decide)
    async with AsyncDuetClient("scripted/s", "scripted/a", gate=gate) as duet:
        reply = await duet.chat("q")
    assert (reply.gate.ask, reply.gate.reason) == (True, reason)


async def test_a_gate_that_gives_no_decision_counts_as_yes():
    async def decide(request):
        return True

    async with AsyncDuetClient("scripted/s", "scripted/a", gate=Mine(decide)) as duet:
        reply = await duet.chat("q")
    assert reply.gate == GateDecision(True, "mine", reason="the gate returned a bool")


async def test_an_error_of_duets_own_reaches_the_caller():
    async def decide(request):
        raise InvalidRequest("not for us")

    async with AsyncDuetClient("scripted/s", "scripted/a", gate=Mine(decide)) as duet:
        with pytest.raises(InvalidRequest, match="not for us"):
            await duet.chat("q")


async def test_a_deadline_of_the_gates_own_is_no_deadline_of_the_request():
    async def decide(request):
        raise TimeoutError

    async with AsyncDuetClient("scripted/s", "scripted/a", gate=Mine(decide)) as duet:
        reply = await duet.chat("q")
    assert reply.gate.reason == "the gate failed with TimeoutError"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_gate_deadline_that_cannot_be_is_refused(seconds):
    with pytest.raises(ConfigError, match="gate_deadline_s must be a finite number of seconds, above 0"):
        AsyncDuetClient("scripted/s", "scripted/a", gate_deadline_s=seconds)


@pytest.mark.parametrize("gate", ["heuristic", GateConfig("heuristic", 0.9)])
async def test_the_heuristic_gate_calls_no_model_for_its_decision(gate):
    reasoner, generator = Scripted("s"), Scripted("Hi!")
    async with AsyncDuetClient(reasoner, generator) as duet:
        reply = await duet.chat("Hello!", gate=gate)
    assert (reply.served_by, len(reasoner.calls), len(generator.calls)) == ("generator", 0, 1)
    assert reply.gate.policy == "heuristic"
    assert reply.gate.score < reply.gate.threshold


async def test_no_time_is_left_when_the_gate_used_it_all():
    async def decide(request):
        raise AssertionError

    async with AsyncDuetClient("scripted/s", "scripted/a", gate=Mine(decide)) as duet:
        run = duet.stream("q", budget=Budget(deadline_s=1e-9))
        async with run:
            with pytest.raises(DeadlineExceeded):
                async for _ in run:
                    pass
