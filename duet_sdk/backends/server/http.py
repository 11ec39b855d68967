"""HTTP over aiohttp: the connections of one client, on each of its event loops, and answers with limits."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextvars import ContextVar
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from typing_extensions import override

from duet_sdk._tasks import PerLoop
from duet_sdk.backends.base import Chunk, trace_headers
from duet_sdk.backends.progress import Progress
from duet_sdk.backends.server.pulse import FIRST_LOOK_S, FIRST_LOOK_UNBEGUN_S, Pulse, ServerStopped
from duet_sdk.backends.server.route import Route
from duet_sdk.backends.shared import in_common

_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which uvicorn closes an idle connection: a request must not meet a closing one."""
MAX_BODY_BYTES: Final = 64 << 20
"""Most that is read of a whole answer: a long output with logprobs has some MiB, anything larger is a fault."""
_STALE_S: Final = 2.0
"""A kept connection that breaks within this time of being used again was closed by the server meanwhile, as far as one
can tell; it takes a way there and back. One that breaks later broke over the request."""
_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""How aiohttp says that a connection broke before any byte of an answer came."""
_DRAIN_S: Final = 0.2
"""Longest wait for the end of an answer that is complete: a new connection costs less than waiting longer."""
_DRAIN_BYTES: Final = 1 << 16
"""Most that is read for the same purpose."""

TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What goes wrong between here and a server, whatever its kind."""


class BodyTooLong(ValueError):
    """An answer in one piece is larger than any model's answer is."""


_DIRECT: Final = Route()
_is_new: ContextVar[bool] = ContextVar("whether the request went over a connection that was made for it")


class Http:
    """Sends requests over connections that all backends of one client have in common.

    A pair's second stage goes on with the connection that its first one left, where one server has both models. aiohttp
    keeps apart what must be: host, port, TLS settings and proxy. Keys and timeouts come with each request, and cookies
    are not kept, so that nothing of one backend is sent for another.

    Args:
        headers: sent with every request; they may hold keys and are never shown.
        connect_s: longest wait for a connection.
        read_s: longest silence of a server before its headers.
        route: the way to the server.

    Attributes:
        sessions: the connections, by event loop.
    """

    def __init__(self, *, headers: Mapping[str, str], connect_s: float, read_s: float, route: Route = _DIRECT) -> None:
        self._headers = {**headers, **route.headers}
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=read_s)
        self.sessions = in_common(_sessions, None)
        self._tls = True if route.tls is None else route.tls
        self._proxy, self._tunnel_headers = route.proxy, route.tunnel_headers or None

    def send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        body: bytes | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Awaitable[aiohttp.ClientResponse]:
        """Send a request and wait for the answer's headers; the caller closes the answer.

        Redirects are not followed: they would carry key and prompt to another place.

        Args:
            session: this loop's.
            method: of HTTP.
            url: where to.
            body: what is sent.
            more: headers of this request alone.
        """
        traced = trace_headers.get()
        headers = self._headers
        if traced is not None or more is not None:
            headers = {**headers, **(traced or {}), **(more or {})}
        _is_new.set(False)
        return session.request(
            method,
            url,
            data=None if body is None else aiohttp.BytesPayload(body, content_type="application/json"),
            headers=headers,
            timeout=self._timeout,
            allow_redirects=False,
            ssl=self._tls,
            proxy=self._proxy,
            proxy_headers=self._tunnel_headers,
        )

    async def refuses(self, url: str) -> bool:
        """Whether every address of the URL's host refuses connections; False behind a proxy, which says nothing of it.

        Raises:
            OSError: no answer at all, or the name is not known.
        """
        if self._proxy is not None:
            return False
        parts, loop = urlsplit(url), asyncio.get_running_loop()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        for address in {address for *_, address in found}:
            try:
                transport, _ = await loop.create_connection(asyncio.Protocol, str(address[0]), int(address[1]))
            except ConnectionRefusedError:
                continue
            transport.close()
            return False
        return bool(found)

    async def aclose(self) -> None:
        """Close the client's connections on this loop, and those on other loops as soon as these get to it."""
        await self.sessions.aclose()


def was_closed_before(error: Exception, *, begun: float) -> bool:
    """Whether a request failed as the server had closed its connection since the last answer, so that it may go again.

    Each such failure leaves one connection less.

    Args:
        error: what the request of this task failed with.
        begun: when it was sent, by `time.monotonic`.
    """
    return isinstance(error, _CLOSED) and not _is_new.get() and time.monotonic() - begun <= _STALE_S


