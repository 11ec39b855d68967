"""An OpenAI-compatible server that answers at once, so that the time a request takes is its client's.

A raw asyncio protocol without a framework, in a process of its own:

    with serve() as url: ...

It answers as vLLM does: a stream begins with the role, has one chunk a token, each in a write of its own, says why it
ended with the last, then the usage; usage and token ids come with every chunk if asked. The model ``held`` stops after
its first token until somebody posts to ``/release``.
"""

import asyncio
import functools
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHUNKS = 16
WORDS = [f"word{number} " for number in range(CHUNKS)]
TEXT = "".join(WORDS)
PROMPT_TOKENS = 64
HELD = "held"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_IDENTITY = {"id": "chatcmpl-0123456789abcdef0123456789abcdef", "created": 1_700_000_000}


@contextmanager
def serve() -> Iterator[str]:
    """The base URL of a server in a process of its own."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def allow_many_sockets() -> None:
    """Raise this process's limit on open files as far as it goes."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Connection(asyncio.Protocol):
    """One client's connection."""

    waiting: list[tuple[asyncio.Transport, list[bytes]]] = []  # noqa: RUF012  # one list for all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:head_end]
            length = _LENGTH.search(head)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            body, self._received = self._received[head_end + 4 : end], self._received[end:]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path == "/v1/chat/completions":
            self._complete(json.loads(body))
        elif path == "/v1/models":
            cards = [{"id": name, "object": "model", "owned_by": "vllm", "max_model_len": 32768} for name in MODELS]
            self._send({"object": "list", "data": cards})
        elif path == "/version":
            self._send({"version": "0.0.0"})
        elif path == "/release":
            for transport, pieces in self.waiting:
                transport.writelines(pieces)
            self._send({"released": len(self.waiting)})
            self.waiting.clear()
        else:
            self._send({"detail": "Not Found"}, status="404 Not Found")

    def _complete(self, asked: dict[str, Any]) -> None:
        model, ids = asked["model"], bool(asked.get("return_token_ids"))
        if not asked.get("stream"):
            self._transport.write(whole_answer(model, ids))
            return
        options = asked.get("stream_options") or {}
        pieces = stream_pieces(
            model, ids, bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        )
        now = 3 if model == HELD else len(pieces)
        for piece in pieces[:now]:
            self._transport.write(piece)
        if now < len(pieces):
            self.waiting.append((self._transport, pieces[now:]))

    def _send(self, value: object, status: str = "200 OK") -> None:
        self._transport.write(_response(json.dumps(value).encode(), status))


MODELS = ("m", "n", HELD)


def _response(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _usage(output_tokens: int) -> dict[str, int]:
    total = PROMPT_TOKENS + output_tokens
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": output_tokens}


@functools.cache
def whole_answer(model: str, ids: bool) -> bytes:
    """An answer in one piece."""
    message = {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": []}
    choice: dict[str, object] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {**_IDENTITY, "object": "chat.completion", "model": model, "choices": [choice], "usage": _usage(CHUNKS)}
    if ids:
        answer["prompt_token_ids"] = list(range(PROMPT_TOKENS))
        choice["token_ids"] = list(range(CHUNKS))
    return _response(json.dumps(answer, separators=(",", ":")).encode())


@functools.cache
def stream_pieces(model: str, ids: bool, usage: bool, continuous: bool) -> list[bytes]:
    """A streamed answer: head, role, chunks, usage, end."""

    def event(choices: list[dict[str, object]], written: int | None, **more: object) -> bytes:
        value = {**_IDENTITY, "object": "chat.completion.chunk", "model": model, "choices": choices, **more}
        if written is not None:
            value["usage"] = _usage(written)
        return _chunked(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")

    def choice(delta: dict[str, str], finish: str | None, at: int | None) -> dict[str, object]:
        own = {"token_ids": [at]} if ids and at is not None else {}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **own}

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    prompt = {"prompt_token_ids": list(range(PROMPT_TOKENS))} if ids else {}
    role = {"role": "assistant", "content": ""}
    pieces = [head, event([choice(role, None, None)], 0 if continuous else None, **prompt)]
    for at, word in enumerate(WORDS):
        finish = "stop" if at == CHUNKS - 1 else None
        pieces.append(event([choice({"content": word}, finish, at)], at + 1 if continuous else None))
    if usage:
        pieces.append(event([], CHUNKS))
    pieces.append(_chunked(b"data: [DONE]\n\n") + _chunked(b""))
    return pieces


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    allow_many_sockets()
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
