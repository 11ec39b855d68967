"""A scripted OpenAI-compatible server with vLLM's additions, which can do wrong everything that servers do wrong.

A token is a word with the blanks before it, unless tokenizer files are given. Faults are chosen by answer, or by
request (``extra_body={"fault": "cut_rst"}``). ``python tests/fault_server.py --port 8101`` runs it on its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from aiohttp import web

from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.types import ToolCall

Fault: TypeAlias = Literal[
    "stall_before_headers",
    "stall_mid_stream",
    "cut_fin",
    "cut_rst",
    "rate_limited",
    "error_500",
    "unavailable_503",
    "unauthorized_401",
    "rejected_400",
    "overflow_400",
    "model_404",
    "nothing_404",
    "redirect_307",
    "html",
    "broken_json",
    "broken_sse",
    "wrong_content_type",
    "error_event",
    "no_usage",
    "wrong_usage",
    "no_finish",
    "no_done",
    "ignored_max_tokens",
    "duplicate_chunks",
    "endless",
    "giant_line",
    "slow_drip",
    "odd_sse",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_STATUS: dict[str, tuple[int, str]] = {
    "rate_limited": (429, "too many requests"),
    "error_500": (500, "the engine died"),
    "unavailable_503": (503, "overloaded"),
    "unauthorized_401": (401, "Unauthorized"),
    "rejected_400": (400, "top_k must be at least 1, in {prompt}"),
    "overflow_400": (
        400,
        "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens. {prompt}",
    ),
    "model_404": (404, "The model `{model}` does not exist."),
    "nothing_404": (404, "Not Found"),
    "redirect_307": (307, ""),
}


@dataclass(frozen=True)
class Answer:
    """What one request gets."""

    text: str = "one two three"
    reasoning: str = ""
    """Thinking, in a field of its own before the text."""
    reasoning_field: Literal["reasoning", "reasoning_content"] = "reasoning"
    tool_calls: tuple[ToolCall, ...] = ()
    """Called where the request has tools."""
    fault: Fault | None = None
    fault_after: int = 2
    """Tokens after which a fault within the stream happens."""
    retry_after: str | None = None
    """The header of an answer that says no."""
    error: str | None = None
    """Words of an answer that says no, in place of the usual ones."""
    cost: float | None = None
    """What the usage says that the call cost."""
    cached: int = 0
    """Prompt tokens that the usage says were cached."""
    hold: asyncio.Event | None = None
    """Nothing comes after ``fault_after`` tokens until it is set."""


DEFAULT = Answer()


@dataclass
class Seen:
    """A request as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(repr=False)


