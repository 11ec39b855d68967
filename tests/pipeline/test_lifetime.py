"""However a request is left, and whoever ends it: nothing runs on, nothing stays open, nothing stays held."""

import asyncio
import contextvars
import gc
import threading
from decimal import Decimal

import pytest
from scenes import DOUBT, SURE, answering, duet
from support.fault_server import Answer, running

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.base import Chunk
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Limit, MemoryLedger
from duet_sdk.errors import ConfigError, ConnectFailed, InvalidRequest
from duet_sdk.events import AnswerDelta, SignalDelta
from duet_sdk.gate import Confidence, Gate, Race
from duet_sdk.policies import Progressive, Retry
from duet_sdk.pricing import TokenPrice
from duet_sdk.reply import GateDecision

SIGNAL = " ".join(f"s{number}" for number in range(24))


class Stepping(Scripted):
    """Gives the event loop a turn wherever a real backend may."""

    async def connect(self):
        await asyncio.sleep(0)
        return await super().connect()

    async def stream(self, call):
        await asyncio.sleep(0)
        try:
            async for chunk in super().stream(call):
                yield chunk
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)


def stepping(backend):
    backend.__class__ = Stepping
    return backend


def failing(*texts):
    error = ConnectFailed("no", backend="scripted", model="lines")
    return Stepping(*(Script(text, error=error, fail_after=2) for text in texts), model="big")


WAYS = {
    "plain": lambda: (Stepping(SIGNAL, model="big"), stepping(answering()), {}),
    "wrap-up": lambda: (Stepping(SIGNAL, "the end", model="big"), stepping(answering()), {"on_cut": "wrap_up"}),
    "retries": lambda: (failing(SIGNAL, SIGNAL), stepping(answering()), {"retry": Retry(3, 0, 0)}),
    "race, sure": lambda: (Stepping(SIGNAL, model="big"), stepping(answering(SURE)), {"gate": "race"}),
    "race, in doubt": lambda: (Stepping(SIGNAL, model="big"), stepping(answering(DOUBT)), {"gate": "race"}),
    "confidence": lambda: (Stepping(SIGNAL, model="big"), stepping(answering(SURE)), {"gate": "confidence"}),
    "progressive": lambda: (
        Stepping(SIGNAL, model="big"),
        stepping(answering(SURE)),
        {"progressive": Progressive(slice_tokens=4, probe_tokens=1, share=1.0)},
    ),
    "all at once": lambda: (
        Stepping(SIGNAL, model="big"),
        stepping(answering(DOUBT, SURE)),
        {"gate": "race", "progressive": Progressive(slice_tokens=4, probe_tokens=1, share=1.0)},
    ),
}


async def ask(client, face):
    if face == "chat":
        await client.chat("why is it so?", tenant="a", budget=Budget(signal_tokens=16))
        return
    async with client.stream("why is it so?", tenant="a", budget=Budget(signal_tokens=16)) as run:
        async for _ in run:
            pass


def strays(own):
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and task not in own]


@pytest.mark.parametrize("face", ["chat", "stream"])
@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_at_any_await_nothing_is_left(way, face):
    """The request is cancelled after its first step, after its second, and so on, until one runs to its end."""
    for turns in range(2000):
        reasoner, generator, options = WAYS[way]()
        ledger = MemoryLedger()
        await ledger.set_limit("tenant:a", Limit(reasoner_tokens=10_000, usd=Decimal(1), window="day"))
        prices = {"scripted/big": TokenPrice(1, 1), "scripted/small": TokenPrice(1, 1)}
        client = duet(reasoner, generator, ledger=ledger, prices=prices, **options)
        asking = asyncio.create_task(ask(client, face))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        over = await asyncio.gather(asking, return_exceptions=True)
        assert reasoner.open_calls == generator.open_calls == 0
        assert strays([]) == []
        balance = await ledger.balance("tenant:a")
        assert (balance.held.usd, balance.held.reasoner_tokens) == (0, 0)
        await client.aclose()
        assert strays([]) == []
        if over == [None]:
            assert turns > 10
            return
        assert isinstance(over[0], asyncio.CancelledError)
    pytest.fail("the request never came to its end")


