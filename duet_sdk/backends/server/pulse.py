"""Is a server that is silent still there? Asked next to the request that waits for it.

A vLLM that is told to stop ends its engine, takes no more connections and leaves the open ones open and silent
(seen with 0.32). Whoever waits for such a stream would wait for as long as a server may be silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Final, Self

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
        self._known: tuple[float, bool] | None = None
        self.ends_at_once = False

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


class Awaited:
    """Entered around the wait for an answer that has not begun; ends it where its server has stopped.

    Raises:
        ServerStopped: it has.
    """

    __slots__ = ("_looking", "_loop", "_pulse", "_stopped", "_timeout", "_timer")

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(FIRST_LOOK_UNBEGUN_S, self._begin)
        return self

    def _begin(self) -> None:
        if self._pulse.ends_at_once:
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        self._stopped = await self._pulse.has_stopped()
        if self._stopped:
            self._timeout.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(FIRST_LOOK_S, self._begin)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        try:
            await self._timeout.__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            if self._stopped:
                raise ServerStopped from None
            raise
