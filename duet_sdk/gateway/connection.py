"""One connection of a client under uvicorn, with the limits that its httptools protocol lacks.

uvicorn ends what is quiet between requests and nothing else: a head that never ends, a body that nobody wants, a client
that does not read and a second request behind a running one keep a connection, or its answer, for as long as they like.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway.exchange import encode

HEAD_S: float = 20
"""Seconds in which a request's head must have come: long for 64 KiB on a slow line. Apache's number."""
KEEP_S: float = 75
"""Seconds that a connection may be idle between requests: longer than clients keep theirs, so that none of them sends a
request into one that is being closed. nginx' number."""
UNREAD_S: float = 60
"""Seconds in which a client must have taken what waits for it, 64 KiB at most. nginx' number."""
LINGER_S: float = 10
"""Seconds for the rest of a body whose request is answered already: closing at once would take the answer back."""
HEAD_BYTES: Final = 64 * 1024
"""Longest head of a request: coding agents send 4 KiB."""
HEAD_FIELDS: Final = 128
"""Most header fields of a request: coding agents send 30."""


class _NextRequest(Exception):
    """A request begins while another is being answered."""


class Connection(HttpToolsProtocol):
    """Answers one request after the other, and ends a connection that gives or takes too little.

    What a client sends behind a request before that is answered is not read: the connection ends with the answer, and
    RFC 9112 (9.3.2) has clients send the rest again on a new one. So a client that leaves is always noticed.
    """

    _limit: asyncio.TimerHandle | None = None
    """Ends the connection; there is one whenever no request is being answered, or its answer is not taken."""
    _in_head = True
    _head_bytes = 0
    """Of a head that has not ended yet."""
    _in_body = False
    _is_deaf = False
    """Whether all else that comes is dropped."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._send_at_once()
        self._end_in(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; never raises."""
        if self._is_deaf:
            return
        if not (self._in_head or self._in_body) and not self._is_answering:
            self._in_head = True
            self._end_in(HEAD_S)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self._malformed(error)
        else:
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """A request begins.

        Raises:
            _NextRequest: the one before it is not answered yet.
        """
        if self._is_answering:
            raise _NextRequest
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head has come; its body follows.

        Raises:
            Refused: it is too large.
        """
        self._in_head, self._head_bytes = False, 0
        length = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if length > HEAD_BYTES or len(self.headers) > HEAD_FIELDS:
            raise _too_large()
        if self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserInvalidURLError
        if self.parser.should_upgrade():
            return
        self._go_on()
        super().on_headers_complete()
        self._in_body = True

    def on_message_complete(self) -> None:
        """A request's body has come."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._in_body = False
        if self.cycle.response_complete:
            self._end_in(KEEP_S)

    def on_response_complete(self) -> None:
        """A request is answered."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._end_in(UNREAD_S)
            return
        self.flow.resume_reading()
        self._end_in(LINGER_S if self._in_body else KEEP_S)

    def pause_writing(self) -> None:
        """64 KiB wait for the client."""
        super().pause_writing()
        self._end_in(UNREAD_S)

    def resume_writing(self) -> None:
        """The client has taken most of them."""
        super().resume_writing()
        if self._is_answering:
            self._go_on()

    def _send_at_once(self) -> None:
        """Turn Nagle's algorithm off, or a stream's first event waits 40 ms behind its head for the client to confirm.

        asyncio does so only for sockets that were made with TCP's number, and `socket.create_server` makes others.
        """
        connected = self.transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _end_in(self, seconds: float) -> None:
        self._go_on()
        self._limit = self.loop.call_later(seconds, self._end)

    def _go_on(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _end(self) -> None:
        self.transport.abort()  # `close` would wait until the client has read everything

    def _decline(self, rest: bytes) -> None:
        """Read a request that offers another protocol (Java's client does, in each) as if it did not.

        The parser takes the head for the whole request then, and its body for the other protocol.
        """
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        offers = (b"connection", b"upgrade", b"http2-settings")
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] not in offers]
        self.parser = httptools.HttpRequestParser(self)
        self._in_head, self._head_bytes = True, 0
        self.data_received(b"".join((start, *lines, b"\r\n", rest)))

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self._in_body:
            self.cycle.disconnected = True  # there is no end of the body to wait for
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self._end()
                return
        elif self._is_answering:
            self._last()  # it stands behind the request
            return
        cause = error.__context__
        message = "this is not a request of HTTP/1.1"
        self._refuse(cause if isinstance(cause, Refused) else Refused(400, "malformed", message, headers=NOT_AGAIN))

    def _last(self) -> None:
        """Answer what is being answered, and close."""
        self._is_deaf = True
        self.cycle.keep_alive = False

    def _refuse(self, told: Refused) -> None:
        self._is_deaf = True
        body = encode(told.body())
        fields = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *told.headers)
        lines = [b"%b: %b\r\n" % field for field in (*fields, (b"connection", b"close"))]
        self.transport.write(b"".join((STATUS_LINE[told.status], *lines, b"\r\n", body)))
        self._end_in(LINGER_S)
        if self.transport.can_write_eof():
            self.transport.write_eof()  # it may still be sending: closing now would take the answer back


def _too_large() -> Refused:
    message = f"the head of a request may have {HEAD_BYTES} bytes and {HEAD_FIELDS} fields here"
    return Refused(431, "head_too_large", message, headers=NOT_AGAIN)
