"""Drives an ASGI app by hand: what a client sends, what it gets piece by piece, and when it goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any


class Conversation:
    """One request to an app that runs in a task.

    Attributes:
        status: of the response, 0 before it began.
        headers: of the response.
        pieces: of the response's body, as they were sent.
    """

    def __init__(self, app: Any, path: str, body: object = None, **options: Any) -> None:
        headers = {"host": "127.0.0.1", "content-type": "application/json", **options.pop("headers", {})}
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": options.pop("method", "GET" if body is None else "POST"),
            "path": path,
            "headers": [
                (name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items() if value
            ],
            "root_path": "",
            **options,
        }
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.pieces: list[bytes] = []
        self._sent = [{"type": "http.request", "body": raw, "more_body": False}]
        self._left = asyncio.Event()
        self._arrived = asyncio.Event()
        self.task = asyncio.create_task(app(self.scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._sent:
            return self._sent.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.pieces.append(message.get("body", b""))
        self._arrived.set()

    def leave(self) -> None:
        """The client closes its connection."""
        self._left.set()

    async def until(self, text: bytes) -> None:
        """Wait until the body holds a text."""
        while text not in self.body:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 20)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of the events of a stream, the last one's text ``[DONE]`` as it is."""
        lines = self.body.decode().split("\n")  # of an event with a name the line before says it
        found = [line[6:] for line in lines if line.startswith("data: ")]
        return [event if event == "[DONE]" else json.loads(event) for event in found]


async def ask(app: Any, path: str, body: object = None, **options: Any) -> Conversation:
    """A request whose response is complete."""
    talk = Conversation(app, path, body, **options)
    await asyncio.wait_for(talk.task, 20)
    return talk
