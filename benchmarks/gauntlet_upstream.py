"""The models behind the ledger gauntlet: a scripted server that writes down what it really served.

What it served is the truth that a gateway's book-keeping is held against: input tokens of every request that it began,
and each output token when it is written, whoever listens. A request that it refuses costs nothing; nor do those that a
gateway makes for itself, to learn what the server can do: they have not the clients' words.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aiohttp import web

MOST_BODY = 64 * 1024 * 1024
PER_MESSAGE = 4
"""Tokens that a message takes besides its words, and once more for all: as tokenizers of chat models count."""
WORD = "word"
"""Of which clients' prompts and all answers consist."""
MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens; from a length of prompt on, all of it may cost more."""

    input_usd: Decimal
    output_usd: Decimal
    above: int | None = None
    above_input_usd: Decimal = Decimal(0)
    above_output_usd: Decimal = Decimal(0)

    def rates(self, input_tokens: int) -> tuple[Decimal, Decimal]:
        """USD of one token of input, of output."""
        if self.above is not None and input_tokens > self.above:
            return self.above_input_usd / MILLION, self.above_output_usd / MILLION
        return self.input_usd / MILLION, self.output_usd / MILLION


@dataclass(frozen=True, slots=True)
class Script:
    """How a model behaves."""

    tokens: int = 40
    """Of its answer, if the request allows as many."""
    every_s: float = 0.0
    """Seconds from token to token."""
    breaks_after: int | None = None
    """Tokens after which the connection is cut."""
    status: int | None = None
    """Refuses with it."""


class Upstream:
    """All models by name, on one port.

    Attributes:
        script: how the next request is answered, by its number.
        served_usd: what all requests cost so far.
        running: requests that are being answered.
        asked: how many requests came.
    """

    def __init__(self, prices: dict[str, Price]) -> None:
        self._prices = prices
        self.script: Callable[[int], Script] = lambda number: Script()
        self.served_usd = Decimal(0)
        self.running = 0
        self.asked = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=MOST_BODY)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    async def idle(self) -> None:
        """Until nothing runs."""
        await until(lambda: not self.running)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    async def _models(self, request: web.Request) -> web.Response:
        cards = [
            {"id": name, "object": "model", "owned_by": "vllm", "max_model_len": 1_000_000} for name in self._prices
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        count = tokens_of(body["messages"]) if "messages" in body else len(body["prompt"].split())
        return web.json_response({"count": count, "max_model_len": 1_000_000, "tokens": [1] * count})

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, tokens_of([{"content": str(body["prompt"])}]), "text")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, tokens_of(body["messages"]), "message")

    async def _answer(
        self, request: web.Request, body: dict[str, Any], input_tokens: int, kind: str
    ) -> web.StreamResponse:
        self.asked += 1
        script = self.script(self.asked)
        if script.status is not None:
            return web.json_response({"error": {"message": "scripted", "type": "server_error"}}, status=script.status)
        input_usd, output_usd = self._prices[body["model"]].rates(input_tokens)
        if WORD not in json.dumps(body):
            input_usd = output_usd = Decimal(0)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or script.tokens
        self.served_usd += input_tokens * input_usd
        self.running += 1
        try:
            if body.get("stream"):
                return await self._stream(request, body, script, min(limit, script.tokens), input_tokens, output_usd)
            written = 0
            for written in range(1, min(limit, script.tokens) + 1):
                self.served_usd += output_usd
                if written == script.breaks_after:
                    return _cut(request)
                if script.every_s:
                    await asyncio.sleep(script.every_s)
            return web.json_response(_whole(body, kind, written, input_tokens, cut=limit < script.tokens))
        finally:
            self.running -= 1

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        script: Script,
        tokens: int,
        input_tokens: int,
        output_usd: Decimal,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        options = body.get("stream_options") or {}
        for written in range(1, tokens + 1):
            finish = None if written < tokens else "stop" if script.tokens <= tokens else "length"
            usage = _usage(input_tokens, written) if options.get("continuous_usage_stats") else None
            self.served_usd += output_usd
            # Not the same one again and again, which LiteLLM takes for a model that has gone astray.
            await response.write(_chunk(body["model"], [_delta(f"{WORD}{'s' * (written % 2)} ", finish)], usage))
            if written == script.breaks_after:
                return _cut(request, response)
            if script.every_s:
                await asyncio.sleep(script.every_s)
        if options.get("include_usage"):
            await response.write(_chunk(body["model"], [], _usage(input_tokens, tokens)))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


async def until(holds: Callable[[], bool]) -> None:
    """Wait until that is so."""
    while not holds():  # noqa: ASYNC110  # of what is waited for nobody tells
        await asyncio.sleep(0.01)


def tokens_of(messages: Sequence[dict[str, Any]]) -> int:
    """Words of all texts, and a few for each message."""
    words = 0
    for message in messages:
        content = message.get("content") or ""
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        words += sum(len(text.split()) for text in texts)
    return words + PER_MESSAGE * (len(messages) + 1)


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def _usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    total = input_tokens + output_tokens
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens, "total_tokens": total}


def _delta(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}


def _chunk(model: str, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
    value: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    value |= {"choices": choices, **({"usage": usage} if usage else {})}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _whole(body: dict[str, Any], kind: str, written: int, input_tokens: int, *, cut: bool) -> dict[str, Any]:
    text, finish = f"{WORD} " * written, "length" if cut else "stop"
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if kind == "message" else {"text": text}
    return {
        "id": "c",
        "object": "chat.completion" if kind == "message" else "text_completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, **said, "finish_reason": finish}],
        "usage": _usage(input_tokens, written),
    }
