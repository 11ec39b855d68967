"""A gateway behind a real socket in the test's own loop, and a client of it that can do what no library does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from duet_sdk.gateway import Gateway
from duet_sdk.gateway.making import uvicorn_config


@asynccontextmanager
async def behind_socket(gateway: Gateway) -> AsyncIterator[uvicorn.Server]:
    """The gateway, served by uvicorn on a free port of loopback."""
    server = uvicorn.Server(uvicorn_config(gateway, host="127.0.0.1", port=0))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await asyncio.wait_for(serving, 60)


class Socket:
    """A client over a bare connection: it sends a request, and reads as much of the answer as it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.body = b""

    @classmethod
    async def ask(cls, port: int, path: str, body: object, **headers: str) -> Socket:
        """Connect and send a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
        raw = json.dumps(body).encode()
        told = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(raw)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + raw)
        await writer.drain()
        return cls(reader, writer)

    async def until(self, text: bytes) -> None:
        """Read until the answer holds this."""
        while text not in self.body:
            piece = await asyncio.wait_for(self._reader.read(1 << 12), 20)
            assert piece, f"the answer ended before {text!r}: {self.body[-500:]!r}"
            self.body += piece

    async def rest(self) -> bytes:
        """Read to the end of the connection."""
        while piece := await asyncio.wait_for(self._reader.read(1 << 16), 60):
            self.body += piece
        await self.close()
        return self.body

    async def leave(self, how: str = "fin") -> None:
        """Go away: ``fin`` closes, ``rst`` breaks the connection off, ``half`` closes the sending side alone."""
        if how == "half":
            self._writer.write_eof()
            return
        if how == "rst":
            self._writer.transport.abort()
        self._writer.close()

    async def close(self) -> None:
        """Let go of the connection."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def pair_at(url: str) -> tuple[Any, Any]:
    """Both models of a pair at a scripted server: ``r`` and ``g``."""
    return f"vllm/r@{url}", f"vllm/g@{url}"