async def test_a_variable_that_the_consumer_sets_between_two_events_stays_its_own():
    variable = contextvars.ContextVar("variable", default="before")
    seen = []

    def line(call):
        seen.append(variable.get())
        variable.set("the pipeline's")
        return "17"

    async with AsyncDuetClient(Scripted(line), Scripted(line)) as client, client.stream("q") as run:
        events = 0
        async for _ in run:
            events += 1
            assert variable.get() == ("before" if events == 1 else f"after {events - 1}")
            variable.set(f"after {events}")
    assert variable.get() == f"after {events}"
    assert all(value in ("before", "the pipeline's") for value in seen)


async def test_a_run_that_is_forgotten_settles_what_it_held():
    ledger = MemoryLedger()
    model = Scripted(Script(" ".join("abcdefgh" * 100), token_s=0.001))
    async with AsyncDuetClient("scripted/17", model, ledger=ledger) as client:
        run = await client.stream("q", tenant="a").__aenter__()
        async for event in run:
            if isinstance(event, AnswerDelta):
                break
        assert model.open_calls == 1
        del run, event
        gc.collect()
        async with asyncio.timeout(5):
            while model.open_calls or (await ledger.balance("tenant:a")).held.generator_tokens:
                await asyncio.sleep(0)
        assert (await ledger.balance("tenant:a")).spent.generator_tokens > 0
        assert model.cancelled == 1


async def test_a_run_closed_while_another_task_waits_has_its_reply_at_once():
    model = Scripted(Script("never more", stall_after=1))
    async with AsyncDuetClient("scripted/17", model) as client:
        run = await client.stream("q", mode="generator").__aenter__()

        async def read():
            texts = [event.text async for event in run if isinstance(event, AnswerDelta)]
            return texts, run.reply  # must be there as soon as the events are over

        reading = asyncio.create_task(read())
        while not model.open_calls:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        await run.aclose()
        texts, reply = await reading
        assert texts == ["never"]
        assert (reply.text, reply.finish_reason) == ("never", "cancelled")
        assert run.reply == reply


@pytest.mark.parametrize("stage", ["connecting", "signal", "answer"])
@pytest.mark.parametrize("face", ["chat", "stream"])
async def test_closing_a_client_ends_what_runs_and_says_so(stage, face):
    class Slow(Scripted):
        reached = False

        async def connect(self):
            if stage == "connecting":
                self.reached = True
                await asyncio.Event().wait()
            return await super().connect()

        async def stream(self, call):
            self.calls.append(call)
            self.open_calls += 1
            try:
                yield Chunk("some")
                self.reached = True
                await asyncio.Event().wait()
            finally:
                self.open_calls -= 1

    slow, quick = Slow(model="slow"), Scripted("17")
    client = AsyncDuetClient(*((quick, slow) if stage == "answer" else (slow, quick)))
    asking = asyncio.create_task(ask(client, face))
    while not slow.reached:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await client.aclose()
        with pytest.raises(ConfigError, match="the client was closed while this request ran"):
            await asking
    assert asking.cancelling() == 0
    assert (slow.open_calls, quick.open_calls) == (0, 0)
    assert strays([]) == []


async def test_closing_a_client_during_a_stream_over_http_ends_its_reader():
    with running(Answer("one two three four five", fault="stall_mid_stream")) as server:
        client = AsyncDuetClient("scripted/17", f"vllm/m@{server.url}")

        async def read():
            async with client.stream("q") as run:
                return [event async for event in run]

        reading = asyncio.create_task(read())
        while not any("chat/completions" in seen.path for seen in server.seen):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await client.aclose()
            with pytest.raises(ConfigError, match="closed while this request ran"):
                await reading


