"""Every await of a request is within its deadline, whatever those do that are waited for; what is owed is done after it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar

import pytest
from support.fault_server import Answer, FaultServer

from duet_sdk import AsyncDuetClient, Budget, Message, ToolCall
from duet_sdk.agents import history
from duet_sdk.backends.base import Call, Capabilities
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.scripted import Scripted
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.budget import Amount, Limit, MemoryLedger, RedisLedger, SqliteLedger
from duet_sdk.cache import MemorySignalCache
from duet_sdk.errors import BackendError, DeadlineExceeded, DuetError
from duet_sdk.gate import Gate

LATE_S = 1.5
"""What a request may take beyond its deadline on a machine that is busy with other tests."""


@pytest.fixture(autouse=True)
async def over():
    """Set when the test is over: until then nothing ends what waits for it."""
    event = asyncio.Event()
    token = _over.set(event)
    yield
    _over.reset(token)
    event.set()


_over: ContextVar[asyncio.Event] = ContextVar("the end of the test")


async def stubbornly() -> None:
    """Wait, whoever wants it to end sooner."""
    while not _over.get().is_set():
        try:
            await _over.get().wait()
        except asyncio.CancelledError:
            continue


@contextmanager
def at_most(seconds: float):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds + LATE_S


@contextmanager
def locked(path):
    """Another process that writes."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@asynccontextmanager