class FaultServer:
    """The server. ``async with FaultServer() as server`` runs it in this loop, `running` in a thread.

    Args:
        answer: what every request gets, a list of answers for one after another (the last one repeats), or a function
            of the request's body.
        models: served names.
        vllm: whether it has vLLM's additions: token ids, continuous usage, /version, /tokenize.
        key: the bearer token it wants.
        context_tokens: ``max_model_len``, where it is vLLM.
        files: a real tokenizer and template for /tokenize and /detokenize in place of words.
        without: paths that it does not have.

    Attributes:
        seen: every request to any path, in order.
        stalled: paths that never answer.
        open: requests that are being answered.
        aborted: requests whose client went away before the answer was complete.
    """

    def __init__(
        self,
        answer: Answer | Sequence[Answer] | Callable[[dict[str, Any]], Answer] = DEFAULT,
        *,
        models: Sequence[str] = ("m",),
        vllm: bool = True,
        key: str | None = None,
        context_tokens: int = 4096,
        files: TokenizerFiles | None = None,
        without: Sequence[str] = (),
    ) -> None:
        self.answer = answer
        self.models = list(models)
        self.vllm = vllm
        self.key = key
        self.context_tokens = context_tokens
        self.without = set(without)
        self.seen: list[Seen] = []
        self.stalled: set[str] = set()
        self.open = 0
        self.aborted = 0
        self._connections: set[object] = set()
        self._answered = 0
        self._renderer = Renderer(files) if files else None
        self._words: dict[str, int] = {}
        self._changed = asyncio.Condition()

    @property
    def connections(self) -> int:
        """TCP connections that brought a request so far."""
        return len(self._connections)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Bodies of the requests for completions, in order."""
        return [seen.body for seen in self.seen if seen.path.endswith("/completions")]

    async def __aenter__(self) -> FaultServer:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> FaultServer:
        app = web.Application(middlewares=[self._log], client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; only from the server's own loop."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def until_idle(self) -> None:
        """Wait until no request is being answered."""
        await self.until(lambda: self.open == 0)

    # What is asked before any call.

    @web.middleware
    async def _log(self, request: web.Request, handler: Any) -> web.StreamResponse:
        text = await request.text()
        self.seen.append(Seen(request.path, json.loads(text) if text else {}, dict(request.headers)))
        self._connections.add(request.protocol)
        if request.path in self.stalled:
            await asyncio.Event().wait()
        own = request.path in self.without
        foreign = not self.vllm and request.path in ("/version", "/tokenize", "/detokenize")
        if own or foreign:
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _models(self, request: web.Request) -> web.Response:
        extra = {"owned_by": "vllm", "max_model_len": self.context_tokens} if self.vllm else {"owned_by": "someone"}
        cards = [{"id": name, "object": "model", **extra} for name in self.models]
        return web.json_response({"object": "list", "data": cards})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids = self.ids(body)
        answer = {"count": len(ids), "max_model_len": self.context_tokens, "tokens": ids}
        if body.get("return_token_strs"):
            answer["token_strs"] = [self.text([at]) for at in ids]
        return web.json_response(answer)

    async def _detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": self.text((await request.json())["tokens"])})

    def ids(self, body: dict[str, Any]) -> list[int]:
        """The prompt's token ids."""
        if isinstance(body.get("prompt"), list):
            return list(body["prompt"])
        kwargs = body.get("chat_template_kwargs") or {}
        if self._renderer is not None:
            if "prompt" in body:
                return list(self._renderer.encode(body["prompt"]))
            chat = self._renderer._chat()
            generation = body.get("add_generation_prompt", True)
            text = chat.render(body["messages"], generation=generation, tools=body.get("tools", ()), kwargs=kwargs)
            return list(self._renderer.encode(text))
        if "prompt" in body:
            words = tokens(body["prompt"])
        else:
            words = [word for message in body["messages"] for word in tokens(said(message))]
            words += [word for tool in body.get("tools", ()) for word in tokens(json.dumps(tool))]
            words += ["<think>", "</think>"] if kwargs.get("enable_thinking") is False else []
        return [self._words.setdefault(word, len(self._words)) for word in words]

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        if self._renderer is not None:
            return self._renderer.decode(ids)
        words = {at: word for word, at in self._words.items()}
        return "".join(words[at] for at in ids)

    # Calls.

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        answer = self._next(body)
        if body.get("fault"):
            answer = replace(answer, fault=body["fault"])
        await self._count(+1)
        try:
            return await self._reply(request, body, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        finally:
            await asyncio.shield(self._count(-1))

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open += change
            self._changed.notify_all()

    def _next(self, body: dict[str, Any]) -> Answer:
        at, self._answered = self._answered, self._answered + 1
        if callable(self.answer):
            return self.answer(body)
        if isinstance(self.answer, Answer):
            return self.answer
        return self.answer[min(at, len(self.answer) - 1)]

    async def _reply(self, request: web.Request, body: dict[str, Any], answer: Answer) -> web.StreamResponse:
        fault = answer.fault
        if fault == "stall_before_headers":
            await asyncio.Event().wait()
        if fault in _STATUS:
            return self._refusal(body, answer)
        if fault == "html":
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if body["model"] not in self.models:
            return self._refusal(body, replace(answer, fault="model_404"))
        writer = _Writer(self, request, body, answer)
        return await (writer.stream() if body.get("stream") else writer.whole())

    def _refusal(self, body: dict[str, Any], answer: Answer) -> web.Response:
        status, words = _STATUS[str(answer.fault)]
        words = (answer.error or words).format(prompt=json.dumps(_prompt(body)), model=body.get("model"))
        headers = {"Retry-After": answer.retry_after} if answer.retry_after else {}
        if status == 307:
            headers["Location"] = "http://127.0.0.1:9/elsewhere?token=sk-secret"
        error = {"message": words, "type": "Error", "param": None, "code": status}
        return web.json_response({"error": error}, status=status, headers=headers)


class _Writer:
    """Writes one answer, wrongly where it is told to."""

    def __init__(self, server: FaultServer, request: web.Request, body: dict[str, Any], answer: Answer) -> None:
        self.server, self.request, self.body, self.answer = server, request, body, answer
        self.chat = request.path.endswith("/chat/completions")
        self.prompt = len(server.ids(body))
        self.written = 0
        options = body.get("stream_options") or {}
        self.continuous = server.vllm and bool(options.get("continuous_usage_stats"))
        self.final_usage = bool(options.get("include_usage"))

    def plan(self) -> tuple[list[tuple[str, str]], str]:
        """(field, token) of an output, and why it ends."""
        answer, body = self.answer, self.body
        text = _until_stop(answer.text, body.get("stop") or ())
        said = [("reasoning", token) for token in tokens(answer.reasoning)] + [("text", t) for t in tokens(text)]
        limit = body.get("max_tokens", 16)
        if answer.fault == "ignored_max_tokens":
            return (said * (10 * limit // len(said) + 1))[: 10 * limit], "stop"
        if len(said) > limit:
            return said[:limit], "length"
        if answer.tool_calls and body.get("tools"):
            return said, "tool_calls"
        return said, "stop"

    def usage(self, output: int, *, final: bool = True) -> dict[str, Any] | None:
        if self.answer.fault == "no_usage":
            return None
        if self.answer.fault == "wrong_usage" and final:
            output *= 7
        used: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": output,
            "total_tokens": self.prompt + output,
            "prompt_tokens_details": {"cached_tokens": self.answer.cached} if self.answer.cached else None,
        }
        if self.answer.cost is not None:
            used["cost"] = self.answer.cost
        return used

    # In one piece.

    async def whole(self) -> web.StreamResponse:
        choices = []
        for index in range(self.body.get("n", 1)):
            said, finish = self.plan()
            self.written += len(said)
            choices.append(self.choice(index, said, finish, key="message"))
            if "message" in choices[-1]:
                choices[-1]["message"] = {"role": "assistant", **choices[-1]["message"]}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": self.body["model"], "choices": choices}
        reply["usage"] = self.usage(self.written)
        text = json.dumps(reply)
        fault = self.answer.fault
        if fault == "broken_json":
            text = text[:-20]
        if fault in ("stall_mid_stream", "cut_fin", "cut_rst", "slow_drip"):
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(text.encode())
            await response.prepare(self.request)
            await response.write(text.encode()[:40])
            if fault == "slow_drip":
                for at in range(40, len(text)):
                    await response.write(text.encode()[at : at + 1])
                    await asyncio.sleep(0)
                return response
            await self.end_badly(response)
        content_type = "text/plain" if fault == "wrong_content_type" else "application/json"
        return web.Response(text=text, content_type=content_type)

    def choice(self, index: int, said: Sequence[tuple[str, str]], finish: str | None, *, key: str) -> dict[str, Any]:
        text = "".join(token for name, token in said if name == "text")
        reasoning = "".join(token for name, token in said if name == "reasoning")
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
        if self.chat:
            message: dict[str, Any] = {"content": text}
            if reasoning:
                message[self.answer.reasoning_field] = reasoning
            if finish == "tool_calls":
                message["tool_calls"] = [
                    {
                        "index": at,
                        "id": c.id,
                        "type": "function",
                        "function": {"name": c.name, "arguments": c.arguments},
                    }
                    for at, c in enumerate(self.answer.tool_calls)
                ]
            choice[key] = message
        else:
            choice["text"] = reasoning + text
        if self.server.vllm and self.body.get("return_token_ids"):
            choice["token_ids"] = [self.server._words.setdefault(t, len(self.server._words)) for _, t in said]
        if "logprobs" in self.body and said:
            choice["logprobs"] = self.logprobs([token for _, token in said])
        return choice

    def logprobs(self, words: Sequence[str]) -> dict[str, Any]:
        if self.chat:
            top = self.body.get("top_logprobs", 0)
            return {
                "content": [
                    {"token": w, "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": w, "logprob": -0.5}] * top}
                    for w in words
                ]
            }
        return {
            "tokens": list(words),
            "token_logprobs": [-0.5] * len(words),
            "top_logprobs": [{word: -0.5} for word in words] if self.body["logprobs"] else None,
            "text_offset": [0] * len(words),
        }

    # As a stream.

    async def stream(self) -> web.StreamResponse:
        fault = self.answer.fault
        content_type = "application/octet-stream" if fault == "wrong_content_type" else "text/event-stream"
        self.response = web.StreamResponse(headers={"Content-Type": content_type})
        await self.response.prepare(self.request)
        if self.chat:
            for index in range(self.body.get("n", 1)):
                head = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                await self.send({"choices": [head]}, output=0)
        for index in range(self.body.get("n", 1)):
            await self.output(index)
        if self.final_usage and (used := self.usage(self.written)) is not None:
            await self.send({"choices": [], "usage": used})
        if fault != "no_done":
            await self.write(b"data: [DONE]\n\n")
        return self.response

    async def output(self, index: int) -> None:
        said, finish = self.plan()
        fault, sent = self.answer.fault, 0
        while True:
            for at, piece in enumerate(said):
                if sent == self.answer.fault_after:
                    await self.fail()
                last = at == len(said) - 1 and fault not in ("endless", "no_finish") and finish != "tool_calls"
                sent += 1
                self.written += 1
                await self.send(
                    {"choices": [self.choice(index, [piece], finish if last else None, key="delta")]}, output=sent
                )
            if fault != "endless":
                break
        if sent <= self.answer.fault_after:
            await self.fail()
        if finish == "tool_calls":
            await self.call_tools(index, sent)
        elif not said:
            await self.send({"choices": [self.choice(index, [], finish, key="delta")]}, output=sent)

    async def call_tools(self, index: int, sent: int) -> None:
        for at, call in enumerate(self.answer.tool_calls):
            half = len(call.arguments) // 2
            head = {"index": at, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            pieces = [
                head,
                *({"index": at, "function": {"arguments": a}} for a in (call.arguments[:half], call.arguments[half:])),
            ]
            for piece in pieces:
                delta = {"index": index, "delta": {"tool_calls": [piece]}, "finish_reason": None}
                await self.send({"choices": [delta]}, output=sent)
        await self.send({"choices": [{"index": index, "delta": {}, "finish_reason": "tool_calls"}]}, output=sent)

    async def send(self, event: dict[str, Any], *, output: int | None = None) -> None:
        event = {"id": "x", "object": "chunk", "model": self.body["model"], **event}
        if self.continuous and output is not None and (used := self.usage(output, final=False)) is not None:
            event["usage"] = used
        text = json.dumps(event, ensure_ascii=False)
        fault = self.answer.fault
        if fault == "odd_sse":
            middle = text.index(",") + 1
            text = f": a comment\r\nevent: message\r\nid: 7\r\ndata:{text[:middle]}\r\ndata: {text[middle:]}\r\n\r\n"
        else:
            text = f"data: {text}\n\n"
        data = text.encode()
        await self.write(data * 2 if fault == "duplicate_chunks" else data)

    async def write(self, data: bytes) -> None:
        if self.answer.fault not in ("slow_drip", "odd_sse"):
            await self.response.write(data)
            return
        for at in range(len(data)):
            await self.response.write(data[at : at + 1])
            await asyncio.sleep(0)

    async def fail(self) -> None:
        """What happens after ``fault_after`` tokens."""
        if self.answer.hold is not None:
            await self.answer.hold.wait()
        match self.answer.fault:
            case "stall_mid_stream" | "cut_fin" | "cut_rst":
                await self.end_badly(self.response)
            case "broken_json":
                await self.write(b'data: {"choices": [{"index": 0, "del\n\n')
            case "broken_sse":
                await self.write(b"data: \xff\xfe\x00 what\n\n")
            case "error_event":
                error = {"message": self.answer.error or "the engine died", "type": "Internal", "code": 500}
                await self.write(b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n")
            case "giant_line":
                await self.write(b"data: " + b"x" * (3 << 20) + b"\n\n")

    async def end_badly(self, response: web.StreamResponse) -> None:
        fault, transport = self.answer.fault, self.request.transport
        if fault == "stall_mid_stream":
            await asyncio.Event().wait()
        assert transport is not None
        if fault == "cut_rst":
            sock = transport.get_extra_info("socket")
            # Closing with data unsent and no time to linger sends RST in place of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        await asyncio.Event().wait()


def tokens(text: str) -> list[str]:
    """Words, each with the blanks before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def said(message: dict[str, Any]) -> str:
    """All text of a message on the wire."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _prompt(body: dict[str, Any]) -> str:
    return "\n".join(said(message) for message in body.get("messages", ())) or str(body.get("prompt"))


def _until_stop(text: str, stops: Sequence[str]) -> str:
    return text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]


@contextmanager
def running(*args: Any, **options: Any) -> Iterator[FaultServer]:
    """The server in a thread with a loop of its own, for tests that have none or many."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = FaultServer(*args, **options)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """A URL where every connection gets these bytes, whatever it asks, and is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def refused_url() -> str:
    """A URL where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


async def _serve(port: int, text: str) -> None:
    server = await FaultServer(Answer(text)).start(port)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", default="one two three four five six seven eight")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.text))
