"""The requests that are being answered: how many there are, and their end when the server ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from duet_sdk.gateway.errors import Refused

if TYPE_CHECKING:
    from duet_sdk.gateway.exchange import Exchange

LAST_WORD_S: Final = 1.0
"""Seconds in which a client must take the error that ends its stream: one that reads takes it at once."""
_AGAIN: Final = ((b"retry-after", b"1"),)
"""One second: whoever starts a gateway anew, or another replica, is soon there."""


def ended() -> Refused:
    """What a client hears whose request the server's end has cut off."""
    told = "the gateway is shutting down; send the request again"
    return Refused(503, "shutting_down", told, kind="server_error", headers=_AGAIN)


class Running:
    """The requests of one gateway."""

    def __init__(self) -> None:
        self._open: set[Exchange] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, exchange: Exchange) -> None:
        """A request begins."""
        self._open.add(exchange)
        self._empty.clear()

    def discard(self, exchange: Exchange) -> None:
        """A request is over."""
        self._open.discard(exchange)
        if not self._open:
            self._empty.set()

    def end(self) -> None:
        """End them all: both stages stop, what they wrote is booked, and clients get an error."""
        for exchange in list(self._open):
            exchange.stop("drained")

    async def over(self) -> None:
        """Wait until there are none."""
        await self._empty.wait()
