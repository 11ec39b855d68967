"""The events of a request, from the task that works on it to the one that reads them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from duet_sdk.events import AnswerDelta, Event, SignalDelta, ToolCallDelta
from duet_sdk.pipeline.observer import SILENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from duet_sdk.pipeline.observer import Observer

DELTAS: Final = frozenset({AnswerDelta, SignalDelta, ToolCallDelta})
"""Pieces that a model writes: they are of no interest to an observer, and `chat` does without them."""
LOOK_AHEAD: Final = 16
"""Events that wait for their reader before a model is read on. A reader who leaves pays for what was read: at most
this many pieces, and what came with the last of them. With 0, each event costs two more switches between tasks."""


class Outbox:
    """Events on their way to the observer, and to a reader where there is one.

    The reader takes them from ``events``, on the request's event loop or in another thread. Before it waits it sets
    ``wake``, and looks at ``events`` and ``closed`` once more, as one may have come in between; when it has taken all
    that there was, it calls `taken` if ``is_full`` says so.

    Attributes:
        observer: receives every event except the pieces that models write.
        is_read: whether anybody reads the events; else they are only observed.
        events: what was sent and not yet taken.
        wake: called once with None, as a future's ``set_result``, when the next event comes or none will any more.
        closed: no more events will come.
    """

    __slots__ = ("_is_watched", "_room", "closed", "events", "is_read", "observer", "wake")

    def __init__(self, observer: Observer, *, is_read: bool) -> None:
        self.observer = observer
        self._is_watched = observer is not SILENT
        self.is_read = is_read
        self.events: list[Event] = []  # short, and an empty deque takes a block of 64 places in every open stream
        self.wake: Callable[[None], object] | None = None
        self.closed = False
        self._room: asyncio.Future[None] | None = None

    def tell(self, event: Event) -> None:
        """Something happened."""
        if self._is_watched and type(event) not in DELTAS:
            self.observer.told(event)
        if self.is_read:
            self.events.append(event)
            wake = self.wake
            if wake is not None:
                self.wake = None
                try:  # noqa: SIM105  # spelled out, as this is done for every token
                    wake(None)
                except asyncio.InvalidStateError:
                    pass  # the reader was cancelled and has not got to its end yet

    def close(self) -> None:
        """No more events will come."""
        self.closed = True
        wake, self.wake = self.wake, None
        if wake is not None:
            with suppress(asyncio.InvalidStateError):
                wake(None)

    @property
    def is_full(self) -> bool:
        """Whether whoever tells waits for the reader."""
        return self._room is not None

    async def room(self) -> None:
        """Wait until the reader has taken all events; the model is not read any further before that."""
        self._room = asyncio.get_running_loop().create_future()
        try:
            if len(self.events) >= LOOK_AHEAD:  # a reader in another thread may just have taken them
                await self._room
        finally:
            self._room = None

    def taken(self) -> None:
        """The reader has taken everything; call it on the request's event loop."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
