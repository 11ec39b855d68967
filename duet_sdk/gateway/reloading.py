"""What ``duet serve`` runs: the gateway of the newest settings; a request ends on the one on which it began."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from duet_sdk.errors import DuetError
from duet_sdk.gateway.exchange import Receive, Scope, Send
from duet_sdk.gateway.routing import Gateway
from duet_sdk.gateway.worker_metrics import EVERY_S

_log = logging.getLogger(__name__)


class Reloading:
    """An ASGI app in front of a gateway that can be replaced while it serves.

    Args:
        make: reads the settings anew, and makes a gateway of them that goes on counting where the given one stands;
            called in a thread, but for the first time.

    Attributes:
        gateway: the newest.

    Raises:
        DuetError: the first settings cannot be used.
    """

    def __init__(self, make: Callable[[Gateway | None], Gateway]) -> None:
        self._make = make
        self.gateway = make(None)
        self._old: dict[Gateway, asyncio.Task[None]] = {}
        self._work: asyncio.Task[None] | None = None
        self._again = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the server's beginning and end."""
        if scope["type"] != "lifespan":
            await self.gateway(scope, receive, send)
            return
        await receive()
        writing = asyncio.create_task(self._write_metrics())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        writing.cancel()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    @property
    def has_old(self) -> bool:
        """Whether requests still run on a gateway that was replaced."""
        return bool(self._old)

    def reload(self) -> None:
        """Read the settings anew; what is asked for while one is at it is done after it, once."""
        if self._work is not None and not self._work.done():
            self._again = True
            return
        self._work = asyncio.get_running_loop().create_task(self._reload())

    def drain(self) -> None:
        """The server will end: ``/ready`` says so, and nothing is reloaded any more."""
        if self._work is not None:
            self._work.cancel()
        self.gateway.drain()

    def end(self) -> None:
        """End what runs, on old gateways, too."""
        for gateway in (self.gateway, *self._old):
            gateway.running.end()

    async def aclose(self) -> None:
        """End what runs and close all that was made."""
        self.drain()
        if self._work is not None:
            with suppress(asyncio.CancelledError):
                await self._work
        self.end()
        for closing in list(self._old.values()):
            await closing
        await self.gateway.aclose()

    async def _reload(self) -> None:
        while True:
            self._again = False
            try:
                gateway = await asyncio.to_thread(self._make, self.gateway)
            except DuetError as error:
                _log.error("the settings were not reloaded, the ones before still hold: %s", error)
            else:
                old, self.gateway = self.gateway, gateway
                self._old[old] = asyncio.create_task(self._close(old))
                _log.info("the settings were reloaded; host, port and workers stay as they were started")
            if not self._again:
                return

    async def _write_metrics(self) -> None:
        """Let other workers see what this one counts, where there are any."""
        while (beside := self.gateway.beside) is not None:
            beside.write(self.gateway.metrics)
            await asyncio.sleep(EVERY_S)

    async def _close(self, old: Gateway) -> None:
        """Close a gateway after its last request."""
        try:
            await old.running.over()
            await old.aclose()
        finally:
            del self._old[old]
