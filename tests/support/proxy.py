"""An HTTP proxy on this machine: tunnels by CONNECT, forwards by absolute URLs."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import urlsplit


class Proxy:
    """``async with Proxy() as proxy`` runs it.

    Args:
        user: ``name:password`` that it wants, None for nobody.

    Attributes:
        seen: the first line of every request.
        heads: all that stood before a body.
    """

    def __init__(self, *, user: str | None = None) -> None:
        self._wanted = None if user is None else base64.b64encode(user.encode())
        self.seen: list[str] = []
        self.heads: list[bytes] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.place = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"http://{self.place}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            line = head.split(b"\r\n")[0].decode()
            self.seen.append(line)
            method, target, _ = line.split(" ")
            if self._wanted is not None and b"Basic " + self._wanted not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            there, back = await asyncio.open_connection(parts.hostname, parts.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target.split(parts.netloc, 1)[1]
                back.write(head.replace(target.encode(), path.encode(), 1).replace(b"keep-alive", b"close"))
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
