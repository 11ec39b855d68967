"""Whoever leaves a request ends the server's work on it: its own metrics say so within a second."""

import asyncio
import time

import cues
import pytest

from duet_sdk import AsyncDuetClient, Budget, Message
from duet_sdk.backends import Call
from duet_sdk.backends.connect import connect
from duet_sdk.errors import DeadlineExceeded
from duet_sdk.events import AnswerDelta, SignalDelta

pytestmark = pytest.mark.vllm

QUESTION = "What is the capital of France?"
LONG = Budget(signal_tokens=800, answer_tokens=800)


@pytest.fixture
async def duet(plain):
    endless = cues.never_ends()
    pair = AsyncDuetClient(plain.model, plain.model, reasoner_params=endless, generator_params=endless)
    async with pair as client:
        yield client


async def is_idle(server, *, within_s: float = 1.0) -> bool:
    end = time.monotonic() + within_s
    while (busy := await asyncio.to_thread(server.running)) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return not busy


@pytest.mark.parametrize(("mode", "delta"), [("duet", SignalDelta), ("generator", AnswerDelta)])
async def test_breaking_out_of_a_stage_ends_it(duet, plain, mode, delta):
    async with duet.stream(QUESTION, mode=mode, budget=LONG) as run:
        async for event in run:
            if isinstance(event, delta):
                assert await asyncio.to_thread(plain.running) == 1
                break
    assert await is_idle(plain)
    assert run.reply.finish_reason == "cancelled"


async def test_cancelling_the_task_ends_the_request(duet, plain):
    started = asyncio.Event()

    async def ask():
        async with duet.stream(QUESTION, budget=LONG) as run:
            async for event in run:
                if isinstance(event, SignalDelta):
                    started.set()

    task = asyncio.create_task(ask())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_idle(plain)


async def test_a_passed_deadline_ends_the_request(duet, plain):
    with pytest.raises(DeadlineExceeded):
        await duet.chat(QUESTION, mode="generator", budget=Budget(answer_tokens=800, deadline_s=1))
    assert await is_idle(plain)


async def test_a_reached_limit_ends_the_request(duet, plain):
    reply = await duet.chat(QUESTION, mode="signal", budget=Budget(signal_tokens=8))
    assert reply.signal.tokens == 8
    assert await is_idle(plain)


async def test_leaving_a_whole_answer_ends_it(plain):
    _, backend = connect(plain.model)
    await backend.connect()
    call = Call(max_tokens=800, messages=(Message("user", QUESTION),), sampling=cues.never_ends(), whole=True)
    asking = asyncio.create_task(anext(backend.stream(call)))
    while not await asyncio.to_thread(plain.running):
        await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await is_idle(plain)
    await backend.aclose()


async def test_closing_the_client_ends_what_runs(plain):
    duet = AsyncDuetClient(plain.model, plain.model, reasoner_params=cues.never_ends())
    run = duet.stream(QUESTION, budget=LONG)
    async with duet, run:
        async for event in run:
            if isinstance(event, SignalDelta):
                break
    assert await is_idle(plain)