async def test_a_task_that_is_cancelled_while_its_client_closes_is_cancelled():
    model = Scripted(Script("never more", stall_after=1))
    client = AsyncDuetClient("scripted/17", model)
    asking = asyncio.create_task(client.chat("q", mode="generator"))
    while not model.open_calls:
        await asyncio.sleep(0)
    asking.cancel()
    await client.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_events_that_nobody_takes_stop_the_model():
    model = Scripted(SIGNAL, model="big")
    async with AsyncDuetClient(model, "scripted/17") as client, client.stream("q") as run:
        async for event in run:
            if isinstance(event, SignalDelta):
                break
        for _ in range(200):
            await asyncio.sleep(0)
        assert model.open_calls == 1


async def test_a_run_made_before_its_client_was_closed_does_not_begin_after_that():
    model = Scripted("17")
    client = AsyncDuetClient("scripted/17", model)
    run = client.stream("q", mode="generator")
    await client.aclose()
    async with run:
        with pytest.raises(ConfigError, match="this client is closed"):
            await anext(run)
    assert model.calls == []


CLOSE = contextvars.ContextVar("what a gate closes within the request that it decides on")


async def close(gate):
    await CLOSE.get()()
    return GateDecision(True, gate.name)


class Closing(Gate):
    name = "closing"

    async def decide(self, request):
        return await close(self)


class ClosingByTokens(Confidence):
    async def judge(self, request, tokens):
        return await close(self)


class ClosingRace(Race):
    async def judge(self, request, tokens):
        return await close(self)


GATES = pytest.mark.parametrize("make", [Closing, ClosingByTokens, ClosingRace])


@pytest.mark.parametrize("face", ["chat", "stream"])
@GATES
async def test_a_gate_that_closes_its_own_client_ends_its_request(make, face):
    reasoner, generator = Scripted(Script(SIGNAL, stall_after=1), model="big"), answering(DOUBT)
    client = AsyncDuetClient(reasoner, generator, gate=make())
    CLOSE.set(client.aclose)
    async with asyncio.timeout(5) as limit:
        with pytest.raises(ConfigError, match="the client was closed while this request ran"):
            await ask(client, face)
    assert not limit.expired()
    assert (reasoner.closed, generator.closed) == (True, True)
    assert asyncio.current_task().cancelling() == 0
    assert strays([]) == []


@GATES
async def test_a_gate_that_closes_its_own_run_ends_it(make):
    reasoner, generator = Scripted(Script(SIGNAL, stall_after=1), model="big"), answering(DOUBT)
    async with asyncio.timeout(5), AsyncDuetClient(reasoner, generator, gate=make()) as client:
        async with client.stream("q") as run:
            CLOSE.set(run.aclose)
            async for _ in run:
                pass
        assert run.reply.finish_reason == "cancelled"
        assert (reasoner.open_calls, generator.open_calls) == (0, 0)
        assert strays([]) == []


async def test_two_tasks_may_close_a_client_at_once():
    model = Scripted(Script("never more", stall_after=1))
    client = AsyncDuetClient("scripted/17", model)
    asking = asyncio.create_task(client.chat("q", mode="generator"))
    while not model.open_calls:
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.gather(client.aclose(), client.aclose())
        with pytest.raises(ConfigError, match="closed while this request ran"):
            await asking


async def test_a_client_that_another_loop_closes_as_a_request_ends_cancels_nobody_later():
    client = AsyncDuetClient("scripted/17", "scripted/yes")

    def vote(answers):
        closing = threading.Thread(target=asyncio.run, args=(client.aclose(),))
        closing.start()
        closing.join()
        return 0

    reply = await client.chat("q", mode="generator", n=2, vote=vote)
    await asyncio.sleep(0)  # the cancellation of a request that is over would come here
    assert (reply.text, asyncio.current_task().cancelling()) == ("yes", 0)


async def test_a_second_reader_of_a_run_is_refused_and_not_forgotten():
    model = Scripted(Script("a b", token_s=0.01))
    async with AsyncDuetClient("scripted/17", model) as client, client.stream("q", mode="generator") as run:

        async def read():
            return [event async for event in run]

        async with asyncio.timeout(5):
            first, second = await asyncio.gather(read(), read(), return_exceptions=True)
        assert isinstance(second, InvalidRequest)
        assert run.reply.text == "a b"
        assert first
