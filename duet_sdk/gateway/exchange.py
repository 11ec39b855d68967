"""One request over ASGI and its response: bare messages of the protocol, without a framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import msgspec

from duet_sdk.gateway.errors import Headers, Refused
from duet_sdk.gateway.record import Record

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
)
BODY_S: Final = 60
"""Seconds in which a body must have come: long for 32 MiB on a slow line, and an end for one that never ends."""
QUIET: Final = b": waiting\n\n"
"""A comment: it says nothing, and keeps proxies and clients from taking a stream for dead."""

encode: Final = msgspec.json.Encoder().encode


class Left(Exception):
    """The client has gone before the end of its request."""


class Exchange:
    """A request, and what is sent back; made in the task that answers it.

    Attributes:
        method: in capitals.
        path: without what an outer app has taken off.
        record: what is remembered of it.
        receipt: its name in the log and in answers.
        receipt_headers: which headers of the response have it.
        status: of the response, 0 before it began.
        broken: what ends the stream that has begun when it breaks.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, receipt: str) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.receipt = receipt
        self.receipt_headers: tuple[bytes, ...] = (b"x-duet-receipt",)
        self.status = 0
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path") or "") or "/"
        self.record = Record(receipt, self.method)
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._stopped: Literal["left", "drained"] | None = None
        self._over = False
        self.broken: Callable[[Refused], bytes] | None = None
        self.sent_s = 0.0
        """Loop's time of the last write."""

    @cached_property
    def headers(self) -> Mapping[bytes, bytes]:
        """The request's, names in lower case; of one that came twice the last."""
        return dict(self._scope["headers"])

    async def body(self, most: int) -> bytes:
        """The request's body.

        Raises:
            Refused: 413, it is longer than ``most`` bytes, or says so; 408, it comes too slowly.
            Left: the client has gone before its end.
        """
        stated = self.headers.get(b"content-length", b"")
        if stated.isdigit() and int(stated[:20]) > most:
            raise _too_long(most)
        try:
            async with asyncio.timeout(BODY_S):
                return await self._read(most)
        except TimeoutError:
            raise Refused(408, "body_timeout", f"the body did not come within {BODY_S} s") from None

    async def _read(self, most: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Left
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > most:
                raise _too_long(most)
            if not message.get("more_body"):
                return b"".join(pieces)

    def end_if_client_leaves(self) -> None:
        """End the request when the client goes away, until the response is complete; after the body."""
        self._watch = asyncio.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.stop("left")

    def stop(self, why: Literal["left", "drained"]) -> None:
        """Cancel the task that answers, unless its response is complete; `release` says then why."""
        if not self._over and self._stopped is None and self._task is not None:
            self._stopped = why
            self._task.cancel()

    def release(self) -> Literal["left", "drained"] | None:
        """End what `end_if_client_leaves` began; why the task was cancelled, None where that was somebody else."""
        self._over = True
        if self._watch is not None:
            self._watch.cancel()
        why, task, self._task = self._stopped, self._task, None
        if why is not None and task is not None:
            task.uncancel()
        return why

    def with_receipt(self) -> Headers:
        """The headers that have the receipt."""
        value = self.receipt.encode()
        return tuple((name, value) for name in self.receipt_headers)

    async def json(self, status: int, value: object, headers: Headers = ()) -> None:
        """Send a whole response."""
        await self.whole(status, encode(value), _JSON, headers)

    async def whole(self, status: int, body: bytes, kind: tuple[bytes, bytes], headers: Headers = ()) -> None:
        """Send a whole response of another kind."""
        self.status, self._over = status, True
        length = (b"content-length", str(len(body)).encode())
        await self._send({"type": "http.response.start", "status": status, "headers": [kind, length, *headers]})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def write(self, piece: bytes) -> None:
        """Send a piece of a stream of events, with the response's head before the first."""
        self.sent_s = asyncio.get_running_loop().time()
        await self._begin()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _begin(self) -> None:
        if not self.status:
            self.status = 200
            headers = [*_EVENTS, *self.with_receipt()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def end(self, piece: bytes) -> None:
        """Send the last piece of a stream of events."""
        self._over = True
        await self._begin()
        await self._send({"type": "http.response.body", "body": piece})

    async def quiet(self) -> None:
        """Send a comment, unless the stream is over."""
        if not self._over:
            await self.write(QUIET)


def _too_long(most: int) -> Refused:
    return Refused(413, "request_too_large", f"the body of a request may have {most} bytes here")
