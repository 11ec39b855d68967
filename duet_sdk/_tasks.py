"""Wait for work to clean up, whatever happens to the task that waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

Result = TypeVar("Result")
Resource = TypeVar("Resource")
_LONG: Final = 1 << 16
"""Characters from which on work goes to a thread: control strings are found in 64 Ki of them in 5 ms, and tokens made
in some tens of milliseconds, where the way to a thread and back takes a tenth of one."""


async def finished(
    tasks: Iterable[asyncio.Task[Any]], *, within_s: float | None = None
) -> frozenset[asyncio.Future[Any]]:
    """Cancel tasks and wait until they have cleaned up, also when the waiting task is cancelled meanwhile.

    What the tasks raise on their way out is dropped: their results are no longer wanted.

    Args:
        tasks: to be ended; must not hold the current one.
        within_s: longest wait for all of them, in seconds; None waits as long as it takes.

    Returns:
        the tasks that still run after ``within_s``.

    Raises:
        CancelledError: the waiting task was cancelled; raised once the wait is over.
    """
    ending = list(tasks)
    for task in ending:
        task.cancel()
    cancelled = await wait_through(ending, within_s)
    for task in ending:
        if task.done() and not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as forgotten
    if cancelled is not None:
        raise cancelled
    return frozenset(task for task in ending if not task.done())


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that is not to be interrupted; it runs in a task of its own.

    Raises:
        CancelledError: the waiting task was cancelled; raised once the work is done, with the work's error, if it
            failed, as the cause.
    """
    task = asyncio.ensure_future(work)
    cancelled = await wait_through([task], None)
    if cancelled is None:
        return task.result()
    raise cancelled from (None if task.cancelled() else task.exception())


def is_short(characters: int) -> bool:
    """Whether work on a text of that length may be done here, where handing it to a thread would cost more."""
    return characters <= _LONG


async def apart(work: Callable[[], Result], *, characters: int) -> Result:
    """The result of work on a text of that length; on a long one it is done in a thread, so that the loop goes on."""
    return work() if is_short(characters) else await asyncio.to_thread(work)


async def wait_through(tasks: Collection[asyncio.Task[Any]], within_s: float | None) -> asyncio.CancelledError | None:
    """Wait for tasks through any number of cancellations; return the last of these."""
    clock = asyncio.get_running_loop().time
    end = None if within_s is None else clock() + within_s
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        left_s = None if end is None else end - clock()
        if left_s is not None and left_s <= 0:
            break
        try:
            await asyncio.wait(left, timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


@dataclass(frozen=True, slots=True)
class _Held(Generic[Resource]):
    resource: Resource
    keeper: AsyncGenerator[None, None]
    """Closes the resource when it is closed, which a loop that ends does by itself."""

    @property
    def is_open(self) -> bool:
        return self.keeper.ag_frame is not None  # type: ignore[attr-defined]  # of every native generator


class PerLoop(Generic[Resource]):
    """One resource for each event loop that asks for it; closed with its loop, or by `aclose`.

    Loops may run in different threads. The resource of a loop is made, used and closed in that loop only.

    Args:
        make: makes the resource; called in the loop that is to use it.
        close: closes it; awaited in its loop.
        drop: lets go of a resource whose loop was closed first (``loop.close()`` without ``asyncio.run``): there is no
            loop to await anything in; None leaves it to the garbage collector.
    """

    def __init__(
        self,
        make: Callable[[], Resource],
        *,
        close: Callable[[Resource], Awaitable[object]],
        drop: Callable[[Resource], object] | None = None,
    ) -> None:
        self._make = make
        self._close = close
        self._drop = drop
        self._held: dict[asyncio.AbstractEventLoop, _Held[Resource]] = {}
        self._lock = threading.Lock()

    def here(self) -> Resource | None:
        """This loop's resource, None where `get` has to make one; a hot path looks here before it awaits `get`."""
        held = self._held.get(asyncio.get_running_loop())
        return held.resource if held is not None and held.is_open else None

    async def get(self) -> Resource:
        """This loop's resource, made at the first call and after `aclose`."""
        if (found := self.here()) is not None:
            return found
        loop = asyncio.get_running_loop()
        resource = self._make()
        # Nothing is awaited between the look-up and here but a generator that stops at once: no other task of this
        # loop can come in between and make a second one.
        keeper = _keep(resource, self._close)
        await anext(keeper)
        with self._lock:
            closed = [self._held.pop(other) for other in list(self._held) if other.is_closed()]
            self._held[loop] = _Held(resource, keeper)
        self._drop_all(closed)
        return resource

    async def aclose(self) -> None:
        """Close this loop's resource, and those of other loops as soon as these get to it."""
        here = asyncio.get_running_loop()
        with self._lock:
            held, self._held = self._held, {}
        own = held.pop(here, None)
        for loop, one in held.items():
            try:
                loop.call_soon_threadsafe(_begin, loop, one.keeper)
            except RuntimeError:  # the loop is closed
                self._drop_all([one])
        if own is not None:
            await to_the_end(_closed(own.keeper))

    def _drop_all(self, held: Iterable[_Held[Resource]]) -> None:
        if self._drop is not None:
            for one in held:
                if one.is_open:
                    self._drop(one.resource)


_closing: set[asyncio.Task[None]] = set()
"""Of all loops: asyncio itself refers to its tasks by weak references only."""


async def _keep(resource: Resource, close: Callable[[Resource], Awaitable[object]]) -> AsyncGenerator[None, None]:
    # Refers to the resource but not to its PerLoop: without a cycle, one that is forgotten is closed at once.
    try:
        yield
    finally:
        await close(resource)


async def _closed(keeper: AsyncGenerator[None, None]) -> None:
    await keeper.aclose()


def _begin(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None, None]) -> None:
    task = loop.create_task(_closed(keeper))
    _closing.add(task)
    task.add_done_callback(_closing.discard)
