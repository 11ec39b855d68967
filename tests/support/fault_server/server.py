"""The server: its endpoints, and what it remembers."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web
from support.fault_server.answers import DEFAULT, STATUS, Answer, Seen
from support.fault_server.scale_out import ScaleOut
from support.fault_server.words import is_probe, prompt_of, said, tokens
from support.fault_server.writing import Writer

from duet_sdk.errors import InvalidRequest
from duet_sdk.rendering import Renderer, TokenizerFiles


class FaultServer:
    """The server. ``async with FaultServer() as server`` runs it in this loop, `running` in a thread.

    Args:
        answer: what every request gets, a list of answers for one after another (the last one repeats), or a function
            of the request's body.
        models: served names.
        cards: what its list of models holds, in place of a usual card for each of ``models``.
        vllm: whether it has vLLM's additions: token ids, continuous usage, /version, /tokenize.
        key: the bearer token it wants.
        context_tokens: ``max_model_len``, where it is vLLM.
        files: a real tokenizer and template for /tokenize and /detokenize in place of words.
        without: paths that it does not have.
        thinking: whether it was started for ``thinking_token_budget``.
        drafts: whether a draft model writes ahead there.
        ranks: how many data-parallel engines it has.
        stop_texts: most stop texts of a request.
        scale_out: whether it renders, generates from token ids, and derenders.
        tls: serve by https with this.
        host: the address that it listens at.

    Attributes:
        seen: every request to any path, in order.
        stalled: paths that never answer.
        aliases: names that it answers to and does not list.
        open: requests that are being answered.
        aborted: requests whose client went away before the answer was complete.
    """

    def __init__(
        self,
        answer: Answer | Sequence[Answer] | Callable[[dict[str, Any]], Answer] = DEFAULT,
        *,
        models: Sequence[str] = ("m",),
        cards: Sequence[dict[str, Any]] | None = None,
        vllm: bool = True,
        key: str | None = None,
        context_tokens: int = 4096,
        files: TokenizerFiles | None = None,
        without: Sequence[str] = (),
        thinking: bool = False,
        drafts: bool = False,
        ranks: int = 1,
        stop_texts: int = 4,
        scale_out: bool = False,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.answer = answer
        self.models = list(models) if cards is None else [str(card.get("id")) for card in cards]
        self.cards = cards
        self.aliases: set[str] = set()
        self.vllm = vllm
        self.key = key
        self.context_tokens = context_tokens
        self.without = set(without)
        self.thinking = thinking
        self.drafts = drafts
        self.ranks = ranks
        self.stop_texts = stop_texts
        self.scale_out = scale_out
        self.tls = tls
        self.host = host
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
    def held(self) -> int:
        """TCP connections that are open now."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Bodies of the requests for completions, in order; without those that ask what no server can do."""
        return [seen.body for seen in self.seen if seen.path.endswith("/completions") and not is_probe(seen.body)]

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
        if self.vllm:
            ScaleOut(self).add_to(app)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, port, ssl_context=self.tls)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        place = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if self.tls else 'http'}://{place}:{self.port}/v1"
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
        try:
            response: web.StreamResponse = await handler(request)
        except InvalidRequest as refused:  # the template's own words
            return web.json_response({"error": {"message": str(refused), "code": 400}}, status=400)
        return response

    async def _models(self, request: web.Request) -> web.Response:
        extra = {"owned_by": "vllm", "max_model_len": self.context_tokens} if self.vllm else {"owned_by": "someone"}
        usual = [{"id": name, "object": "model", **extra} for name in self.models]
        return web.json_response({"object": "list", "data": usual if self.cards is None else self.cards})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids = self.ids(body)
        answer = {"count": len(ids), "max_model_len": self.context_tokens, "tokens": ids}
        if body.get("return_token_strs"):
            decode = self._renderer.decode if self._renderer else self.text
            answer["token_strs"] = [decode([at]) for at in ids]
        return web.json_response(answer)

    async def _detokenize(self, request: web.Request) -> web.Response:
        ids = (await request.json())["tokens"]
        return web.json_response({"prompt": self._renderer.decode(ids) if self._renderer else self.text(ids)})

    def ids(self, body: dict[str, Any]) -> list[int]:
        """The prompt's token ids."""
        if isinstance(body.get("prompt"), list):
            return list(body["prompt"])
        kwargs = body.get("chat_template_kwargs") or {}
        if self._renderer is not None:
            if "prompt" in body:
                return list(self._renderer.encode(body["prompt"]))
            return list(self._renderer.encode(self._rendered(body, kwargs)))
        if "prompt" in body:
            words = tokens(body["prompt"])
        else:
            words = [word for message in body["messages"] for word in tokens(said(message))]
            words += [word for tool in body.get("tools", ()) for word in tokens(json.dumps(tool))]
            words += ["<think>", "</think>"] if kwargs.get("enable_thinking") is False else []
        return [self._words.setdefault(word, len(self._words)) for word in words]

    def _rendered(self, body: dict[str, Any], kwargs: dict[str, Any]) -> str:
        """The prompt's text by the template; an open last turn is cut at a mark, as transformers does."""
        assert self._renderer is not None
        turns, mark = body["messages"], "\u241fhere\u241f"
        if body.get("continue_final_message"):
            turns = [*turns[:-1], {**turns[-1], "content": turns[-1]["content"] + mark}]
        text = self._renderer._chat().render(
            turns, generation=body.get("add_generation_prompt", True), tools=body.get("tools", ()), kwargs=kwargs
        )
        return text.partition(mark)[0]

    def word_id(self, word: str) -> int:
        """The id of a word of an answer."""
        return self._words.setdefault(word, len(self._words))

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids of an answer; of a prompt where there is no tokenizer."""
        words = {at: word for word, at in self._words.items()}
        return "".join(words[at] for at in ids)

    # Calls.

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.vllm and (words := self._against(body, request.headers.get("X-data-parallel-rank"))):
            error = {"message": words, "type": "BadRequestError", "code": 400}
            return web.json_response({"error": error}, status=400)
        answer = self.next_answer(body)
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

    def _against(self, body: dict[str, Any], rank: str | None) -> str | None:
        """What vLLM 0.32 says against a request, in the order in which it looks."""
        budget, stops = body.get("thinking_token_budget"), body.get("stop") or ()
        if len(stops) > self.stop_texts and not isinstance(stops, str):
            return f"List should have at most {self.stop_texts} items after validation, not {len(stops)}"
        if budget is not None and budget < -1:
            return "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."
        if self.drafts and (body.get("min_p") or body.get("logit_bias")):
            return "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding."
        if budget is not None and not self.thinking:
            return "thinking_token_budget is set but reasoning_config is not configured."
        if rank is not None and int(rank) >= self.ranks:
            return f"data_parallel_rank {rank} is out of range [0, {self.ranks})."
        return f"Token id {body['prompt'][0]} is out of vocabulary" if is_probe(body) and "prompt" in body else None

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open += change
            self._changed.notify_all()

    def next_answer(self, body: dict[str, Any]) -> Answer:
        """What this request gets."""
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
        if fault in STATUS:
            return self._refusal(body, answer)
        if fault == "html":
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if body["model"] not in self.models and body["model"] not in self.aliases:
            return self._refusal(body, replace(answer, fault="model_404"))
        writer = Writer(self, request, body, answer)
        return await (writer.stream() if body.get("stream") else writer.whole())

    def _refusal(self, body: dict[str, Any], answer: Answer) -> web.Response:
        status, words = STATUS[str(answer.fault)]
        words = (answer.error or words).format(prompt=json.dumps(prompt_of(body)), model=body.get("model"))
        headers = {"Retry-After": answer.retry_after} if answer.retry_after else {}
        if status == 307:
            headers["Location"] = "http://127.0.0.1:9/elsewhere?token=sk-secret"
        error = {"message": words, "type": "Error", "param": None, "code": status}
        return web.json_response({"error": error}, status=status, headers=headers)
