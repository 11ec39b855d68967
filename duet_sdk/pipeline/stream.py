"""A backend's stream as an attempt reads it: within a deadline, and left without waiting for ever.

What a backend does when its stream is closed (hang up, let a model leave its layer) may take long, and it is done
wherever the stream is awaited. So a stream that has a deadline is read in a task of its own: the deadline ends the
waiting, and the task goes on to close the stream. The client owns such tasks and awaits them in its own `aclose`.
A stream without a deadline is spared the task, also where its end is waited for only so long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import cast

from duet_sdk.backends.base import Chunk

_log = logging.getLogger(__name__)

CLOSE_S = 1.0
"""How long an attempt waits for its stream to close; longer than a connection takes, or a model's layer on a GPU."""
LAST_S = 30.0
"""How long a client waits for streams that still close before it cancels them."""


class Closings:
    """Streams that still close when nobody waits for them any more."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def within(self, closing: asyncio.Task[None]) -> None:
        """Wait for a stream to close, up to `CLOSE_S`; from then on, or when cancelled, it closes on its own.

        Raises whatever the closing raised, where it ended in time.
        """
        self._tasks.add(closing)
        closing.add_done_callback(self._closed)
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_S)
        if done and not closing.cancelled():
            closing.result()

    async def finish(self) -> None:
        """Wait for all that still close, up to `LAST_S`, then cancel them and wait for their end."""
        while self._tasks:
            left = list(self._tasks)
            done, late = await asyncio.wait(left, timeout=LAST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._tasks.difference_update(done, late)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("closing a stream failed with %s", type(error).__name__)


class Stream:
    """One stream of chunks; nothing is read of it that nobody asked for."""

    def __init__(self, chunks: AsyncGenerator[Chunk, None], closings: Closings) -> None:
        self._chunks = chunks
        self._closings = closings
        self._reader: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._come = asyncio.Event()
        self._item: Chunk | Exception = StopAsyncIteration()
        self._begun = False
        self._ended = False

    async def next(self) -> Chunk:
        """The next chunk; StopAsyncIteration at the end."""
        if self._reader is not None:
            self._wanted.set()
            await self._come.wait()
            return self._taken()
        self._begun = True
        try:
            return await anext(self._chunks)
        except Exception:
            self._ended = True
            raise

    async def next_within(self, left_s: float) -> Chunk | None:
        """The next chunk, None where it does not come in that many seconds; StopAsyncIteration at the end."""
        if self._begun and self._reader is None:
            return await self._end_within(left_s)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        self._wanted.set()
        try:
            async with asyncio.timeout(left_s):
                await self._come.wait()
        except TimeoutError:
            return None
        return self._taken()

    async def _end_within(self, left_s: float) -> Chunk | None:
        timeout = asyncio.timeout(left_s)
        try:
            async with timeout:
                return await self.next()
        except TimeoutError:
            if not timeout.expired():
                raise
            self._ended = True
            return None

    async def close(self) -> None:
        """Close it; what takes longer than `CLOSE_S` goes on beside whatever comes next."""
        if self._reader is not None:
            self._reader.cancel()
            await self._closings.within(self._reader)
        elif self._ended:
            await self._chunks.aclose()
        else:
            await self._closings.within(asyncio.create_task(cast("Coroutine[None, None, None]", self._chunks.aclose())))

    async def _read(self) -> None:
        async with aclosing(self._chunks):
            while not self._ended:
                await self._wanted.wait()
                self._wanted.clear()
                try:
                    self._item = await anext(self._chunks)
                except Exception as error:  # noqa: BLE001  # handed over to the task that asked, which raises it
                    self._item, self._ended = error, True
                self._come.set()

    def _taken(self) -> Chunk:
        self._come.clear()
        if isinstance(self._item, Exception):
            raise self._item
        return self._item
