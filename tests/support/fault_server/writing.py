"""One answer, streamed or whole, written wrongly where it is told to be."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web
from support.fault_server.answers import Answer
from support.fault_server.words import tokens, until_stop

if TYPE_CHECKING:
    from support.fault_server.server import FaultServer


_ODDLY_SAID: dict[str, Callable[[list[tuple[str, str]]], tuple[list[tuple[str, str]], str]]] = {
    "empty_answer": lambda said: ([], "stop"),
    "only_thinking": lambda said: ([("reasoning", token) for _, token in said], "length"),
    "answer_as_thinking": lambda said: ([("reasoning", token) for _, token in said], "stop"),
    "open_thought": lambda said: ([("text", "I count.\n"), ("text", "</think>"), ("text", "\n\n"), *said], "stop"),
}


class Writer:
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
        text = until_stop(answer.text, body.get("stop") or ())
        said = [("reasoning", token) for token in tokens(answer.reasoning)] + [("text", t) for t in tokens(text)]
        limit = body.get("max_tokens", 16)
        if answer.fault in _ODDLY_SAID:
            return _ODDLY_SAID[answer.fault](said)
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
            choice["token_ids"] = [self.server.word_id(token) for _, token in said]
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
        # Clients of OpenAI's own pass over events of any other name.
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        event = {"id": "x", "object": kind, "created": 1, "model": self.body["model"], **event}
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
