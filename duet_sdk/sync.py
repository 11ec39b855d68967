"""`DuetClient`: the same client for code without an event loop, over one background loop of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, Unpack

from typing_extensions import override

from duet_sdk._foreign import Client, OnlySync, with_completions
from duet_sdk._signatures import shows, with_attributes
from duet_sdk._tasks import finished
from duet_sdk.backends.connect import ModelLike
from duet_sdk.budget import BlockingLedger
from duet_sdk.client import AsyncDuetClient
from duet_sdk.conversation import AsyncConversation
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.events import AnswerDelta, Event
from duet_sdk.messages import MessagesLike
from duet_sdk.options import CallOptions, ClientOptions
from duet_sdk.reply import Reply
from duet_sdk.stream import Run
from duet_sdk.types import Json, Message, Stage

if TYPE_CHECKING:
    from duet_sdk.gate import GateLike
    from duet_sdk.pair import Pair
    from duet_sdk.settings import Settings

Result = TypeVar("Result")

_CLEAN_UP_S: Final = 10.0
"""Longest wait of a thread for cancelled work to clean up: it closes its connections and settles what it spent."""


class BackgroundLoop:
    """An event loop in a thread of its own; any thread may wait for work on it, also one that runs a loop itself.

    Args:
        at_end: what is run on the loop before it stops; it must not refer to this object, which would keep it alive.
    """

    def __init__(self, at_end: Callable[[], Coroutine[object, object, None]]) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="duet", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        # A client that is forgotten without close() must not keep its thread.
        self._finalizer = weakref.finalize(self, _stop, self._loop, self._thread, self._pid, at_end)

    def start(self, work: Coroutine[object, object, Result]) -> Future[Result]:
        """Run the work on the loop.

        Raises:
            ConfigError: the loop is closed, or belongs to the process that this one was forked from.
        """
        problem = None
        if os.getpid() != self._pid:
            problem = "this client was made before the process was forked; make a new one in each process"
        elif threading.current_thread() is self._thread:  # not by its number, which another thread may get
            problem = "a synchronous client cannot be used from its own callbacks; use AsyncDuetClient there"
        if problem is None:
            with self._lock:  # nothing may be started on a loop that is about to stop
                if self._finalizer.alive:
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
            problem = "this client is closed; make a new one"
        work.close()
        raise ConfigError(problem)

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call it on the loop; nothing happens where the loop is closed."""
        with self._lock:
            if self._finalizer.alive:
                self._loop.call_soon_threadsafe(call)

    def wait(self, work: Coroutine[object, object, Result]) -> Result:
        """Run the work and wait for it; an interrupt (Ctrl-C) cancels the work and waits until it has cleaned up.

        Raises:
            ConfigError: as `start`.
        """
        task: list[asyncio.Task[object] | None] = []
        thrown: list[BaseException] = []

        async def run() -> Result:
            task.append(asyncio.current_task())
            try:
                return await work
            except (KeyboardInterrupt, SystemExit) as error:
                # From a user's gate or vote: let out here, it would end the loop's thread and hang everybody else.
                thrown.append(error)
                raise asyncio.CancelledError from None

        try:
            return self.start(run()).result()
        except CancelledError as error:
            if thrown:
                raise thrown[0] from None
            raise ConfigError("the client was closed while this request ran") from error
        except Exception:
            work.close()
            raise
        except BaseException:
            # The work knows its own task, so that an interrupt before the future was at hand ends it as well.
            asyncio.run_coroutine_threadsafe(_end(task), self._loop).result()
            raise

    @property
    def alive(self) -> bool:
        """Whether work can still be started."""
        return self._finalizer.alive and os.getpid() == self._pid

    def close(self) -> None:
        """Cancel what runs, stop the loop, and end the thread."""
        with self._lock:
            detached = self._finalizer.detach()
        if detached is not None:
            _stop(*detached[2])


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()  # here, as one of its own callbacks may have stopped it and nobody waits for this thread


async def _nothing() -> None:
    """Nothing to close: the models belong to another client."""


async def _end(tasks: list[asyncio.Task[object] | None]) -> None:
    """Cancel the tasks, where they have begun, and wait until they have cleaned up, within a limit."""
    await finished([task for task in tasks if task is not None], within_s=_CLEAN_UP_S)


