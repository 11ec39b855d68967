"""A wire between client and server that remembers what the server says it was asked."""

from __future__ import annotations

import json
import re
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from support import vllm_servers

_GENERATING = ("/v1/chat/completions", "/v1/completions", "/inference/v1/generate")
_PROMPT = re.compile(rb'"prompt_token_ids":\s*\[([\d,\s]*)\]')


class Tap:
    """Passes everything on; `prompts` holds the token ids that the server read, call by call.

    Attributes:
        model: the server's model behind this wire, with its tokenizer.
        bare: the same without it, so that only the server can tell ids.
    """

    def __init__(self, server: vllm_servers.Server) -> None:
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.prompts: list[tuple[int, ...]] = []
        self._server = server
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._pass)
        # A client that leaves ends the server's work too.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.model = self._server.endpoint(f"http://127.0.0.1:{port}/v1")
        self.bare = f"{self.model.model}@{self.model.base_url}"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = json.loads(body) if body else {}
        # The backend's probes ask what no server can do.
        generates = request.path in _GENERATING and asked.get("prompt") != [2**31 - 1]
        if generates:
            self.paths.append(request.path)
            self.bodies.append(asked)
            # So that the server tells the prompt, whatever the client asked for.
            body = json.dumps({**asked, "return_token_ids": True}).encode()
        headers = {"Content-Type": "application/json"} if body else {}
        url = self._server.root + request.path_qs
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            passed = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
            await passed.prepare(request)
            seen = b""
            async for piece in answer.content.iter_any():
                if generates and len(self.prompts) < len(self.paths):
                    seen += piece
                    if found := _PROMPT.search(seen):
                        self.prompts.append(tuple(int(at) for at in found[1].split(b",")))
                await passed.write(piece)
            await passed.write_eof()
            return passed
