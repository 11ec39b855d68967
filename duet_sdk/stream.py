"""`Run`: one request while it runs, as a stream of its events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from duet_sdk.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest
from duet_sdk.events import AnswerDelta, Done, Event, SignalDelta, ToolCallDelta
from duet_sdk.pipeline.request import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.pipeline.models import Parts
    from duet_sdk.reply import Reply

_DELTAS = frozenset({AnswerDelta, SignalDelta, ToolCallDelta})


class Run:
    """One request while it runs: a context manager, and an iterator over its events.

    Leaving the context ends both stages, settles what they spent and closes their connections.

    Attributes:
        on_done: called with the reply when it is complete.
    """

    on_done: Callable[[Reply], None] | None = None

    def __init__(self, parts: Parts, draft: Draft) -> None:
        self._draft = draft
        self._events: AsyncGenerator[Event, None] = run(parts, draft)
        self._reply: Reply | None = None
        self._reader: asyncio.Task[object] | None = None
        self._left: asyncio.Future[None] | None = None
        self._entered = False
        self._over = False
        self._is_flowing = False
        self._is_skipping = False

    @property
    def reply(self) -> Reply:
        """The reply once it is complete, or what there was of it when the run was left early.

        Raises:
            InvalidRequest: the run is still going on.
        """
        if self._reply is None:
            raise InvalidRequest("the reply is not complete: iterate the run to its end, or leave its context, first")
        return self._reply

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._entered:
            raise InvalidRequest("a run is a context manager: write 'async with duet.stream(…) as run:'")
        self._reader = asyncio.current_task()
        try:
            event = await self._next()
        except StopAsyncIteration:
            self._over = True
            raise
        except asyncio.CancelledError:
            # `aclose` in another task ended the wait: for the one that waited, the events are over.
            if self._left is not None and self._reader is not None and self._reader.uncancel() == 0:
                self._reply = self._reply or self._draft.reply("cancelled")
                raise StopAsyncIteration from None
            raise
        except BudgetExceeded as error:
            if error.reply is None and self._draft.account.attempts:
                error.reply = self._draft.reply("deadline" if isinstance(error, DeadlineExceeded) else "length")
            self._reply = error.reply or self._draft.reply("error")
            self._over = True
            raise
        except Exception:
            self._reply = self._draft.reply("error")
            self._over = True
            raise
        finally:
            self._reader = None
            if self._left is not None and not self._left.done():
                self._left.set_result(None)
        self._is_flowing = type(event) in _DELTAS
        if not self._is_flowing:
            self._draft.observer.told(event)
        if isinstance(event, Done):
            self._reply = event.reply
            if self.on_done is not None:
                self.on_done(event.reply)
        return event

    async def to_the_end(self) -> Reply:
        """Pass over what happens up to the reply; spares the steps that each event takes on its way to a consumer.

        Raises as iterating does.
        """
        self._is_skipping = True
        async for _ in self:
            pass
        return self.reply

    async def _next(self) -> Event:
        if self._is_flowing:  # a model writes on: nothing to observe, and nothing spent on that for each token
            return await anext(self._events)
        observer = self._draft.observer
        with observer.working():
            event = await anext(self._events)
            while self._is_skipping and type(event) is not Done:
                if type(event) not in _DELTAS:
                    observer.told(event)
                event = await anext(self._events)
            return event

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the request now, also while another task waits for its next event; harmless when it is over."""
        if self._over:
            return
        self._over = True
        closing = asyncio.ensure_future(self._close())
        try:
            # The stages must be closed and paid for even when the task that leaves is cancelled once more.
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise
        finally:
            self._reply = self._reply or self._draft.reply("cancelled")

    async def _close(self) -> None:
        reader = self._reader
        if reader is not None:
            self._left = asyncio.get_running_loop().create_future()
            reader.cancel()
            await self._left
        await self._events.aclose()
