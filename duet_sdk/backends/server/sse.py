"""Server-sent events, cut out of bytes as they arrive.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

MAX_LINE_BYTES: Final = 1 << 20
"""Longest line, and longest event, that is taken: a chunk of a model's answer is a thousandth of that."""

_BOM = b"\xef\xbb\xbf"


class LineTooLong(ValueError):
    """A line or an event is longer than `MAX_LINE_BYTES`."""


class EventParser:
    r"""Bytes in any pieces → the data of each event.

    >>> parser = EventParser()
    >>> parser.feed(b"data: {\"a\"")
    []
    >>> parser.feed(b": 1}\n\n: a comment\r\n\r\ndata: [DONE]\n\n")
    [b'{"a": 1}', b'[DONE]']
    """

    __slots__ = ("_after_return", "_bare", "_bare_bytes", "_data", "_data_bytes", "_held", "_is_error", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_return = False
        self._bare: list[bytes] | None = []
        self._bare_bytes = 0
        self._is_error = False

    @property
    def bare(self) -> bytes:
        """What came in place of events: JSON in one piece, which some servers send as a stream; mostly nothing."""
        return b"\n".join(self._bare or ())

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The events that these bytes complete.

        Raises:
            LineTooLong: a line or an event is too long to be one.
        """
        if (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= MAX_LINE_BYTES
            and not (self._pieces or self._data or self._after_return or self._is_error)
        ):
            # The usual read: whole events of one line each, which the number of newlines confirms.
            events = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(events):
                return events
        if self._after_return or b"\r" in data:
            data = self._newlines(data)
        end = data.rfind(b"\n")
        if end < 0:
            # Joined only when the line is complete: a line that drips in byte by byte would be copied each time.
            self._hold(data)
            return []
        self._pieces.append(data[:end])
        lines = b"".join(self._pieces).split(b"\n")
        self._pieces.clear()
        self._held = 0
        if rest := data[end + 1 :]:
            self._hold(rest)
        return self._events(lines)

    def close(self) -> Sequence[bytes]:
        """The event that the end of the stream left without its empty line."""
        lines = b"".join(self._pieces).split(b"\n")
        self._pieces.clear()
        self._held = 0
        return self._events([*lines, b""])

    def _hold(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > MAX_LINE_BYTES:
            raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes")

    def _events(self, lines: Sequence[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                if len(line) > MAX_LINE_BYTES:
                    raise LineTooLong(f"a line of more than {MAX_LINE_BYTES} bytes")
                self._take(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    events.append(self._event())
                self._is_error = False
            elif line.startswith(_BOM + b"data:"):
                self._take(line[len(_BOM) + 5 :].removeprefix(b" "))
            elif line.startswith(b"event:"):
                self._is_error = line[6:].strip() == b"error"
            elif self._bare is not None and (self._bare or line.lstrip(_BOM + b" \t")[:1] == b"{"):
                self._keep(line)
        return events

    def _event(self) -> bytes:
        event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._data_bytes = 0
        self._bare = None
        return _as_error(event) if self._is_error else event

    def _keep(self, line: bytes) -> None:
        """A line of JSON outside of any event."""
        self._bare_bytes += len(line) + 1
        self._bare = [*(self._bare or ()), line] if self._bare_bytes <= MAX_LINE_BYTES else None

    def _take(self, data: bytes) -> None:
        self._data.append(data)
        self._data_bytes += len(data) + 1  # a line costs memory, however short it is
        if self._data_bytes > MAX_LINE_BYTES + 1:
            raise LineTooLong(f"an event of more than {MAX_LINE_BYTES} bytes")

    def _newlines(self, data: bytes) -> bytes:
        """Carriage returns, alone or before a newline, as newlines; also where the pair is split between two pieces."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        if data.endswith(b"\r"):
            self._after_return = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _as_error(event: bytes) -> bytes:
    """The data of an event of the type ``error``, as the error that it is even where it does not say so itself."""
    text = event.strip()
    if text[:1] == b"{" and b'"error"' in text:
        return event
    if text[:1] != b"{":
        text = json.dumps(text.decode("utf-8", "replace")).encode()
    return b'{"error":' + text + b"}"
