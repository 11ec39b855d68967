"""Work that goes on beside a request's own: several sources of events, read as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

from duet_sdk.events import AttemptEnded, AttemptStarted, Event


class Work:
    """One source of events in a task of its own.

    Attributes:
        task: what runs it.
        error: what ended it early, None while it runs and where it came to its end.
    """

    task: asyncio.Task[None]
    error: BaseException | None = None


class Beside:
    """Runs sources of events beside each other; none outlives its context, whichever task leaves that."""

    def __init__(self) -> None:
        self._items: deque[tuple[Work, Event | None]] = deque()
        self._come = asyncio.Event()
        self._works: list[Work] = []

    def start(self, events: AsyncGenerator[Event, None]) -> Work:
        """Run a source of events in a task of its own; it is closed at its end."""
        work = Work()
        work.task = asyncio.create_task(self._hand_over(work, events))
        self._works.append(work)
        return work

    async def _hand_over(self, work: Work, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._put(work, event)
        except BaseException as error:  # noqa: BLE001  # handed over to the request's own task, which raises it
            work.error = error
        self._put(work, None)

    def _put(self, work: Work, event: Event | None) -> None:
        self._items.append((work, event))
        self._come.set()

    async def next(self) -> tuple[Work, Event | None]:
        """The next event with its source; None where the source is at its end, or was ended by its ``error``."""
        while not self._items:
            self._come.clear()
            await self._come.wait()
        return self._items.popleft()

    async def stop(self, work: Work) -> list[Event]:
        """End a source and wait until it has cleaned up; gives what it had told of attempts and nobody has read."""
        work.task.cancel()
        await _over([work.task])
        left = [event for source, event in self._items if source is work]
        self._items = deque(item for item in self._items if item[0] is not work)
        return [event for event in left if isinstance(event, AttemptStarted | AttemptEnded)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [work.task for work in self._works]
        for task in tasks:
            task.cancel()
        await _over(tasks)


async def _over(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until tasks have cleaned up, also when the one that waits is cancelled meanwhile."""
    again: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            again = error
    if again is not None:
        raise again
