"""A backend that takes long to let go of a stream delays neither a deadline nor a limit, and is not left behind."""

import asyncio
import time

import pytest

from duet_sdk import AsyncDuetClient, Budget, DuetClient
from duet_sdk.backends.base import Chunk
from duet_sdk.backends.scripted import Scripted
from duet_sdk.errors import DeadlineExceeded
from duet_sdk.events import AnswerDelta
from duet_sdk.pipeline.outbox import LOOK_AHEAD
from duet_sdk.reply import StageUsage

BOUND_S = 0.05


@pytest.fixture(autouse=True)
def _short_bound(monkeypatch):
    monkeypatch.setattr("duet_sdk.pipeline.lifetime.CLOSE_S", BOUND_S)


class Clinging(Scripted):
    """Writes one word after the other; lets go of a stream only when ``may_go`` is set."""

    def __init__(self, words=1):
        super().__init__("unused")
        self.words = words
        self.may_go = asyncio.Event()
        self.written = 0
        self.closing = 0
        self.gone = 0

    async def stream(self, call):
        self.calls.append(call)
        try:
            for at in range(self.words):
                self.written += 1
                yield Chunk(f"word{at} ", usage=StageUsage(1, at + 1))
            await asyncio.Event().wait()
        finally:
            self.closing += 1
            await asyncio.shield(self.may_go.wait())
            self.gone += 1


def others():
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_deadline_does_not_wait_for_the_cleanup():
    model = Clinging()
    duet = AsyncDuetClient("scripted/17", model)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        await duet.chat("q", mode="generator", budget=Budget(deadline_s=0.1))
    assert time.monotonic() - start < 2
    assert (late.value.reply.text, late.value.reply.usage.generator.output_tokens) == ("word0 ", 1)
    assert (model.closing, model.gone) == (1, 0)
    model.may_go.set()
    await duet.aclose()
    assert (model.gone, others()) == (1, [])


async def test_a_signal_that_is_late_goes_on_to_the_generator_while_its_stream_still_closes():
    model = Clinging(words=2)
    async with AsyncDuetClient(model, "scripted/There are 17.") as duet:
        reply = await duet.chat("q", budget=Budget(signal_deadline_s=0.1, deadline_s=20))
        assert (reply.served_by, reply.signal.text, reply.text) == ("pair_cut", "word0 word1", "There are 17.")
        assert (model.closing, model.gone) == (1, 0)
        model.may_go.set()
    assert (model.gone, others()) == (1, [])


async def test_a_limit_does_not_wait_for_the_cleanup():
    model = Clinging(words=9)
    async with AsyncDuetClient("scripted/17", model) as duet:
        reply = await duet.chat("q", mode="generator", budget=Budget(answer_tokens=3))
        assert (reply.finish_reason, reply.usage.generator.output_tokens, model.gone) == ("length", 4, 0)
        model.may_go.set()
    assert (model.gone, others()) == (1, [])


@pytest.mark.parametrize("budget", [Budget(), Budget(deadline_s=60)])
async def test_leaving_a_stream_does_not_wait_for_it_either(budget):
    model = Clinging()
    async with AsyncDuetClient("scripted/17", model) as duet:
        async with duet.stream("q", mode="generator", budget=budget) as run:
            async for event in run:
                if isinstance(event, AnswerDelta):
                    break
        assert (run.reply.finish_reason, model.closing, model.gone) == ("cancelled", 1, 0)
        model.may_go.set()
    assert (model.gone, others()) == (1, [])


async def test_a_stream_that_never_closes_is_cancelled_with_the_client(monkeypatch):
    monkeypatch.setattr("duet_sdk.pipeline.lifetime.LAST_S", 0.05)
    model = Clinging()
    async with AsyncDuetClient("scripted/17", model) as duet:
        with pytest.raises(DeadlineExceeded):
            await duet.chat("q", mode="generator", budget=Budget(deadline_s=0.05))
    assert (model.closing, model.gone) == (1, 0)
    model.may_go.set()
    await asyncio.gather(*others())  # what the model itself had shielded


async def test_one_who_is_cancelled_while_a_stream_closes_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr("duet_sdk.pipeline.lifetime.CLOSE_S", 60.0)
    model = Clinging()
    async with AsyncDuetClient("scripted/17", model) as duet:
        asking = asyncio.create_task(duet.chat("q", mode="generator", budget=Budget(deadline_s=0.05)))
        while not model.closing:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        model.may_go.set()
    assert (model.gone, others()) == (1, [])


@pytest.mark.parametrize("budget", [Budget(), Budget(deadline_s=60)])
async def test_a_model_is_read_no_further_ahead_of_its_reader_than_the_look_ahead(budget):
    model = Clinging(words=1000)
    async with AsyncDuetClient("scripted/17", model) as duet:
        async with duet.stream("q", mode="generator", budget=budget) as run:
            async for event in run:
                if isinstance(event, AnswerDelta) and event.text.startswith("word40"):
                    for _ in range(50):
                        await asyncio.sleep(0)
                    break
        assert 41 <= run.reply.usage.generator.output_tokens == model.written <= 41 + LOOK_AHEAD
        model.may_go.set()


def test_a_reader_without_an_event_loop_pays_no_more_when_it_leaves():
    model = Clinging(words=100_000)
    model.may_go.set()
    with DuetClient("scripted/17", model) as duet:
        with duet.stream("q", mode="generator") as run:
            for event in run:
                if isinstance(event, AnswerDelta) and event.text.startswith("word40"):
                    break
        assert 41 <= run.reply.usage.generator.output_tokens == model.written <= 41 + LOOK_AHEAD
