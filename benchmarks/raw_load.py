"""Requests over raw sockets, so that the load takes little of what it measures."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any


def so_many(requests: int) -> Callable[[], bool]:
    """Whether there is another one, that many times."""
    left = iter(range(requests))
    return lambda: next(left, None) is not None


async def load(port: int, body: dict[str, Any], another: Callable[[], bool], at_once: int) -> list[float]:
    """Seconds that each request took.

    Raises:
        RuntimeError: one was not answered, or not with 200.
    """
    sent = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(sent)}\r\n\r\n"
    )
    taken: list[float] = []
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: _Client(head.encode() + sent, another, taken), "127.0.0.1", port))[1]
        for _ in range(at_once)
    ]
    await asyncio.gather(*(client.ended for client in clients))
    return taken


class _Client(asyncio.Protocol):
    """Asks, reads to the end, asks again."""

    def __init__(self, request: bytes, another: Callable[[], bool], taken: list[float]) -> None:
        self._request = request
        self._another = another
        self._taken = taken
        self._received = b""
        self._begin = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_whole(self._received):
            return
        if not self._received.startswith(b"HTTP/1.1 200"):
            self._fail()
        else:
            self._taken.append(time.perf_counter() - self._begin)
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._fail()

    def _ask(self) -> None:
        if self._another():
            self._received, self._begin = b"", time.perf_counter()
            self._transport.write(self._request)
        else:
            self.ended.set_result(None)
            self._transport.close()

    def _fail(self) -> None:
        self.ended.set_exception(RuntimeError(f"not answered: {self._received[:500]!r}"))
        self._transport.close()


def is_whole(received: bytes) -> bool:
    """Whether a response has come to its end."""
    if received.endswith(b"\r\n0\r\n\r\n"):  # the last of its chunks
        return True
    head, _, body = received.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return length.isdigit() and len(body) == int(length)
