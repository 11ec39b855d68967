"""An OpenAI-compatible server that answers at once, so that the time a request takes is its client's.

A raw asyncio protocol without a framework, in a process of its own:

    with serve() as url: ...

It answers as vLLM does: a stream begins with the role, has one chunk a token, says why it ended with the last, then
the usage; usage and token ids come with every chunk if asked. The model ``held`` stops after its first token until
somebody posts to ``/release``.

A stream is *joined*: all of it in one write, so that a client reads it at once. `switched` makes a base URL at which
it is *apart*: one piece every `PACE_S`, so that a client reads every chunk by itself. What a client pays for a chunk
differs much between the two; real servers lie between them. The same function sets the number of chunks, and another
pace. ``/running`` tells how many streams are being written: one whose client has gone is not.
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
PROMPT_TOKENS = 64
HELD = "held"
# Long enough for a client with 16 open streams to read a piece before the next one is written (turns.py counts the
# reads), short enough for a turn to take a second or two.
PACE_S = 0.004

END = b"0\r\n\r\n"
"""Of a chunked body."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SWITCHES = re.compile(r"/(joined|apart|every-(\d+)-ms)/(\d+)(?=/)")
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


def switched(url: str, *, apart: bool = False, every_ms: int | None = None, chunks: int = CHUNKS) -> str:
    """The base URL of the same server at which streams come apart, at that pace, or have that many chunks."""
    pace = ("apart" if apart else "joined") if every_ms is None else f"every-{every_ms}-ms"
    return f"{url.removesuffix('/v1')}/{pace}/{chunks}/v1"


def text(chunks: int = CHUNKS) -> str:
    """What the server answers with that many chunks."""
    return "".join(words(chunks))


def words(chunks: int) -> list[str]:
    return [f"word{number} " for number in range(chunks)]


def pieces_of_a_stream(chunks: int = CHUNKS) -> int:
    """How many reads a stream that comes apart takes."""
    return len(stream_pieces("m", chunks, ids=False, usage=True, continuous=False))


def allow_many_sockets() -> None:
    """Raise this process's limit on open files as far as it goes."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Connection(asyncio.Protocol):
    """One client's connection."""

    waiting: list[tuple[asyncio.Transport, bytes]] = []  # noqa: RUF012  # one list for all connections
    writing: set["Connection"] = set()  # noqa: RUF012  # likewise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._received = b""

    def connection_lost(self, error: Exception | None) -> None:
        self.writing.discard(self)

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
        pace_s, chunks = 0.0, CHUNKS
        if switches := _SWITCHES.match(path):
            pace_s = int(switches[2]) / 1000 if switches[2] else PACE_S if switches[1] == "apart" else 0.0
            chunks, path = int(switches[3]), path[switches.end() :]
        if path == "/v1/chat/completions":
            self._complete(read(body), chunks, pace_s)
        elif path == "/v1/models":
            cards = [{"id": name, "object": "model", "owned_by": "vllm", "max_model_len": 32768} for name in MODELS]
            self._send({"object": "list", "data": cards})
        elif path == "/version":
            self._send({"version": "0.0.0"})
        elif path == "/running":
            self._send({"running": len(self.writing)})
        elif path == "/release":
            for transport, rest in self.waiting:
                transport.write(rest)
            self._send({"released": len(self.waiting)})
            self.waiting.clear()
        else:
            self._send({"detail": "Not Found"}, status="404 Not Found")

    def _complete(self, asked: dict[str, Any], chunks: int, pace_s: float) -> None:
        model, ids = asked["model"], bool(asked.get("return_token_ids"))
        if not asked.get("stream"):
            self._transport.write(whole_answer(model, chunks, ids))
            return
        options = asked.get("stream_options") or {}
        usage, continuous = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        pieces = stream_pieces(model, chunks, ids, usage, continuous)
        if model == HELD:
            self._transport.write(b"".join(pieces[:3]))
            self.waiting.append((self._transport, b"".join(pieces[3:])))
        elif pace_s:
            self.writing.add(self)
            self._write_apart(iter(pieces if pace_s == PACE_S else by_token(pieces, usage=usage)), pace_s)
        else:
            self._transport.write(joined(model, chunks, ids, usage, continuous))

    def _write_apart(self, pieces: Iterator[bytes], pace_s: float) -> None:
        """Write the next piece now (asyncio has set TCP_NODELAY), and the one after it when it has been read."""
        piece = next(pieces, None)
        if piece is not None and not self._transport.is_closing():
            self._transport.write(piece)
            if piece.endswith(END):  # the next request on this connection may begin at once
                self.writing.discard(self)
                return
            asyncio.get_running_loop().call_later(pace_s, self._write_apart, pieces, pace_s)
        else:
            self.writing.discard(self)

    def _send(self, value: object, status: str = "200 OK") -> None:
        self._transport.write(_response(json.dumps(value).encode(), status))


MODELS = ("m", "n", HELD)


def _response(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _usage(output_tokens: int) -> dict[str, int]:
    total = PROMPT_TOKENS + output_tokens
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": output_tokens}


@functools.lru_cache(maxsize=1024)
def read(body: bytes) -> dict[str, Any]:
    """A body's JSON; the same ones come again and again, and reading them is not what is measured."""
    return json.loads(body)


@functools.cache
def whole_answer(model: str, chunks: int, ids: bool) -> bytes:
    """An answer in one piece."""
    message = {"role": "assistant", "content": text(chunks), "refusal": None, "tool_calls": []}
    choice: dict[str, object] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {**_IDENTITY, "object": "chat.completion", "model": model, "choices": [choice], "usage": _usage(chunks)}
    if ids:
        answer["prompt_token_ids"] = list(range(PROMPT_TOKENS))
        choice["token_ids"] = list(range(chunks))
    return _response(json.dumps(answer, separators=(",", ":")).encode())


@functools.cache
def stream_pieces(model: str, chunks: int, ids: bool, usage: bool, continuous: bool) -> list[bytes]:
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
    for at, word in enumerate(words(chunks)):
        finish = "stop" if at == chunks - 1 else None
        pieces.append(event([choice({"content": word}, finish, at)], at + 1 if continuous else None))
    if usage:
        pieces.append(event([], chunks))
    pieces.append(_chunked(b"data: [DONE]\n\n") + _chunked(b""))
    return pieces


def by_token(pieces: list[bytes], *, usage: bool) -> list[bytes]:
    """Pieces as an engine writes them: the head comes with the first token, and what ends the stream with the last."""
    last = -3 if usage else -2
    return [b"".join(pieces[:3]), *pieces[3:last], b"".join(pieces[last:])]


@functools.cache
def joined(model: str, chunks: int, ids: bool, usage: bool, continuous: bool) -> bytes:
    """All of a streamed answer."""
    return b"".join(stream_pieces(model, chunks, ids, usage, continuous))


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
