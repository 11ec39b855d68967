"""Races and probes on a real server: who loses is aborted there, by its own metrics, and what it wrote is charged."""

import asyncio
import time

import cues
import pytest

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.gate import Confidence, Race
from duet_sdk.policies import Progressive

pytestmark = pytest.mark.vllm

QUESTION = "What is the capital of France?"
LONG = Budget(signal_tokens=800, answer_tokens=12)
UNSEEN = 16
"""Tokens that a server may have written and not sent when its connection is closed."""


async def is_idle(server, *, within_s: float = 1.0) -> bool:
    end = time.monotonic() + within_s
    while (busy := await asyncio.to_thread(server.running)) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return not busy


def written(reply):
    return reply.usage.reasoner.output_tokens + reply.usage.generator.output_tokens


async def test_a_sure_generator_aborts_the_reasoner_at_the_server(plain):
    before = plain.generated()
    pair = AsyncDuetClient(plain.model, plain.model, reasoner_params=cues.never_ends())
    async with pair as duet:
        reply = await duet.chat(QUESTION, temperature=0, budget=LONG, gate=Race(threshold=1.0, first_tokens=4))
        assert await is_idle(plain)
    assert (reply.served_by, reply.gate.ask, reply.signal.text) == ("generator", False, "")
    assert 0 < reply.gate.score < 1
    assert reply.text
    assert reply.logprobs == ()
    signal, answer = reply.receipt.attempts
    assert (signal.kind, signal.discarded, signal.error_type) == ("signal", True, "cancelled")
    assert (answer.kind, answer.discarded) == ("answer", False)
    # The reasoner was at work while the generator wrote its first tokens, and came nowhere near its limit.
    assert 0 < signal.usage.output_tokens < 400
    assert written(reply) <= plain.generated() - before <= written(reply) + UNSEEN


async def test_a_generator_in_doubt_is_aborted_at_the_server_and_charged(plain):
    endless = cues.never_ends()
    pair = AsyncDuetClient(plain.model, plain.model, reasoner_params=endless, generator_params=endless)
    budget = Budget(signal_tokens=24, answer_tokens=400)
    async with pair as duet, duet.stream(QUESTION, budget=budget, gate=Race(threshold=0.0, first_tokens=4)) as run:
        async for event in run:
            if type(event).__name__ == "SignalDone":
                assert await asyncio.to_thread(plain.running) == 0  # the try is over, the answer has not begun
                break
    reply = run.reply
    probe = next(attempt for attempt in reply.receipt.attempts if attempt.kind == "probe")
    assert (probe.discarded, probe.stage) == (True, "generator")
    assert 4 <= probe.usage.output_tokens < 40
    assert probe.usage.input_tokens > 0
    assert reply.gate.ask
    assert await is_idle(plain)


async def test_confidence_lets_the_generator_answer_where_it_is_sure(plain):
    before = plain.generated()
    async with AsyncDuetClient(plain.model, plain.model) as duet:
        reply = await duet.chat(QUESTION, temperature=0, budget=LONG, gate=Confidence(threshold=1.0, first_tokens=4))
    assert (reply.served_by, len(reply.receipt.attempts)) == ("generator", 1)
    assert written(reply) == plain.generated() - before


async def test_a_sure_probe_aborts_the_reasoner_at_the_server(plain):
    before = plain.generated()
    options = Progressive(slice_tokens=12, threshold=1.0, probe_tokens=2, share=1.0)
    pair = AsyncDuetClient(plain.model, plain.model, reasoner_params=cues.never_ends(), progressive=options)
    async with pair as duet:
        reply = await duet.chat(QUESTION, temperature=0, budget=LONG)
        assert await is_idle(plain)
    assert reply.served_by == "pair"
    assert reply.text
    assert reply.signal.text
    assert not reply.signal.truncated
    signal = next(attempt for attempt in reply.receipt.attempts if attempt.kind == "signal")
    assert signal.error_type == "cancelled"
    assert 12 <= signal.usage.output_tokens < 400
    assert signal.overlap_tokens <= signal.usage.output_tokens - 12
    assert written(reply) <= plain.generated() - before <= written(reply) + UNSEEN
