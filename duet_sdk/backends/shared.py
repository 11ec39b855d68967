"""What several share: the result of work that is done once, and what the backends of one client have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")
Setting = TypeVar("Setting", bound=Hashable)

_in_common: ContextVar[dict[Hashable, Any] | None] = ContextVar(
    "what one client's backends have in common", default=None
)


@contextmanager
def one_client() -> Iterator[None]:
    """Backends that are made in here belong to one client, and are closed together; nested, they are all one."""
    if _in_common.get() is not None:
        yield
        return
    token = _in_common.set({})
    try:
        yield
    finally:
        _in_common.reset(token)


def in_common(make: Callable[[Setting], Result], setting: Setting) -> Result:
    """What the backends of one client with the same setting have in common, made for the first of them.

    A backend that is made by itself has it for itself.
    """
    made = _in_common.get()
    if made is None:
        return make(setting)
    if (make, setting) not in made:
        made[make, setting] = make(setting)
    return cast("Result", made[make, setting])


@dataclass(slots=True)
class _Working(Generic[Result]):
    """The work on one event loop, and how many wait for it."""

    task: asyncio.Task[Result]
    waiting: int = 0


class Shared(Generic[Result]):
    """The result of one piece of work; those who ask while it goes on share it, one that fails is tried again.

    Args:
        work: begins it.

    Attributes:
        found: the result, None until there is one; a hot path looks here before it awaits `get`.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        self._work = work
        self.found: Result | None = None
        self._done = False
        self._working: dict[asyncio.AbstractEventLoop, _Working[Result]] = {}

    async def get(self) -> Result:
        """The result; whatever the work raises is raised to all who wait for it."""
        if self._done:
            return cast("Result", self.found)
        loop = asyncio.get_running_loop()
        working = self._working.get(loop)
        if working is None:
            working = self._working[loop] = _Working(asyncio.create_task(self._work()))
        working.waiting += 1
        try:
            # Shielded: that one of those who wait is cancelled must not end it for the others.
            self.found = await asyncio.shield(working.task)
            self._done = True
        finally:
            working.waiting -= 1
            if not working.waiting:
                working.task.cancel()
            if self._working.get(loop) is working and (working.task.done() or not working.waiting):
                del self._working[loop]
        return self.found

    def forget(self) -> None:
        """Let the next `get` do the work anew."""
        self.found, self._done = None, False

    def cancel(self) -> None:
        """End the work that is running on this event loop."""
        working = self._working.pop(asyncio.get_running_loop(), None)
        if working is not None:
            working.task.cancel()
