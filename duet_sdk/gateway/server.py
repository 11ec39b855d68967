"""uvicorn's server with an end that lets streams end, and settings that are read anew; imported on use only."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from duet_sdk.gateway.reloading import Reloading
from duet_sdk.gateway.running import LAST_WORD_S

_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
AT_ONCE: Final = signal.SIGQUIT
"""What a worker is told in place of a second SIGTERM: service managers send that to all processes of a group, so that
each would get its own and its parent's."""
_HANG_UP_S: Final = 2 * LAST_WORD_S
"""Seconds after the end of all requests at which connections are broken off: of clients that do not read."""
_CLOSING_S: Final = 10.0
"""Seconds beyond all of these at which uvicorn cancels what is left; nothing should be."""


class DrainingServer(uvicorn.Server):
    """Ends in three steps: no new connections, then no requests, then no connections.

    Args:
        config: of uvicorn.
        app: what is served.
        parent: a pipe that closes when the parent process has ended, which ends this one, too.
    """

    def __init__(self, config: uvicorn.Config, app: Reloading, *, parent: int | None = None) -> None:
        super().__init__(config)
        self._app = app
        self._parent = parent

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take this process's signals; none is raised again at the end, as the exit code is to be 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        handlers = {**dict.fromkeys(_ENDS, self._told_to_end), AT_ONCE: self.end, signal.SIGHUP: self._app.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if self._parent is not None:
            loop.add_reader(self._parent, self._parent_ended)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # a worker begins with all of them waiting
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
            if self._parent is not None:
                loop.remove_reader(self._parent)

    def _told_to_end(self) -> None:
        if not self.should_exit:
            self.drain()
        elif self._parent is None:
            self.end()

    def _parent_ended(self) -> None:
        if self._parent is not None:
            asyncio.get_running_loop().remove_reader(self._parent)
            os.close(self._parent)
            self._parent = None
        self.drain()

    def drain(self) -> None:
        """Take no new connections, and let requests end for as long as the policy says."""
        if self.should_exit:
            return
        drain_s = self._app.gateway.policy.drain_s
        self._app.drain()
        self.config.timeout_graceful_shutdown = round(drain_s + _HANG_UP_S + _CLOSING_S)
        asyncio.get_running_loop().call_later(drain_s, self.end)
        self.should_exit = True

    def end(self) -> None:
        """End all requests now; their clients get an error if they read."""
        self.drain()
        self._app.end()
        asyncio.get_running_loop().call_later(_HANG_UP_S, self._hang_up)

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