class _Connector(aiohttp.TCPConnector):
    """Tells whose connection was made for its request."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE_S)

    @override
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        _is_new.set(True)
        return await super()._create_connection(req, traces, timeout)


def _sessions(_: None) -> PerLoop[aiohttp.ClientSession]:
    return PerLoop(_open_session, close=aiohttp.ClientSession.close, drop=_forget)


def _open_session() -> aiohttp.ClientSession:
    # Without trust_env: aiohttp would also send what ~/.netrc holds for the host. See `Route` for proxies.
    return aiohttp.ClientSession(connector=_Connector(), cookie_jar=aiohttp.DummyCookieJar())


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
    """Limits how long a reader waits for a streamed answer to go on, with one timer for the whole stream.

    What counts is progress: comments, empty events and pieces that say nothing keep a connection alive, and could do so
    for ever. It takes over from aiohttp's ``sock_read`` once the headers are there: that one sets a new timer for every
    piece, and keeps running while the reader is busy. The reader says when it waits, and what it waited for:

        began = silence.since = time.monotonic()
        data = await response.content.readany()
        silence.since = None
        silence.heard(chunks_of(data), time.monotonic() - began)

    Args:
        response: the answer, its headers received.
        longest_s: longest wait for progress, in seconds.
        pulse: looks whether the server has stopped, where it is silent.

    Attributes:
        since: when the reader began to wait, by `time.monotonic`; None while it does not wait.
        idle_s: seconds that it has waited before that since the last progress.
        has_begun: whether there was any progress.
    """

    __slots__ = (
        "_content",
        "_longest_s",
        "_looking",
        "_loop",
        "_progress",
        "_pulse",
        "_timer",
        "has_begun",
        "idle_s",
        "since",
    )

    def __init__(self, response: aiohttp.ClientResponse, *, longest_s: float, pulse: Pulse) -> None:
        self.since: float | None = None
        self.idle_s = 0.0
        self.has_begun = False
        self._progress = Progress()
        self._content = response.content
        self._longest_s = longest_s
        self._pulse = pulse
        self._looking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(min(longest_s, FIRST_LOOK_S), self._look)
        connection = response.connection  # None once the whole answer is here
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None
            connection.protocol.start_timeout()  # cancels the running timer, as there is no timeout now

    def heard(self, chunks: Sequence[Chunk], waited_s: float) -> None:
        """What came after a wait; whether it is progress decides what counts of the wait."""
        if self._progress.is_made_by(chunks):
            self.idle_s, self.has_begun = 0.0, True
        else:
            self.idle_s += waited_s

    def over(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        silent_s = 0.0 if self.since is None else time.monotonic() - self.since
        left_s = self._longest_s - self.idle_s - silent_s
        if self.since is not None and left_s <= 0:
            self._content.set_exception(aiohttp.SocketTimeoutError("no progress"))
            return
        is_silent = silent_s >= (FIRST_LOOK_S if self.has_begun else FIRST_LOOK_UNBEGUN_S)
        if is_silent and self._looking is None and (self.has_begun or self._pulse.ends_at_once):
            self._looking = self._loop.create_task(self._look_closer(self.since))
        wait_s = self._longest_s if self.since is None else left_s
        self._timer = self._loop.call_later(min(wait_s, FIRST_LOOK_S), self._look)

    async def _look_closer(self, since: float | None) -> None:
        if await self._pulse.has_stopped() and self.since == since:
            self._content.set_exception(ServerStopped())
        self._looking = None


def body_here(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, where all of it came with the headers, as a short one does; else None.

    Raises:
        BodyTooLong: as `read_body`.
    """
    content = response.content
    return _within(content.read_nowait()) if content.is_eof() and content.exception() is None else None


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body.

    Raises:
        BodyTooLong: it is longer than any model's answer.
    """
    pieces, size = [], 0
    async for data in response.content.iter_any():
        pieces.append(_within(data, beside=size))
        size += len(data)
    return b"".join(pieces)


def _within(data: bytes, *, beside: int = 0) -> bytes:
    if beside + len(data) > MAX_BODY_BYTES:
        raise BodyTooLong(f"an answer of more than {MAX_BODY_BYTES} bytes")
    return data


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
