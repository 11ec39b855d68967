"""Work that runs concurrently with a request, in tasks that never outlive it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from duet_sdk._tasks import finished
from duet_sdk.pipeline.lifetime import carried

Result = TypeVar("Result")
Work: TypeAlias = asyncio.Task[Callable[[], Result]]
"""The work: calling the task's result returns its outcome, or raises."""


class Beside:
    """Runs work in tasks; none outlives its context, whichever task leaves that.

    Attributes:
        is_over: the context is being left, so that nothing may begin any more.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._works: set[Work[Any]] = set()
        self._ended: deque[Work[Any]] = deque()
        self._come = asyncio.Event()

    def start(self, work: Callable[[], Awaitable[Result]]) -> Work[Result]:
        """Begin it."""
        task = asyncio.create_task(carried(work))
        self._works.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, work: Work[Any]) -> None:
        self._ended.append(work)
        self._come.set()

    async def next(self) -> Work[Any]:
        """The work that ended next."""
        while not self._ended:
            self._come.clear()
            await self._come.wait()
        return self._ended.popleft()

    async def stop(self, work: Work[Any]) -> None:
        """End it and wait until it has cleaned up."""
        await finished([work])
        self._ended = deque(other for other in self._ended if other is not work)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_over = True
        await finished(self._works)