async def silent_redis():
    """Takes connections and says nothing."""

    async def serve(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield RedisLedger(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")


# Whoever is waited for.


class Stubborn(Scripted):
    """A model that takes its time over one thing and cannot be interrupted."""

    def __init__(self, over: str) -> None:
        super().__init__("17")
        self._over = over

    async def _wait(self, what: str) -> None:
        if what == self._over:
            await stubbornly()

    async def connect(self):
        await self._wait("connect")
        return Capabilities(context_tokens=4096)

    async def count_tokens(self, *arguments, **options):
        await self._wait("count_tokens")
        return 3

    async def tokenizer(self):
        await self._wait("tokenizer")

    async def stream(self, call):
        await self._wait("stream")
        async for chunk in super().stream(call):
            yield chunk


@pytest.mark.parametrize("what", ["connect", "count_tokens", "tokenizer", "stream"])
@pytest.mark.parametrize("mode", ["generator", "signal", "duet"])
async def test_a_model_that_cannot_be_interrupted_delays_no_deadline(what, mode):
    duet = AsyncDuetClient(Stubborn(what), Stubborn(what))
    with at_most(0.3), suppress(DuetError):  # or a reply that was cut
        await duet.chat("q", mode=mode, budget=Budget(deadline_s=0.3, total_tokens=5000))


async def test_a_gate_that_cannot_be_interrupted_delays_no_deadline():
    class Slow(Gate):
        name = "slow"

        async def decide(self, request):
            await stubbornly()

    duet = AsyncDuetClient("scripted/17", "scripted/ok", gate=Slow(), gate_deadline_s=60)
    with at_most(0.3), pytest.raises(DeadlineExceeded):
        await duet.chat("q", budget=Budget(deadline_s=0.3))


# The ledger.


async def test_a_locked_ledger_delays_no_deadline(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.set_limit("tenant:a", Limit(requests=10))
    duet = AsyncDuetClient("scripted/17", "scripted/ok", ledger=ledger)
    with locked(tmp_path / "ledger.db"), at_most(0.3), pytest.raises(DeadlineExceeded):
        await duet.chat("q", tenant="a", budget=Budget(deadline_s=0.3))
    await duet.aclose()
    assert (await ledger.balance("tenant:a")).held == Amount()
    await ledger.aclose()


async def test_a_silent_redis_delays_no_deadline():
    async with silent_redis() as ledger:
        duet = AsyncDuetClient("scripted/17", "scripted/ok", ledger=ledger)
        with at_most(0.3), pytest.raises(DeadlineExceeded):
            await duet.chat("q", tenant="a", budget=Budget(deadline_s=0.3))
        await ledger.aclose()
        await duet.aclose()


class SlowToSettle(MemoryLedger):
    """Takes its time over a settle."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def settle(self, *arguments, **options):
        await asyncio.sleep(self.seconds)
        await super().settle(*arguments, **options)


async def test_a_slow_settle_delays_no_reply_beyond_its_deadline_and_is_done_after_it():
    ledger = SlowToSettle(1.0)
    async with AsyncDuetClient("scripted/17", "scripted/ok", ledger=ledger) as duet:
        with at_most(0.3):
            reply = await duet.chat("q", tenant="a", mode="generator", budget=Budget(deadline_s=0.3))
        assert reply.text == "ok"
        assert (await ledger.balance("tenant:a")).spent == Amount()
    balance = await ledger.balance("tenant:a")  # the client's end waited for it
    assert (balance.held, balance.spent.generator_tokens) == (Amount(), reply.usage.generator.total_tokens)


async def test_without_a_deadline_a_settle_is_waited_for():
    ledger = SlowToSettle(0.3)
    async with AsyncDuetClient("scripted/17", "scripted/ok", ledger=ledger) as duet:
        await duet.chat("q", tenant="a", mode="generator")
        assert (await ledger.balance("tenant:a")).spent.requests == 1


async def test_a_ledger_of_the_client_is_closed_after_what_is_owed_to_it(tmp_path):
    path = tmp_path / "ledger.db"

    class Locking(Scripted):
        """While it answers, another process begins to write to the ledger, for longer than the request may take."""

        async def stream(self, call):
            self.lock = locked(path)
            self.lock.__enter__()
            asyncio.get_running_loop().call_later(1.2, self.lock.__exit__, None, None, None)
            async for chunk in super().stream(call):
                yield chunk

    async with AsyncDuetClient("scripted/17", Locking("ok"), ledger=f"sqlite:///{path}") as duet:
        with at_most(0.4):
            await duet.chat("q", tenant="a", mode="generator", budget=Budget(deadline_s=0.4))
    async with SqliteLedger(path) as ledger:
        balance = await ledger.balance("tenant:a")
    assert (balance.held, balance.spent.requests) == (Amount(), 1)


async def test_a_hold_that_is_made_as_its_request_is_cancelled_is_released():
    class Telling(MemoryLedger):
        made: asyncio.Task[object] | None = None

        async def hold(self, *arguments, **options):
            hold = await super().hold(*arguments, **options)
            if self.made is not None:
                self.made.cancel()  # in the very moment
            return hold

    ledger = Telling()
    async with AsyncDuetClient("scripted/17", "scripted/ok", ledger=ledger) as duet:
        asking = asyncio.create_task(duet.chat("q", tenant="a", mode="generator", budget=Budget(deadline_s=5)))
        ledger.made = asking
        with pytest.raises(asyncio.CancelledError):
            await asking
    balance = await ledger.balance("tenant:a")
    assert (balance.held, balance.spent) == (Amount(), Amount())


# The signal cache.


class Slow(MemorySignalCache):
    """Takes its time over one thing and cannot be interrupted."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self._over = over

    async def get(self, key):
        if self._over == "get":
            await stubbornly()
        return await super().get(key)

    async def put(self, key, signal, *, ttl_s=None):
        if self._over == "put":
            await stubbornly()
        await super().put(key, signal, ttl_s=ttl_s)


@pytest.mark.parametrize("what", ["get", "put"])
@pytest.mark.parametrize("deadline_s", [None, 2.0])
async def test_a_slow_cache_takes_a_small_part_of_the_signals_time(what, deadline_s, caplog):
    reasoner = Scripted("17")
    duet = AsyncDuetClient(reasoner, "scripted/ok", signal_cache=Slow(what))
    with at_most(1.0 if deadline_s is None else deadline_s / 4):
        reply = await duet.chat("q", budget=Budget(deadline_s=deadline_s))
    assert (reply.served_by, len(reasoner.calls)) == ("pair", 1)
    assert "the signal cache took too long" in caplog.text


# Long texts.


@pytest.mark.parametrize(("characters", "apart"), [(100, False), (1_000_000, True)])
async def test_a_long_text_of_a_tool_is_made_harmless_off_the_event_loop(characters, apart, monkeypatch):
    threads = set()

    def guarded(messages, neutralise):
        threads.add(threading.current_thread() is not threading.main_thread())
        return history.guarded(messages, neutralise)

    monkeypatch.setattr("duet_sdk.pipeline.flow.guarded", guarded)
    call = ToolCall("c", "f", "{}")
    talk = [Message("user", "q"), Message("assistant", "", tool_calls=(call,))]
    talk.append(Message("tool", "<" * characters, tool_call_id="c"))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    async with AsyncDuetClient("scripted/17", "scripted/ok") as duet:
        await duet.chat(talk, tools=[tool])
    assert threads == {apart}


@pytest.mark.parametrize(("characters", "apart"), [(100, False), (1_000_000, True)])
@pytest.mark.parametrize("fault", ["rejected_400", "error_500"])
async def test_an_error_about_a_long_prompt_is_masked_off_the_event_loop(characters, apart, fault, monkeypatch):
    threads = set()

    def status(self, *arguments):
        threads.add(threading.current_thread() is not threading.main_thread())
        return explained(self, *arguments)

    explained = Failures.status
    monkeypatch.setattr(Failures, "status", status)
    async with FaultServer(Answer(fault=fault), context_tokens=10_000_000) as server:
        backend = VllmBackend("m", base_url=server.url)
        await backend.connect()
        threads.clear()
        with pytest.raises(BackendError):
            await anext(backend.stream(Call(max_tokens=9, messages=(Message("user", "word " * (characters // 5)),))))
        await backend.aclose()
    assert threads == {apart}
