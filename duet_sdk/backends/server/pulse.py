"""Is a server that is silent still there? Asked next to the request that waits for it.

A vLLM that is told to stop ends its engine, takes no more connections and leaves the open ones open and silent
(seen with 0.32). Whoever waits for such a stream would wait for as long as a server may be silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Final, cast

FIRST_LOOK_S: Final = 3.0
"""Silence of a stream that has begun before its server is looked at: models write several tokens a second."""
FIRST_LOOK_UNBEGUN_S: Final = 15.0
"""The same for an answer that has not begun, which a long prompt or a queue puts off: a server that finishes what it
has begun before it stops is to be given time for it."""
_AGAIN_S: Final = 1.0
"""Pause before the second look, which has to say the same: a server that restarts refuses for a moment only."""
_LOOK_S: Final = 5.0
"""Longest look; one that takes longer says nothing, as a server may be too busy to answer."""


class ServerStopped(ConnectionError):
    """The server takes no new connections, and is silent on the old ones."""


class Pulse:
    """Looks whether a server has stopped; those who ask at the same time share one look.

    Args:
        refuses: whether every address of the server refuses connections, or its health is gone; it may raise anything,
            which says nothing.

    Attributes:
        ends_at_once: whether the server is known to give up its requests when it stops.
    """

    def __init__(self, refuses: Callable[[], Awaitable[bool]]) -> None:
        self._refuses = refuses
        self._looks: dict[asyncio.AbstractEventLoop, asyncio.Task[bool]] = {}
        self._watch: _Watch | None = None
        self._known: tuple[float, bool] | None = None
        self.ends_at_once = False

    def watch(self) -> _Watch:
        """What looks after the requests of this event loop that wait."""
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.loop is not loop:
            self._watch = _Watch(self, loop)  # another loop's goes on for as long as somebody waits there
        return self._watch

    async def has_stopped(self) -> bool:
        """Whether two looks, one after the other, found nobody there."""
        if self._known is not None and monotonic() - self._known[0] < FIRST_LOOK_S:
            return self._known[1]
        loop = asyncio.get_running_loop()
        look = self._looks.get(loop)
        if look is None:
            look = self._looks[loop] = asyncio.create_task(self._look())
            look.add_done_callback(lambda _: self._looks.pop(loop, None))
        return await asyncio.shield(look)

    async def _look(self) -> bool:
        gone = await self._is_gone()
        if gone:
            await asyncio.sleep(_AGAIN_S)
            gone = await self._is_gone()
        self._known = (monotonic(), gone)
        return gone

    async def _is_gone(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_S):
                return await self._refuses()
        except Exception:  # noqa: BLE001  # a look is a question next to the request: it must never be what fails it
            return False


class _Watch:
    """One timer for all the requests of a loop that wait for an answer: most get it long before anybody looks."""

    __slots__ = ("_looking", "_pulse", "_timer", "loop", "waiting")

    def __init__(self, pulse: Pulse, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[Awaited] = set()
        self._pulse = pulse
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def add(self, one: Awaited) -> None:
        """Watch over a request that begins to wait."""
        self.waiting.add(one)
        if self._timer is None:
            self._timer = self.loop.call_later(FIRST_LOOK_UNBEGUN_S, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if not self.waiting:
            return
        long_ago = monotonic() - FIRST_LOOK_UNBEGUN_S
        left_s = min(one.since for one in self.waiting) - long_ago
        if left_s <= 0 and self._looking is None and self._pulse.ends_at_once:
            self._looking = self.loop.create_task(self._look())
        self._timer = self.loop.call_later(max(left_s, FIRST_LOOK_S), self._wake)

    async def _look(self) -> None:
        try:
            if await self._pulse.has_stopped():
                long_ago = monotonic() - FIRST_LOOK_UNBEGUN_S
                for one in [one for one in self.waiting if one.since <= long_ago]:
                    one.stop()
        finally:
            self._looking = None


class Awaited:
    """Entered around the wait for an answer that has not begun; ends it where its server has stopped.

    Raises:
        ServerStopped: it has.
    """

    __slots__ = ("_cancelling", "_stopped", "_task", "_watch", "since")

    def __init__(self, pulse: Pulse) -> None:
        self._watch = pulse.watch()
        self._stopped = False

    def __enter__(self) -> None:
        self._task = cast("asyncio.Task[object]", asyncio.current_task())  # a request is made in one
        self._cancelling = self._task.cancelling()
        self.since = monotonic()
        self._watch.add(self)

    def stop(self) -> None:
        """End the wait."""
        self._watch.waiting.discard(self)
        self._stopped = True
        self._task.cancel()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.waiting.discard(self)
        # As `asyncio.timeout`: the request may have been cancelled by its caller, too.
        if self._stopped and self._task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
            raise ServerStopped from exc
