"""A server that answers as one of `data/` is known to: its list, an answer whole and streamed, a tool call, its errors.

Each file of `data/` is one server. Its bodies are ours, made by the server's documentation or by what it sent when it
was run (``known_by``, ``source``).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

DATA = Path(__file__).parent / "data"
KNOWN: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text("utf-8")) for path in DATA.glob("*.json")}
ASKED_OF_VLLM = ("return_token_ids", "thinking_token_budget", "cache_salt", "priority")
"""What only vLLM takes, and servers that know their fields refuse."""


class Documented:
    """The server.

    Args:
        known: what it is known to do.
        failing: the error that each call gets, one of ``known["errors"]``.
    """

    def __init__(self, known: dict[str, Any], *, failing: dict[str, Any] | None = None) -> None:
        self.known = known
        self.failing = failing
        self.model = str(known.get("model", "m"))
        self.calls: list[dict[str, Any]] = []
        application = web.Application()
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/version", self._version)
        application.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        listed = self.known["models"]
        return web.json_response(listed, status=404 if listed is None else 200)

    async def _version(self, request: web.Request) -> web.Response:
        version = self.known.get("version")
        return web.json_response({"version": version}, status=404 if version is None else 200)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(body)
        unknown = [name for name in ASKED_OF_VLLM if name in body]
        if unknown and self.known.get("refuses_unknown"):
            return web.json_response({"object": "error", "message": f"extra_forbidden: {unknown}"}, status=400)
        if self.failing is not None and "stream" not in self.failing:
            error = self.failing
            return web.json_response(error["body"], status=error["status"], headers=error.get("headers"))
        if self.failing is not None:
            return await self._stream(request, self.failing["stream"])
        if body.get("tools"):
            return await self._stream(request, self.known["tools"])
        if body.get("stream"):
            return await self._stream(request, self.known["stream"])
        return web.json_response(self.known["whole"])

    async def _stream(self, request: web.Request, events: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            line = text if text.startswith(":") else f"data: {text}"
            await response.write(f"{line}\n\n".encode())
        return response
