"""What runs for a client, and what still closes behind it; a client's end is the end of both.

What a backend does when its stream is closed (hang up, let a model leave its layer) may take long. An attempt waits
for it only so long; from then on the stream closes in the background, and the client waits for it when it closes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from duet_sdk.errors import ConfigError

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

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


class Lifetime:
    """One client's requests that run, and its streams that still close."""

    def __init__(self) -> None:
        self._requests: set[Working] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def working(self) -> Working:
        """Entered by the task that works on a request; the client's end reaches it as a ConfigError."""
        return Working(self._requests)

    async def within(self, closing: asyncio.Task[Any]) -> None:
        """Wait for a stream to close, up to `CLOSE_S`; from then on, or when cancelled, it closes on its own.

        Raises whatever the closing raised, where it ended in time.
        """
        self._closing.add(closing)
        closing.add_done_callback(self._closed)
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_S)
        if done and not closing.cancelled():
            closing.result()

    async def end(self) -> None:
        """End every request that runs, and wait up to `LAST_S` until it has cleaned up."""
        here = asyncio.get_running_loop()
        mine = [one for one in self._requests if one.end_soon(here)]
        if mine:
            await asyncio.wait([one.over for one in mine if one.over is not None], timeout=LAST_S)

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
            _log.debug("closing a stream failed with %s", type(error).__name__)


class Working:
    """One request at work, in the task that enters this.

    Attributes:
        over: set when it has ended, for a client that waits for it; None while none does.
    """

    __slots__ = ("_all", "_is_to_end", "_loop", "_task", "over")

    def __init__(self, all_requests: set[Working]) -> None:
        self._all = all_requests
        self._is_to_end = False
        self.over: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._all.add(self)
        return self

    def end_soon(self, here: asyncio.AbstractEventLoop) -> bool:
        """Tell it to end; whether it can be waited for on this event loop."""
        self._is_to_end = True
        if self._task is None or self._loop.is_closed():
            return False
        if self._loop is not here:
            self._loop.call_soon_threadsafe(self._task.cancel)
            return False
        if self._task is asyncio.current_task():
            return False  # a request that closes its own client
        self.over = here.create_future()
        self._task.cancel()
        return True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all.discard(self)
        if self.over is not None and not self.over.done():
            self.over.set_result(None)
        if self._is_to_end and exc_type is asyncio.CancelledError and self._task is not None:
            others = self._task.uncancel()
            if not others:  # to whoever waits for this request, it has failed
                raise ConfigError("the client was closed while this request ran") from None
