"""What runs for a client, and what still closes behind it; a client's end is the end of both.

What a backend does when its stream is closed (hang up, let a model leave its layer) may take long. An attempt waits
for it only so long; from then on the stream closes in the background, and the client waits for it when it closes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from duet_sdk._tasks import wait_through
from duet_sdk.errors import ConfigError

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

_TIMES: Final = 3
"""How often work that must be done is begun anew after it was cancelled: once is an event loop's end, twice an end that
is in a hurry."""

CLOSE_S: Final = 1.0
"""How long an attempt waits for its stream to close; longer than a connection takes, or a model's layer on a GPU."""
LAST_S: Final = 30.0
"""How long a client waits at its end for what still closes; a slow server must not keep a process alive for ever."""


async def carried(work: Callable[[], Awaitable[Result]]) -> Callable[[], Result]:
    """Run work in a task of its own; calling what it returns yields the result, or raises.

    A gate, a vote or a backend of the user's may raise KeyboardInterrupt or SystemExit. Let out of a task, these end
    the event loop and hang everybody else on it; here they reach whoever asked for the work.
    """
    try:
        result = await work()
    except (KeyboardInterrupt, SystemExit) as error:
        return raising(error)
    return lambda: result


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """What a task gives as its result in place of raising such an error; see `carried`."""
    return partial(_throw, error)


def _throw(error: BaseException) -> NoReturn:
    raise error


class Cancellable:
    """Entered around a backend's work: cancelled, it ends as that, also where the backend makes another error of it.

    A request that is ended would go on otherwise: errors of a backend are tried again, or passed over.
    """

    __slots__ = ("_cancels", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancels = 0 if self._task is None else self._task.cancelling()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception) and self._task is not None and self._task.cancelling() > self._cancels:
            raise asyncio.CancelledError from exc


class OutOfTime(Exception):
    """Work was not done in its time; it was told to end, and ends in the background."""


class Lifetime:
    """One client's requests that run, and what still ends behind them: streams that close, settles that are owed."""

    def __init__(self) -> None:
        self._requests: set[Working] = set()
        self._closing: set[asyncio.Task[Any]] = set()
        self._is_over = False

    def working(self) -> Working:
        """Entered by the task that works on a request; the client's end reaches it as a ConfigError.

        Raises:
            ConfigError: the client is closed already.
        """
        if self._is_over:
            raise ConfigError("this client is closed; make a new one")
        return Working(self._requests)

    def beside(self, closing: asyncio.Task[Callable[[], Any]]) -> None:
        """Let a stream close in the background; its errors are logged, as the stream is no longer needed."""
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    async def within(self, closing: asyncio.Task[Callable[[], Any]]) -> None:
        """Wait for a stream to close, up to `CLOSE_S`; from then on, or when cancelled, it closes `beside`.

        Of what it raises, only KeyboardInterrupt and SystemExit are passed on, where they come in time.
        """
        self.beside(closing)
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_S)
        if done and not closing.cancelled() and closing.exception() is None:
            closing.result()()

    async def in_time(
        self,
        work: Coroutine[Any, Any, Result],
        within_s: float,
        *,
        unwanted: Callable[[Result], Coroutine[Any, Any, None]] | None = None,
    ) -> Result:
        """The result of work that is done in its time. Longer than that it is not waited for, whatever it does then.

        Args:
            work: runs in a task of its own: a store that cannot be interrupted must not hold up who gave it up.
            within_s: its time.
            unwanted: undoes a result that came just as its caller was cancelled.

        Raises:
            OutOfTime: it was not done in that time.
        """
        task = asyncio.create_task(carried(lambda: work))
        task.add_done_callback(lambda _: work.close())  # where it was cancelled before it had begun
        try:
            done, _ = await asyncio.wait({task}, timeout=within_s)
        except asyncio.CancelledError:
            if unwanted is not None and task.done() and not task.cancelled() and task.exception() is None:
                undoing = unwanted(task.result()())
                await self.within(asyncio.create_task(carried(lambda: undoing)))
            else:
                task.cancel()
                await self.within(task)
            raise
        if not done:
            task.cancel()
            self.beside(task)
            raise OutOfTime
        return task.result()()

    async def owed(self, make: Callable[[], Coroutine[Any, Any, None]], *, within_s: float | None) -> None:
        """Do work that must be done, whoever is cancelled meanwhile; it is waited for, up to ``within_s``.

        An event loop that ends cancels every task, the work's own, too: what was cancelled is done again.

        Args:
            make: the work, which may be done twice.
            within_s: how long it is waited for, None for as long as it takes.

        Raises:
            CancelledError: the waiting task was cancelled; raised once the wait is over.
        """
        cancelled: asyncio.CancelledError | None = None
        for _ in range(_TIMES):
            task = asyncio.create_task(carried(partial(_persistently, make)))
            self.beside(task)
            cancelled = await wait_through({task}, within_s) or cancelled
            if not (task.done() and task.cancelled()):
                break
        if cancelled is not None:
            raise cancelled
        if task.done():
            task.result()()

    async def end(self) -> None:
        """End every request that runs, and wait up to `LAST_S` until it has cleaned up."""
        self._is_over = True
        here = asyncio.get_running_loop()
        # A copy: requests of other event loops come and go in their threads meanwhile.
        endings = [one.end_soon(here) for one in list(self._requests)]
        if mine := [over for over in endings if over is not None]:
            await asyncio.wait(mine, timeout=LAST_S)

    def end_own(self) -> None:
        """End the request that closes its own client: last, as what closes the rest is part of that request."""
        for one in list(self._requests):
            one.end_own()

    async def finish(self) -> None:
        """Wait for all that still closes, up to `LAST_S`, then cancel it and wait for its end."""
        while self._closing:
            left = list(self._closing)
            done, late = await asyncio.wait(left, timeout=LAST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._closing.difference_update(done, late)

    def _closed(self, task: asyncio.Task[Any]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            closing_failed(error)


async def _persistently(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do work, and again where it is cancelled; at last it is given up."""
    for _ in range(_TIMES):
        try:
            return await make()
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
    return await make()


def closing_failed(error: BaseException) -> None:
    """Log it: what the stream had to say is there, and an answer must not be lost to its end."""
    _log.debug("closing a stream failed with %s", type(error).__name__)


class Working:
    """One request at work, in the task that enters this."""

    __slots__ = ("_all", "_is_told", "_loop", "_over", "_task")

    def __init__(self, all_requests: set[Working]) -> None:
        self._all = all_requests
        self._is_told = False
        self._over: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._all.add(self)
        return self

    def end_soon(self, here: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Tell it to end; what is done when it has, None where that cannot be waited for on this event loop."""
        if self._loop.is_closed() or self._task is asyncio.current_task():
            return None
        if self._loop is not here:
            self._loop.call_soon_threadsafe(self._end)
            return None
        self._end()
        if self._over is None:
            self._over = here.create_future()
        return self._over

    def end_own(self) -> None:
        """End it where the current task is the one that works on it."""
        if self._task is asyncio.current_task():
            self._end()

    def _end(self) -> None:
        # Once it is over, its task is again somebody else's: `chat` works in the task of its caller.
        if self in self._all and not self._is_told and self._task is not None:
            self._is_told = True
            self._task.cancel()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all.discard(self)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self._is_told and self._task is not None:
            others = self._task.uncancel()
            if exc_type is asyncio.CancelledError and not others:  # to whoever waits for this request, it has failed
                raise ConfigError("the client was closed while this request ran") from None
