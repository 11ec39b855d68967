"""A server whose model calls a tool first and wants back what it wrote with the call, or that is strict about turns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

CALL = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}


@dataclass
class ThinkingServer:
    """Its first answer is ``message``, streamed as ``deltas``; every later one is the text ``done``."""

    message: dict[str, Any]
    deltas: Sequence[dict[str, Any]]
    url: str = ""
    seen: list[list[dict[str, Any]]] = field(default_factory=list)
    """The messages of each request."""
    refuses: Callable[[list[str]], str | None] = lambda roles: None
    """(the roles of a request) → why it is refused."""
    refuses_turns: Callable[[list[dict[str, Any]]], str | None] = lambda turns: None
    """(the messages of a request) → why it is refused."""
    refused_as: Literal["400", "500", "event", "json"] = "400"

    def refusal(self, words: str) -> web.Response:
        error = {"error": {"message": words}}
        if self.refused_as == "event":
            return web.Response(text=f"data: {json.dumps(error)}\n\n", content_type="text/event-stream")
        return web.json_response(error, status=200 if self.refused_as == "json" else int(self.refused_as))

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append(body["messages"])
        turns = body["messages"]
        words = self.refuses([turn["role"] for turn in turns]) or self.refuses_turns(turns)
        if words is not None:
            return self.refusal(words)
        is_first = not any(turn["role"] == "tool" for turn in body["messages"])
        message, deltas = (self.message, self.deltas) if is_first else ({"content": "done"}, [{"content": "done"}])
        finish = "tool_calls" if is_first and message.get("tool_calls") else "stop"
        base = {"id": "1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
            return web.json_response({**base, "object": "chat.completion", "choices": [choice]})
        pieces = [(delta, None) for delta in deltas] + [({}, finish)]
        choices = [{"index": 0, "delta": delta, "finish_reason": end} for delta, end in pieces]
        chunks = [{**base, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
        lines = [*map(json.dumps, chunks), "[DONE]"]
        return web.Response(text="".join(f"data: {line}\n\n" for line in lines), content_type="text/event-stream")


@asynccontextmanager
async def thinking_server(
    message: dict[str, Any], deltas: Sequence[dict[str, Any]] = ()
) -> AsyncIterator[ThinkingServer]:
    """A server while it runs; without ``deltas`` a stream has the message in one piece."""
    calls = [{**call, "index": at} for at, call in enumerate(message.get("tool_calls") or ())]
    server = ThinkingServer(message, deltas or [{**message, **({"tool_calls": calls} if calls else {})}])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