def _stop(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    pid: int,
    at_end: Callable[[], Coroutine[object, object, None]],
) -> None:
    if os.getpid() != pid or loop.is_closed():
        return

    async def end() -> None:
        try:
            await finished(asyncio.all_tasks() - {asyncio.current_task()})
            # Asked by name: the loop knows its generators, and so the open connections, by weak references, and these
            # are gone when the client was in a cycle of garbage.
            await asyncio.gather(at_end(), return_exceptions=True)
            await loop.shutdown_asyncgens()
            await loop.shutdown_default_executor()
            await asyncio.sleep(0)  # whoever waits for a cancelled task is woken in the next turn of the loop
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    if threading.current_thread() is not thread:
        thread.join(timeout=_CLEAN_UP_S)


class SyncRun(OnlySync):
    """One request while it runs: a context manager, and an iterator over its events.

    The request works on the background loop, and whoever iterates takes its events from the same outbox as a `Run`
    does: neither face is further ahead of its reader than the other.
    """

    def __init__(self, loop: BackgroundLoop, run: Run) -> None:
        self._loop = loop
        self._run = run
        self._arrived = threading.Event()
        self._entered = False
        self._started = False
        self._over = False

    @property
    def reply(self) -> Reply:
        """The reply once it is complete, or what there was of it when the run was left early.

        Raises:
            InvalidRequest: the run is still going on.
        """
        return self._run.reply

    @property
    def text_stream(self) -> Iterator[str]:
        """The text of the answer alone; as `Run.text_stream`."""
        for event in self:
            if isinstance(event, AnswerDelta) and event.index == 0 and event.text:
                yield event.text

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if not self._entered:
            raise InvalidRequest("a run is a context manager: write 'with duet.stream(…) as run:'")
        outbox = self._run.outbox
        while not self._over:
            if not self._started:
                self._start()
            if outbox.events:
                return outbox.events.pop(0)
            if outbox.closed:
                return self._conclude()
            self._arrived.clear()
            outbox.wake = self._has_arrived
            if outbox.is_full:
                self._loop.call_soon(outbox.taken)
            if not outbox.events and not outbox.closed:  # else one came in between
                self._arrived.wait()
        raise self._left()

    def _start(self) -> None:
        # Marked before it starts, so that an interrupt between the two still ends it on the way out.
        self._started = True
        try:
            self._loop.wait(self._begin())
        except ConfigError:
            self._over = True
            raise

    def _has_arrived(self, _: None) -> None:
        self._arrived.set()

    async def _begin(self) -> None:
        await self._run.__aenter__()
        self._run.begin()

    def _left(self) -> StopIteration:
        self.close()  # where another thread does so, the reply is there when that is done
        return StopIteration()

    def _conclude(self) -> Event:
        if self._over:  # another thread has just closed it
            raise self._left()
        self._over = True
        try:
            return self._run.conclude()
        except asyncio.CancelledError:
            raise ConfigError("the client was closed while this request ran") from None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the request now, and return when it has ended; harmless when it is over."""
        self._over = True
        if not self._run.is_over and self._loop.alive:
            self._loop.wait(self._run.aclose())


class DuetClient(Client, OnlySync):
    """A pair of models that answers questions, for code without an event loop; safe to use from many threads.

    Use it as a context manager, or call `close` when done. It also works where an event loop already runs (a
    notebook), as its own runs in a thread.

    >>> with DuetClient(reasoner="scripted/17", generator="scripted/There are 17.") as duet:
    ...     duet.chat("How many primes are below 60?").text
    'There are 17.'

    Args:
        reasoner: the model that writes the signal, as ``backend/model`` or an object.
        generator: the model that answers. With neither named, settings are read, and without any the embedded pair
            is used.
        options: see `duet_sdk.options.ClientOptions`.

    Raises:
        ConfigError: a name, option or combination that cannot work.
    """

    _other = MappingProxyType({"aclose": "write duet.close()"})

    @shows(ClientOptions)
    def __init__(
        self,
        reasoner: ModelLike | None = None,
        generator: ModelLike | None = None,
        *,
        settings: Settings | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._begin(AsyncDuetClient(reasoner, generator, settings=settings, **options))

    @classmethod
    @shows(ClientOptions)
    def from_pair(
        cls,
        pair: str | Path | Pair,
        *,
        reasoner: ModelLike | None = None,
        generator: ModelLike | None = None,
        strict: bool = False,
        settings: Settings | None = None,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """A client for a pair on disk or on the hub; see `AsyncDuetClient.from_pair`.

        Raises:
            PairError: the folder is not a pair, or differs from its manifest.
        """
        duet = cls.__new__(cls)
        client = AsyncDuetClient.from_pair(
            pair, reasoner=reasoner, generator=generator, strict=strict, settings=settings, **options
        )
        duet._begin(client)  # noqa: SLF001  # its own class
        return duet

    @classmethod
    def over(cls, client: AsyncDuetClient) -> Self:
        """A synchronous client over one that asynchronous code uses too: one pair, its models loaded once.

        Each can be closed separately; closing this one closes the models for both.
        """
        if not isinstance(client, AsyncDuetClient):
            raise ConfigError(f"over() takes an AsyncDuetClient, got {type(client).__name__}")
        duet = cls.__new__(cls)
        # A face that is only forgotten leaves the models to whoever still uses them.
        duet._begin(client, at_end=_nothing)  # noqa: SLF001  # its own class
        return duet

    def _begin(
        self, client: AsyncDuetClient, at_end: Callable[[], Coroutine[object, object, None]] | None = None
    ) -> None:
        self._client = client
        self._loop = BackgroundLoop(at_end or client.aclose)

    @with_completions
    @shows(CallOptions)
    def chat(
        self, messages: MessagesLike, *, gate: GateLike | Json | None = None, **options: Unpack[CallOptions]
    ) -> Reply:
        """Answer, and return the reply once it is complete.

        Raises:
            DuetError: as `AsyncDuetClient.chat`.
        """
        return self._loop.wait(self._client.chat(messages, gate=gate, **options))

    @shows(CallOptions)
    def stream(
        self, messages: MessagesLike, *, gate: GateLike | Json | None = None, **options: Unpack[CallOptions]
    ) -> SyncRun:
        """Answer, event by event: ``with duet.stream(…) as run: for event in run: …``.

        Raises:
            InvalidRequest: the request cannot be answered as it stands; the rest is raised while iterating.
        """
        return SyncRun(self._loop, self._client.stream(messages, gate=gate, **options))

    @property
    def models(self) -> Mapping[Stage, str]:
        """The full names of both models."""
        return self._client.models

    @property
    def ledger(self) -> BlockingLedger:
        """The limits over many requests, to be set, and what was spent, to be read: ``duet.ledger.set_limit(…)``.

        Raises:
            ConfigError: the client was made without one.
        """
        return BlockingLedger(self._client.ledger, self._loop.wait)

    @property
    def asynchronous(self) -> AsyncDuetClient:
        """The client that does the work, for asynchronous code of the same program; closing one closes both."""
        return self._client

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}(reasoner={self.models['reasoner']!r}, generator={self.models['generator']!r})"

    def conversation(self, *, system: str | None = None) -> Conversation:
        """A conversation that keeps its messages, and signals only until the next question."""
        return Conversation(self._loop, self._client.conversation(system=system))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both models and the background loop; safe to call twice."""
        if self._loop.alive:
            try:
                self._loop.wait(self._client.aclose())
            finally:
                self._loop.close()


DuetClient.__doc__ = with_attributes(DuetClient.__doc__, ClientOptions)


class Conversation:
    """Keeps the messages of a conversation; as `AsyncConversation`."""

    def __init__(self, loop: BackgroundLoop, inner: AsyncConversation) -> None:
        self._loop = loop
        self._inner = inner

    @property
    def messages(self) -> list[Message]:
        """What has been said; yours to change between turns."""
        return self._inner.messages

    @shows(CallOptions)
    def chat(self, said: MessagesLike, **options: Unpack[CallOptions]) -> Reply:
        """Ask the next question, or give tools' results; a request that fails leaves the conversation as it was.

        Raises:
            DuetError: as `DuetClient.chat`.
        """
        return self._loop.wait(self._inner.chat(said, **options))

    @shows(CallOptions)
    def stream(self, said: MessagesLike, **options: Unpack[CallOptions]) -> SyncRun:
        """As `chat`, event by event; the turn is kept once its answer is complete.

        Raises:
            InvalidRequest: as `DuetClient.stream`.
        """
        return SyncRun(self._loop, self._inner.stream(said, **options))
