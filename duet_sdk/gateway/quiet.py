"""Comment lines for streams that show nothing: one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import Final

from duet_sdk.gateway.exchange import Exchange

_LOOKS: Final = 8
"""Looks in the time that a stream may be quiet: a comment comes at most an eighth of it early."""


class Quiet:
    """Looks at open streams, and sends a comment on those that were quiet for as long as allowed.

    Args:
        quiet_s: longest silence of a stream in seconds.
    """

    def __init__(self, quiet_s: float) -> None:
        self._every_s = quiet_s / _LOOKS
        self._after_s = quiet_s - self._every_s
        self._open: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def watch(self, exchange: Exchange) -> None:
        """A stream begins, though it may have sent nothing yet."""
        loop = asyncio.get_running_loop()
        exchange.sent_s = loop.time()
        self._open.add(exchange)
        if self._timer is None:
            self._timer = loop.call_later(self._every_s, self._look, loop)

    def forget(self, exchange: Exchange) -> None:
        """A stream is over."""
        self._open.discard(exchange)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        before = loop.time() - self._after_s
        for exchange in self._open:
            if exchange.sent_s <= before:
                exchange.sent_s = loop.time()  # one comment at a time, for a client that does not read
                sending = loop.create_task(exchange.quiet())
                self._sending.add(sending)
                sending.add_done_callback(self._sent)
        self._timer = loop.call_later(self._every_s, self._look, loop)

    def _sent(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            sending.exception()  # a client that has gone is noticed where its request runs
