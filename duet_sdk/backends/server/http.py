"""HTTP over aiohttp: one session for each event loop, answers with limits, nothing shared between clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import aiohttp

from duet_sdk.backends.base import trace_headers

_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which uvicorn closes an idle connection: a request must not meet a closing one."""
_MAX_BODY_BYTES: Final = 64 << 20
"""Most that is read of a whole answer: a long output with logprobs has some MiB, anything larger is a fault."""
_DRAIN_S: Final = 0.2
"""Longest wait for the end of an answer that is complete: a new connection costs less than waiting longer."""
_DRAIN_BYTES: Final = 1 << 16
"""Most that is read for the same purpose."""

TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What goes wrong between here and a server, whatever its kind."""


class BodyTooLong(ValueError):
    """An answer in one piece is larger than any model's answer is."""


class Http:
    """Sends requests; each event loop that uses it has a session, with its connections, of its own.

    Args:
        headers: sent with every request; they may hold keys and are never shown.
        connect_s: longest wait for a connection.
        read_s: longest silence of a server, before its headers and between any two pieces of its answer.
        trust_env: whether proxies are taken from the environment, as aiohttp reads it.
    """

    def __init__(self, *, headers: Mapping[str, str], connect_s: float, read_s: float, trust_env: bool = False) -> None:
        self._headers = dict(headers)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=read_s)
        self._trust_env = trust_env
        self._open: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]] = {}
        self._lock = threading.Lock()

    async def send(self, method: str, url: str, body: bytes | None = None) -> aiohttp.ClientResponse:
        """Send a request and wait for the answer's headers; the caller closes the answer.

        Redirects are not followed: they would carry key and prompt to another place.
        """
        held = self._open.get(asyncio.get_running_loop())
        session = held[0] if held is not None and not held[0].closed else await self._open_session()
        return await session.request(method, url, data=body, headers=trace_headers.get(), allow_redirects=False)

    async def aclose(self) -> None:
        """Close this loop's connections, and those of other loops as soon as these get to it."""
        here = asyncio.get_running_loop()
        with self._lock:
            held = list(self._open.items())
            self._open.clear()
        for loop, (_, keeper) in held:
            if loop is here:
                await keeper.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(keeper.aclose(), loop)

    async def _open_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=self._timeout,
            trust_env=self._trust_env,
        )
        keeper = _keep(session)
        await anext(keeper)
        with self._lock:
            for other in [other for other in self._open if other.is_closed()]:
                _forget(self._open.pop(other)[0])
            self._open[asyncio.get_running_loop()] = session, keeper
        return session


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Holds a session until its loop ends: `asyncio.run` closes what generators it still finds open."""
    try:
        yield
    finally:
        await session.close()


def _forget(session: aiohttp.ClientSession) -> None:
    """Let go of a session whose loop was closed without closing its generators: nothing can be awaited there."""
    connector = session.connector
    session.detach()
    if connector is not None and not connector.closed:
        closing = connector.close()
        try:
            closing.__await__().send(None)
        except (StopIteration, RuntimeError):
            return


class Silence:
    """Limits how long a reader waits for the next piece of a streamed answer, with one timer for the whole stream.

    It takes over from aiohttp's ``sock_read`` once the headers are there: that one sets a new timer for every piece,
    and keeps running while the reader is busy. The reader says when it waits:

        silence.since = time.monotonic()
        data = await response.content.readany()
        silence.since = None

    Args:
        response: the answer, its headers received.
        longest_s: longest wait for a piece, in seconds.

    Attributes:
        since: when the reader began to wait, by `time.monotonic`; None while it does not wait.
    """

    __slots__ = ("_content", "_longest_s", "_loop", "_timer", "since")

    def __init__(self, response: aiohttp.ClientResponse, *, longest_s: float) -> None:
        self.since: float | None = None
        self._content = response.content
        self._longest_s = longest_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(longest_s, self._look)
        connection = response.connection  # None once the whole answer is here
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None
            connection.protocol.start_timeout()  # cancels the running timer, as there is no timeout now

    def over(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        waited_s = 0.0 if self.since is None else time.monotonic() - self.since
        if waited_s >= self._longest_s:
            self._content.set_exception(aiohttp.SocketTimeoutError("nothing more arrived"))
        else:
            self._timer = self._loop.call_later(self._longest_s - waited_s, self._look)


async def read_body(response: aiohttp.ClientResponse, *, limit: int = _MAX_BODY_BYTES) -> bytes:
    """The whole body.

    Raises:
        BodyTooLong: it goes beyond ``limit`` bytes.
    """
    pieces, size = [], 0
    async for data in response.content.iter_any():
        pieces.append(data)
        size += len(data)
        if size > limit:
            raise BodyTooLong(f"an answer of more than {limit} bytes")
    return b"".join(pieces)


async def drain(response: aiohttp.ClientResponse) -> None:
    """Read what is left of an answer that is complete, so that its connection can be used again; not for long."""
    content, size = response.content, 0
    if content.at_eof():
        return
    try:
        async with asyncio.timeout(_DRAIN_S):
            while size < _DRAIN_BYTES and (data := await content.readany()):
                size += len(data)
    except TRANSPORT_ERRORS:
        return
