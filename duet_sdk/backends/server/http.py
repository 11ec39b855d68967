"""HTTP over aiohttp: the connections of one client, on each of its event loops, and answers with limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Final

import aiohttp

from duet_sdk._tasks import PerLoop
from duet_sdk.backends.base import trace_headers
from duet_sdk.backends.shared import in_common

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
    """Sends requests over connections that all backends of one client have in common.

    A pair's second stage goes on with the connection that its first one left, where one server has both models. aiohttp
    keeps apart what must be: host, port, TLS settings and proxy. Keys and timeouts come with each request, and cookies
    are not kept, so that nothing of one backend is sent for another.

    Args:
        headers: sent with every request; they may hold keys and are never shown.
        connect_s: longest wait for a connection.
        read_s: longest silence of a server, before its headers and between any two pieces of its answer.
        trust_env: whether proxies are taken from the environment, as aiohttp reads it.
    """

    def __init__(self, *, headers: Mapping[str, str], connect_s: float, read_s: float, trust_env: bool = False) -> None:
        self._headers = dict(headers)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=read_s)
        self._sessions = in_common(_sessions, trust_env)

    def send(self, method: str, url: str, body: bytes | None = None) -> Awaitable[aiohttp.ClientResponse]:
        """Send a request and wait for the answer's headers; the caller closes the answer.

        Redirects are not followed: they would carry key and prompt to another place.
        """
        session = self._sessions.here()
        if session is None:
            return self._open_and_send(method, url, body)
        traced = trace_headers.get()
        headers = self._headers if traced is None else {**self._headers, **traced}
        return session.request(method, url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False)

    async def _open_and_send(self, method: str, url: str, body: bytes | None) -> aiohttp.ClientResponse:
        await self._sessions.get()
        return await self.send(method, url, body)

    async def aclose(self) -> None:
        """Close the client's connections on this loop, and those on other loops as soon as these get to it."""
        await self._sessions.aclose()


def _sessions(trust_env: bool) -> PerLoop[aiohttp.ClientSession]:
    return PerLoop(partial(_open_session, trust_env), close=aiohttp.ClientSession.close, drop=_forget)


def _open_session(trust_env: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=trust_env,
    )


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
