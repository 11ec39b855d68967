"""The endpoints that vLLM has with ``--enable-scale-out``: render, generate from token ids, derender.

A tool call is written ``<tool_call>{"name": …, "arguments": …}</tool_call>``; the token that ends an output is written
out by derender, as vLLM does.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from support.fault_server.answers import Answer
from support.fault_server.words import tokens, until_stop

if TYPE_CHECKING:
    from support.fault_server.server import FaultServer

END = "<|im_end|>"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class ScaleOut:
    """The endpoints of one server."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions/render", self.render)
        app.router.add_post("/inference/v1/generate", self.generate)
        app.router.add_post("/v1/chat/completions/derender", self.derender)

    async def render(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.server.scale_out:
            return web.json_response({"error": {"message": "disabled", "code": 403}}, status=403)
        params = {name: body[name] for name in ("max_tokens", "stop", "n", "temperature") if name in body}
        params |= {"logprobs": body.get("top_logprobs", 0)} if body.get("logprobs") else {}
        more = {name: body.get(name) for name in ("model", "stream", "stream_options", "cache_salt", "priority")}
        return web.json_response(
            {"request_id": "r", "token_ids": self.server.ids(body), "features": None, "sampling_params": params, **more}
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        answer = self.server.next_answer(body)
        params = body["sampling_params"]
        outputs = [self._output(answer, params) for _ in range(params.get("n", 1))]
        prompt = len(body["token_ids"])
        used = {"prompt_tokens": prompt, "completion_tokens": sum(len(ids) for ids, _, _ in outputs)}
        used["prompt_tokens_details"] = {"cached_tokens": answer.cached}
        if not body.get("stream"):
            choices = [
                {
                    "index": at,
                    "token_ids": ids,
                    "finish_reason": finish,
                    "stop_reason": why,
                    "logprobs": _logprobs(ids, params),
                }
                for at, (ids, finish, why) in enumerate(outputs)
            ]
            return web.json_response({"request_id": "g", "model": body["model"], "choices": choices, "usage": used})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for index, (ids, finish, why) in enumerate(outputs):
            for at, token in enumerate(ids, 1):
                last = at == len(ids)
                choice = {"index": index, "token_ids": [token], "finish_reason": finish if last else None}
                choice |= {"stop_reason": why if last else None, "logprobs": _logprobs([token], params)}
                usage = {"prompt_tokens": prompt, "completion_tokens": at}
                await self._send(response, {"request_id": "g", "choices": [choice], "usage": usage})
        await self._send(response, {"request_id": "g", "choices": [], "usage": used})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def derender(self, request: web.Request) -> web.Response:
        body = await request.json()
        asked = body["chat_request"]
        if body.get("stream"):
            return web.json_response(self._derender_chunk(body, asked))
        choices = []
        for choice in body["generate_response"]["choices"]:
            assert choice["token_ids"], "vLLM refuses an output without ids"
            text = self.server.text(choice["token_ids"])
            calls = _CALL.findall(text)
            message = self._said(_CALL.sub("", text), asked) | {
                "tool_calls": [_call(at, c) for at, c in enumerate(calls)]
            }
            scored = [
                {"token": self.server.text([item["token_id"]]), "logprob": item["logprob"], "top_logprobs": []}
                for item in (choice.get("logprobs") or {}).get("content") or ()
            ]
            parsed = {"message": message, "finish_reason": choice["finish_reason"], "logprobs": {"content": scored}}
            choices.append({"index": choice["index"], **parsed})
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": body["prompt_tokens"]}})

    def _derender_chunk(self, body: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        state = body["stream_state"] or {"ids": [], "shown": 0, "calls": 0}
        chunk = body["generate_chunk"]
        choices = []
        for choice in chunk["choices"]:
            ids = state["ids"] + choice["token_ids"]
            text = self.server.text(ids)
            calls = _CALL.findall(text)
            plain = _CALL.sub("", text).partition("<tool_call>")[0]
            delta = self._said(plain[state["shown"] :], asked)
            if calls[state["calls"] :]:
                delta["tool_calls"] = [_call(at, call) for at, call in enumerate(calls) if at >= state["calls"]]
            finish = "tool_calls" if choice["finish_reason"] and calls else choice["finish_reason"]
            choices.append({"index": choice["index"], "delta": delta, "finish_reason": finish, "token_ids": None})
            state = {"ids": ids, "shown": len(plain), "calls": len(calls)}
        return {"chunk": {"choices": choices, "usage": chunk.get("usage")}, "stream_state": state}

    def _said(self, text: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A parser that is not told that thinking is off takes the text for thinking."""
        off = (asked.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        return {"content": text or None} if off else {"content": None, "reasoning": text or None}

    def _output(self, answer: Answer, params: dict[str, Any]) -> tuple[list[int], str, str | None]:
        """Ids of an output with its end, why it ended, and the text that ended it."""
        calls = "".join(
            f'<tool_call>{{"name": "{call.name}", "arguments": {call.arguments}}}</tool_call>'
            for call in answer.tool_calls
        )
        stops = params.get("stop") or ()
        found = [stop for stop in stops if stop in answer.text]
        text = until_stop(answer.text, stops) + found[0] if found else answer.text + calls
        words = tokens(text)[: params["max_tokens"]]
        if found:
            return [self.server.word_id(word) for word in words], "stop", found[0]
        if len(words) == params["max_tokens"]:
            return [self.server.word_id(word) for word in words], "length", None
        return [self.server.word_id(word) for word in (*words, END)], "stop", None

    async def _send(self, response: web.StreamResponse, value: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(value)}\n\n".encode())


def _logprobs(ids: list[int], params: dict[str, Any]) -> dict[str, Any] | None:
    return {"content": [{"token_id": at, "logprob": -0.5} for at in ids]} if "logprobs" in params else None


def _call(at: int, text: str) -> dict[str, Any]:
    value = json.loads(text)
    function = {"name": value["name"], "arguments": json.dumps(value["arguments"])}
    return {"index": at, "id": f"call-{at}", "type": "function", "function": function}
