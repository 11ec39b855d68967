"""The clients behind one model: one for code without an event loop, and one for each event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from duet_sdk import AsyncDuetClient, DuetClient

if TYPE_CHECKING:
    from duet_sdk import Settings
    from duet_sdk.backends.connect import ModelLike
    from duet_sdk.options import ClientOptions


class GivenClient:
    """A client of the caller's in the place of `Clients`; it stays the caller's to close.

    Attributes:
        models: both models' full names.
    """

    def __init__(self, client: AsyncDuetClient | DuetClient) -> None:
        self._client = client.asynchronous if isinstance(client, DuetClient) else client
        self._blocking = client if isinstance(client, DuetClient) else None
        self.models = client.models

    def sync(self) -> DuetClient:
        """The client for code without an event loop."""
        if self._blocking is None:
            self._blocking = DuetClient.over(self._client)
        return self._blocking

    def of_this_loop(self) -> AsyncDuetClient:
        """The client for asynchronous code; one serves every event loop."""
        return self._client

    def close(self) -> None:
        """Nothing: it is the caller's."""

    async def aclose(self) -> None:
        """Nothing, as `close`."""


class Clients:
    """Makes clients when they are needed, and forgets those of other processes and of loops that have ended.

    An event loop's connections cannot be used from another one, and a forked process shares its parent's sockets but
    not its threads: each gets a client of its own. Safe in many threads.

    Args:
        reasoner: as `AsyncDuetClient` takes it, like the rest.
        generator: the model that answers.
        settings: in place of what the environment says.
        options: of both kinds of client.

    Attributes:
        models: both models' full names.

    Raises:
        DuetError: no client can be made of these; nothing has been loaded or sent.
    """

    def __init__(
        self, reasoner: ModelLike | None, generator: ModelLike | None, settings: Settings | None, options: ClientOptions
    ) -> None:
        self.made_of = (reasoner, generator, settings, options)
        self._sync: dict[int, DuetClient] = {}
        self._async: dict[asyncio.AbstractEventLoop, AsyncDuetClient] = {}
        # Made now, so that what cannot work is refused at once; the first event loop takes it.
        self._unused = [self._make_async()]
        self.models = self._unused[0].models

    def __reduce__(self) -> tuple[type[Clients], tuple[object, ...]]:
        """Copies, here and in another process, make clients of their own."""
        return type(self), self.made_of

    def sync(self) -> DuetClient:
        """The client of this process for code without an event loop.

        Raises:
            DuetError: as `DuetClient`.
        """
        here = os.getpid()
        if (client := self._sync.get(here)) is None:
            made = self._make_sync()
            client = self._sync.setdefault(here, made)  # a lock held while another thread forks stays held there
            if client is not made:
                made.close()
        return client

    def of_this_loop(self) -> AsyncDuetClient:
        """The client of the running event loop; its connections close when the loop ends.

        Raises:
            DuetError: as `AsyncDuetClient`.
        """
        loop = asyncio.get_running_loop()
        if (client := self._async.get(loop)) is None:
            for other in list(self._async):
                if other.is_closed():
                    self._async.pop(other, None)
            client = self._async[loop] = self._unused.pop() if self._unused else self._make_async()
        return client

    def close(self) -> None:
        """Close the synchronous client, with its thread; a later call opens a new one."""
        if (client := self._sync.pop(os.getpid(), None)) is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the client of the running event loop, and the synchronous one; later calls open new ones."""
        if (client := self._async.pop(asyncio.get_running_loop(), None)) is not None:
            await client.aclose()
        await asyncio.to_thread(self.close)

    def _make_sync(self) -> DuetClient:
        reasoner, generator, settings, options = self.made_of
        return DuetClient(reasoner, generator, settings=settings, **options)

    def _make_async(self) -> AsyncDuetClient:
        reasoner, generator, settings, options = self.made_of
        return AsyncDuetClient(reasoner, generator, settings=settings, **options)
