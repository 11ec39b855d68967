"""A model's stream that fails as it is closed, will not be cancelled, or goes on after its end: no request suffers."""

import asyncio
import gc

import pytest
from scenes import SURE

from duet_sdk import AsyncDuetClient, Budget, DuetClient
from duet_sdk.backends.base import Chunk
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.errors import ConfigError, ConnectFailed, DeadlineExceeded, StreamBroken
from duet_sdk.events import AnswerDelta
from duet_sdk.policies import FailurePolicy, Retry
from duet_sdk.reply import StageUsage
from duet_sdk.types import TokenLogprob

AT_ONCE = Retry(first_wait_s=0)


@pytest.fixture(autouse=True)
def _short_bounds(monkeypatch):
    monkeypatch.setattr("duet_sdk.pipeline.lifetime.CLOSE_S", 0.05)
    monkeypatch.setattr("duet_sdk.pipeline.attempt.GRACE_S", 0.05)


class Unruly(Scripted):
    """Streams what a function of its call does."""

    def __init__(self, stream):
        super().__init__(model="unruly")
        self._stream = stream

    def stream(self, call):
        self.calls.append(call)
        return self._stream(call)


def others():
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def words(count):
    return [Chunk("w ", usage=StageUsage(1, number)) for number in range(1, count + 1)]


def raising_when_closed(error):
    async def stream(call):
        try:
            for chunk in words(9):
                yield chunk
        finally:
            raise error

    return Unruly(stream)


@pytest.mark.parametrize("error", [ValueError("closing"), StreamBroken("closing", backend="b", model="m")])
async def test_an_answer_is_not_lost_to_an_error_as_its_stream_is_closed(error):
    model = raising_when_closed(error)
    async with AsyncDuetClient("scripted/17", model, retry=AT_ONCE) as duet:
        reply = await duet.chat("q", mode="generator", budget=Budget(answer_tokens=3))
    assert (reply.text, reply.finish_reason, len(model.calls)) == ("w w w ", "length", 1)


async def test_nor_where_the_server_had_said_all():
    async def stream(call):
        try:
            yield Chunk("all", finish_reason="stop", usage=StageUsage(1, 1), last=True)
        finally:
            raise ValueError("closing")

    async with AsyncDuetClient("scripted/17", Unruly(stream)) as duet:
        assert (await duet.chat("q", mode="generator")).text == "all"


def test_an_exit_that_closing_a_stream_raises_reaches_the_caller_and_spares_the_client():
    with DuetClient("scripted/17", raising_when_closed(SystemExit(3))) as duet:
        with pytest.raises(SystemExit):
            duet.chat("q", mode="generator", budget=Budget(answer_tokens=3))
        assert duet.chat("q", mode="signal").signal.text == "17"


def failing_when_cancelled():
    async def stream(call):
        try:
            yield Chunk("some ", usage=StageUsage(1, 1))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise StreamBroken("connection lost", backend="b", model="m") from None

    return Unruly(stream)


@pytest.mark.parametrize("budget", [Budget(), Budget(deadline_s=60)], ids=["direct", "deadline"])
@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_a_request_that_is_ended_is_not_tried_again_because_its_stream_makes_an_error_of_it(budget, end):
    model = failing_when_cancelled()
    client = AsyncDuetClient("scripted/17", model, retry=AT_ONCE)
    asking = asyncio.create_task(client.chat("q", mode="generator", budget=budget))
    while not model.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        if end == "cancel":
            asking.cancel()
        else:
            await client.aclose()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else ConfigError):
            await asking
        await client.aclose()
    assert (len(model.calls), others()) == (1, [])


@pytest.mark.parametrize("mode", ["duet", "generator"])
async def test_nor_because_connecting_makes_an_error_of_it(mode):
    class Unready(Scripted):
        connecting = 0

        async def connect(self):
            self.connecting += 1
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                raise ConnectFailed("connection lost", backend="b", model="m") from None
            return await super().connect()

    model = Unready()
    async with AsyncDuetClient("scripted/17", model, retry=AT_ONCE) as client:
        asking = asyncio.create_task(client.chat("q", mode=mode))
        while not model.connecting:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert (model.connecting, model.calls) == (1, [])


