"""`Run`: one request while it runs, as a stream of its events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from typing import TYPE_CHECKING, NoReturn, Self

from duet_sdk._foreign import OnlyAsync
from duet_sdk._tasks import finished
from duet_sdk.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest, Misuse
from duet_sdk.events import AnswerDelta, Done, Event
from duet_sdk.pipeline.lifetime import carried
from duet_sdk.pipeline.outbox import Outbox
from duet_sdk.pipeline.request import answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from types import TracebackType

    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.pipeline.models import Parts
    from duet_sdk.pipeline.observer import Observer
    from duet_sdk.reply import Reply

_within: contextvars.ContextVar[Outbox | None] = contextvars.ContextVar("the run that works here", default=None)
"""Known by its outbox: a run that its own request refers to would never be forgotten."""
_told: contextvars.ContextVar[Callable[[Reply], None] | None] = contextvars.ContextVar("who counts parts", default=None)


class Run(OnlyAsync):
    """One request while it runs: a context manager, and an iterator over its events.

    The request begins with the first event that is asked for, in a task of its own, and is at most
    `duet_sdk.pipeline.outbox.LOOK_AHEAD` events ahead of whoever reads them. Leaving the context ends both stages,
    settles what they spent and closes their connections; so does forgetting the run, and closing its client.

    Attributes:
        outbox: where its events wait for their reader.
        on_done: called with the reply when it is complete.
    """

    __slots__ = (
        "__weakref__",
        "_draft",
        "_entered",
        "_loop",
        "_over",
        "_parts",
        "_reply",
        "_working",
        "on_done",
        "outbox",
    )

    def __init__(self, parts: Parts, draft: Draft, observer: Observer) -> None:
        self._parts = parts
        self._draft = draft
        self.outbox = Outbox(observer, is_read=True)
        self.on_done: Callable[[Reply], None] | None = None
        self._working: asyncio.Task[Callable[[], Reply]] | None = None
        self._reply: Reply | None = None
        self._entered = False
        self._over = False

    @property
    def reply(self) -> Reply:
        """The reply once it is complete, or what there was of it when the run was left early.

        Raises:
            InvalidRequest: the run is still going on.
        """
        if self._reply is None:
            raise InvalidRequest("the reply is not complete: iterate the run to its end, or leave its context, first")
        return self._reply

    @property
    async def text_stream(self) -> AsyncGenerator[str, None]:
        """The text of the answer alone, piece by piece; of the first answer, where there are several.

        A model that starts over after a failure (`Retried`, `FellBack`) writes its text once more: ``reply.text`` is
        what counts.
        """
        async for event in self:
            if isinstance(event, AnswerDelta) and event.index == 0 and event.text:
                yield event.text

    @property
    def is_over(self) -> bool:
        """Whether there is a reply."""
        return self._reply is not None

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    def __aiter__(self) -> Self:
        return self

    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            """Say what to write.

            Raises:
                Misuse: always.
            """
            raise Misuse("a run of AsyncDuetClient is asynchronous: write 'async for', or use DuetClient")

        def __await__(self) -> NoReturn:
            """Say what to write.

            Raises:
                Misuse: always.
            """
            raise Misuse("a run is not awaited: write 'async with duet.stream(…) as run:', or await duet.chat(…)")

    async def __anext__(self) -> Event:
        outbox = self.outbox
        events = outbox.events
        while not self._over:
            if events:
                return events.pop(0)
            if outbox.closed:
                return self.conclude()
            if self._working is None:
                self.begin()
            if outbox.is_full:
                outbox.taken()
            if outbox.wake is not None:
                raise InvalidRequest("another task waits for this run's next event; one task at a time reads a run")
            arrival = self._loop.create_future()
            outbox.wake = arrival.set_result
            try:
                await arrival
            finally:
                outbox.wake = None
        if self._working is not None and not self._working.done():  # closed by another task, and still cleaning up
            await asyncio.wait({self._working})
        self._reply = self._reply or self._draft.reply("cancelled")
        raise StopAsyncIteration

    def begin(self) -> None:
        """Begin the request on the running event loop.

        Raises:
            InvalidRequest: the context was not entered, so nothing would end the request.
        """
        if not self._entered:
            raise InvalidRequest("a run is a context manager: write 'async with duet.stream(…) as run:'")
        self._loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(_within.set, self.outbox)
        self._working = self._loop.create_task(
            carried(functools.partial(answer, self._parts, self._draft, self.outbox)), context=context
        )
        self._working.add_done_callback(functools.partial(_close, self.outbox))

    def conclude(self) -> Event:
        """The last event of a request that is over; raises what ended it instead."""
        self._over = True
        if self._working is None or self._working.cancelled():
            self._reply = self._draft.reply("cancelled")
            raise asyncio.CancelledError
        try:
            self._reply = self._working.result()()
        except BudgetExceeded as error:
            attach_reply(error, self._draft)
            self._reply = error.reply or self._draft.reply("error")
            raise
        except Exception:
            self._reply = self._draft.reply("error")
            raise
        if self.on_done is not None:
            self.on_done(self._reply)
        return Done(self._reply)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the request now, also while another task waits for its next event; harmless when it is over.

        It returns when the request has cleaned up, unless it is called within that, by a gate of the user's.
        """
        self._over = True
        working = self._working
        if working is not None and _within.get() is self.outbox:
            working.cancel()
            return
        try:
            if working is not None and not working.done():
                await finished([working])
        finally:
            self._reply = self._reply or self._draft.reply("cancelled")
            self.outbox.close()

    def __del__(self) -> None:
        """A run that is forgotten without leaving it must not go on spending."""
        if self._working is not None and not self._working.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._working.cancel)


@contextlib.contextmanager
def parts_told_to(told: Callable[[Reply], None]) -> Iterator[None]:
    """Inside, ``told`` gets what there was of a reply that `AsyncDuetClient.chat` could not complete.

    An error or a cancellation says nothing of what was spent before it; whoever counts hears of it here.
    """
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def tell_part(draft: Draft, finish_reason: str) -> None:
    """There will be no more of this reply."""
    told = _told.get()
    if told is not None and draft.account.attempts:
        told(draft.reply(finish_reason))


def _close(outbox: Outbox, working: asyncio.Task[Callable[[], Reply]]) -> None:
    if not working.cancelled():
        working.exception()  # whoever reads the events raises it; one who has left does not hear of it
    outbox.close()


def attach_reply(error: BudgetExceeded, draft: Draft) -> None:
    """Give an error what had been written before it, where anything was."""
    if error.reply is None and draft.account.attempts:
        error.reply = draft.reply("deadline" if isinstance(error, DeadlineExceeded) else "length")
