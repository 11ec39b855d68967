"""A server that answers every completion with the JSON it is told, whole or event by event: for words of any kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

Answered = Callable[[dict[str, Any]], Any]
"""(body of the request) → the events of a stream where it asks for one, else the answer."""


def piece(text: str = "", finish: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    """An event of a stream; ``more`` goes into its choice."""
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish, **more}]}


def used(output: int, prompt: int = 10, **more: Any) -> dict[str, Any]:
    """The event with a usage that comes last."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output, **more}}


def whole(text: str, finish: str = "stop", usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"choices": [choice], **({} if usage is None else {"usage": usage})}


@asynccontextmanager
async def answering(answer: Answered) -> AsyncIterator[str]:
    """The base URL of such a server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(":") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                await _say(writer, lines[0].split(" ")[1], body, answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def _say(writer: asyncio.StreamWriter, path: str, body: bytes, answer: Answered) -> None:
    if path.endswith("/models"):
        return await _whole(writer, {"data": [{"id": "m"}]})
    if "completions" not in path:
        return await _whole(writer, {}, status=404)
    asked = json.loads(body)
    said = answer(asked)
    if not asked.get("stream"):
        return await _whole(writer, said)
    return await _stream(writer, said)


async def _whole(writer: asyncio.StreamWriter, said: Any, *, status: int = 200) -> None:
    data = json.dumps(said).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, events: Sequence[Any]) -> None:
    writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for event in [*(json.dumps(event).encode() for event in events), b"[DONE]"]:
        line = b"data: " + event + b"\n\n"
        writer.write(b"%x\r\n" % len(line) + line + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