async def test_a_deadline_is_a_deadline_where_the_stream_makes_an_error_of_it():
    model = failing_when_cancelled()
    async with AsyncDuetClient("scripted/17", model, retry=AT_ONCE) as duet:
        with pytest.raises(DeadlineExceeded) as late:
            await duet.chat("q", mode="generator", budget=Budget(deadline_s=0.05))
    assert (late.value.reply.text, len(model.calls)) == ("some ", 1)


async def test_a_stream_that_ignores_its_cancellation_is_closed_when_it_next_says_something():
    written = 0

    async def stream(call):
        nonlocal written
        while True:
            try:
                await asyncio.sleep(0.2 if written else 0)
            except asyncio.CancelledError:
                await asyncio.sleep(0.2)
            written += 1
            yield Chunk("w ", usage=StageUsage(1, written))

    async with AsyncDuetClient("scripted/17", Unruly(stream)) as duet:
        async with duet.stream("q", mode="generator") as run:
            async for event in run:
                if isinstance(event, AnswerDelta):
                    break
        async with asyncio.timeout(5):
            while others():
                await asyncio.sleep(0.01)
        assert (written, run.reply.text) == (2, "w ")


async def test_an_output_that_goes_on_after_its_end_does_not_keep_the_stream_alive():
    async def stream(call):
        yield Chunk("a", finish_reason="stop")
        while True:
            yield Chunk(" more")
            await asyncio.sleep(0)

    async with asyncio.timeout(5), AsyncDuetClient("scripted/17", Unruly(stream)) as duet:
        reply = await duet.chat("q", mode="generator", n=2, budget=Budget(answer_tokens=5))
    assert reply.answers == ("a", "")
    attempt = reply.receipt.attempts[0]
    assert (attempt.honoured, attempt.finish_reasons) == (False, ("stop",))
    assert 10 <= attempt.usage.output_tokens <= 12


@pytest.mark.parametrize("gate", ["race", "confidence"])
async def test_a_try_that_stalls_at_its_limit_is_waited_for_no_longer_than_an_answer(gate):
    async def stream(call):
        for number in range(call.max_tokens):
            yield Chunk("w ", token_ids=(number,), logprobs=(TokenLogprob("w ", SURE, ()),))
        await asyncio.Event().wait()

    reasoner = Scripted(Script("never", stall_after=0))
    async with asyncio.timeout(5), AsyncDuetClient(reasoner, Unruly(stream), gate=gate) as duet:
        reply = await duet.chat("q", budget=Budget(answer_tokens=3))
    assert (reply.text, reply.finish_reason, reply.served_by) == ("w w w ", "length", "generator")


async def test_a_try_that_is_adopted_at_its_end_leaves_nothing_to_be_closed_later():
    model = Scripted(Script("a b", logprob=SURE, token_ids=True))
    async with AsyncDuetClient("scripted/17", model, gate="confidence") as duet:
        assert (await duet.chat("q")).text == "a b"
        gc.collect()
        await asyncio.sleep(0)
        assert others() == []


async def test_a_backend_that_fails_when_it_is_told_of_an_end_leaves_nothing_held():
    class Forgetful(Scripted):
        def attempt_ends(self, begun, error):
            raise RuntimeError("what attempt?")

    ledger = MemoryLedger()
    failure = FailurePolicy(breaker=None)
    async with AsyncDuetClient("scripted/17", Forgetful("a b"), ledger=ledger, on_failure=failure) as duet:
        with pytest.raises(RuntimeError, match="what attempt"):
            await duet.chat("q", mode="generator", tenant="a")
    balance = await ledger.balance("tenant:a")
    assert (balance.held.generator_tokens, balance.spent.generator_tokens) == (0, 3)
