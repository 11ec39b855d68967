"""Models behind an OpenAI-compatible HTTP server: vLLM with all it can do, any other with fewer capabilities.

>>> from duet_sdk import DuetClient
>>> with DuetClient(generator="vllm/Qwen/Qwen3-0.6B@http://127.0.0.1:8101/v1") as duet:  # doctest: +SKIP
...     duet.chat("What is the capital of France?", mode="generator").text
'The capital of France is Paris.'
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic_core import from_json

from duet_sdk.backends.address import DEFAULT_URL, Secret, checked_url, is_private, request_headers, secrets_in
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.http import TRANSPORT_ERRORS, BodyTooLong, Http, drain, read_body
from duet_sdk.backends.options import Known, checked
from duet_sdk.backends.probing import Facts, Said, probe, tokenize
from duet_sdk.backends.protocol import Call, Capabilities, Chunk
from duet_sdk.backends.server_renderer import ServerRenderer
from duet_sdk.backends.sse import EventParser, LineTooLong
from duet_sdk.backends.vllm_fields import OwnFields, thinking_budget
from duet_sdk.backends.wire import (
    OutputFailed,
    Reader,
    encode,
    message_on_wire,
    path_of,
    request_body,
)
from duet_sdk.errors import BackendError, ConfigError
from duet_sdk.pricing import FREE, Price

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from aiohttp import ClientResponse

    from duet_sdk.rendering import TokenizerFiles
    from duet_sdk.types import Json, Message

_ERROR_BYTES = 1 << 16
_ASK_S = 30.0
"""Longest wait for what costs the server no generation: its lists, its tokenizer."""
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(slots=True)
class _Probing:
    """A probe that runs on one event loop, and how many wait for it."""

    task: asyncio.Task[Facts]
    waiting: int = 0


class VllmBackend:
    """A model behind an OpenAI-compatible server.

    Args:
        model: as the server names it.
        base_url: where its API begins, ``/v1`` included.
        api_key: sent as bearer token; never shown.
        boundary: ``local``, a named region, or ``any``; None for ``local`` where the URL names this machine or a
            private address, else ``any``.
        price: what a call costs; None for nothing where the boundary is ``local``, else unknown.
        context_tokens: the model's window; None asks the server.
        tokenizer: a folder with ``tokenizer.json``, or a model in the cache; None looks for the model's own name.
        capabilities: what is known of the server by hand, by the names of `duet_sdk.backends.probing.Said`.
        priority: vLLM's ``priority`` of every call, lower is earlier; None sends none.
        cache_salt: vLLM's ``cache_salt`` of every call, None sends none: calls share prefix caches with those of the
            same salt only. ``{tenant}`` in it stands for a hash of the request's tenant.
        connect_s: longest wait for a connection, in seconds.
        read_s: longest silence of the server, in seconds. A whole answer is silent until it is complete, and a loaded
            server may let a prompt wait long.
        headers: sent with every request; never shown.
        trust_env: whether proxies are taken from the environment.

    Raises:
        ConfigError: a value that cannot work.
    """

    name = "vllm"

    def __init__(
        self,
        model: str,
        *,
        base_url: str = DEFAULT_URL,
        api_key: Secret | str | None = None,
        boundary: str | None = None,
        price: Price | None = None,
        context_tokens: int | None = None,
        tokenizer: str | None = None,
        capabilities: Mapping[str, object] | None = None,
        priority: int | None = None,
        cache_salt: str | None = None,
        connect_s: float = 10.0,
        read_s: float = 300.0,
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
    ) -> None:
        self.model = model
        self.base_url, host = checked_url(base_url)
        self.boundary = boundary or ("local" if is_private(host) else "any")
        self.price: Price | None = FREE if price is None and self.boundary == "local" else price
        self._root = self.base_url.removesuffix("/v1")
        self._said = Said.parse(capabilities or {})
        self._context_tokens = _positive_int("context_tokens", context_tokens)
        self._tokenizer = tokenizer
        self._own = OwnFields(priority, cache_salt)
        sent = request_headers(api_key, headers or {})
        self._failures = Failures(
            backend=self.name,
            model=model,
            url=self.base_url,
            secrets=secrets_in(sent),
        )
        self._read_s = _seconds("read_s", read_s)
        self._http = Http(
            headers=sent,
            connect_s=_seconds("connect_s", connect_s),
            read_s=self._read_s,
            trust_env=trust_env,
        )
        self._known: Facts | None = None
        self._renderer: ServerRenderer | None = None
        self._probing: dict[asyncio.AbstractEventLoop, _Probing] = {}

    def __repr__(self) -> str:
        return f"VllmBackend({self.model!r}, base_url={self.base_url!r})"

    async def connect(self) -> Capabilities:
        """Ask the server what it is, once; those who ask meanwhile share the answer. Costs no tokens.

        Raises:
            ConnectFailed: no answer, or none of such a server.
            Authentication: the key is missing or was refused.
            ModelNotFound: the server serves other models; the text lists them.
            BackendError: the server failed.
            ConfigError: the tokenizer that was named is not there.
        """
        return (await self._facts()).can

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Send the call: messages to the chat endpoint, token ids to the completion endpoint.

        Closing the iterator closes the connection, which makes the server stop.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures` for which error means what.
            ContextOverflow: the server says that prompt and limits do not fit.
            ConfigError: ``extra_body`` would lift a limit.
            InvalidRequest: the completion endpoint cannot do what the call asks, or JSON cannot say it.
        """
        facts = await self._facts()
        own = dict(self._own.of(call))
        if facts.thinking_budget:
            own |= thinking_budget(call, dialect=facts.dialect, renderer=facts.renderer)
        body = request_body(call, model=self.model, dialect=facts.dialect, own=own)
        if facts.thinking_budget is False and body.get("thinking_token_budget") is not None:
            raise self._failures.rejected("the server was not started for thinking_token_budget")
        reader = Reader(call, dialect=facts.dialect)
        response = await self._send("POST", self.base_url + path_of(call), body)
        try:
            if call.whole:
                for chunk in await self._whole(response, reader, body):
                    yield chunk
                return
            if response.content_type != "text/event-stream":
                raise await self._no_stream(response, body)
            parser = EventParser()
            async for data in response.content.iter_any():
                for chunk in self._read(reader, parser.feed(data), body):
                    yield chunk
                if reader.done:
                    break
            for chunk in self._read(reader, parser.close(), body):
                yield chunk
            self._check_end(reader)
            await drain(response)
        except LineTooLong as error:
            raise self._failures.broken(f"{error} in its answer") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.cut(error) from _harmless(error)
        finally:
            response.close()

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        """Prompt tokens by the local tokenizer, else by the server's ``/tokenize``, else None.

        Args:
            messages: the conversation.
            tools: what is offered along with it.
            thinking: as in the call; a template may write more where thinking is off.
        """
        facts = await self._facts()
        kwargs = {"enable_thinking": thinking} if thinking is not None and facts.dialect.switch_thinking else {}
        if facts.renderer is not None and not any(message.images for message in messages):
            return len(await asyncio.to_thread(facts.renderer.chat_ids, messages, tools=tools, **kwargs))
        if not facts.tokenize:
            return None
        asked: dict[str, Any] = {"model": self.model, "messages": [message_on_wire(message) for message in messages]}
        if tools:
            asked["tools"] = list(tools)
        if kwargs:
            asked["chat_template_kwargs"] = kwargs
        ids = await tokenize(self._ask, asked)
        return None if ids is None else len(ids)

    async def tokenizer(self) -> TokenizerFiles | None:
        """The local tokenizer and template, where they were found and are the server's."""
        return (await self._facts()).files

    async def server_renderer(self) -> ServerRenderer | None:
        """Renders the think handoff by the server's own template and tokenizer, None where it does not share them.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
            BackendError: the server does not answer.
        """
        facts = await self._facts()
        if not facts.tokenize or not facts.can.prompt_ids:
            return None
        if self._renderer is None:
            self._renderer = await ServerRenderer.load(self._ask, self.model)
        return self._renderer

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        probing = self._probing.pop(asyncio.get_running_loop(), None)
        if probing is not None:
            probing.task.cancel()
        await self._http.aclose()

    async def _facts(self) -> Facts:
        if self._known is not None:
            return self._known
        loop = asyncio.get_running_loop()
        probing = self._probing.get(loop)
        if probing is None:
            probing = self._probing[loop] = _Probing(asyncio.create_task(self._probe()))
        probing.waiting += 1
        try:
            # Shielded: that one of those who wait is cancelled must not end it for the others.
            self._known = await asyncio.shield(probing.task)
        finally:
            probing.waiting -= 1
            if not probing.waiting:
                probing.task.cancel()
            if self._probing.get(loop) is probing and (probing.task.done() or not probing.waiting):
                del self._probing[loop]
        return self._known

    async def _probe(self) -> Facts:
        return await probe(
            self._ask,
            model=self.model,
            said=self._said,
            context_tokens=self._context_tokens,
            tokenizer=self._tokenizer,
            failures=self._failures,
        )

    async def _ask(self, path: str, body: Json | None) -> Any:
        """One JSON answer of an endpoint other than those that generate."""
        url = self._root + path[1:] if path.startswith("//") else self.base_url + path
        try:
            async with asyncio.timeout(min(self._read_s, _ASK_S)):
                response = await self._send("GET" if body is None else "POST", url, body)
                try:
                    return json.loads(await read_body(response))
                finally:
                    response.close()
        except _UNREADABLE:
            raise self._failures.wrong_url(f"its answer to {path.replace('//', '/')} is no JSON") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)

    async def _send(self, method: str, url: str, body: Json | None) -> ClientResponse:
        """An answer that says yes; every other one is raised."""
        payload = None if body is None else encode(body)
        try:
            response = await self._http.send(method, url, payload)
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)
        if 200 <= response.status < 300:
            return response
        try:
            said = await read_body(response, limit=_ERROR_BYTES)
        except (*TRANSPORT_ERRORS, BodyTooLong):
            said = b""
        finally:
            response.close()
        raise self._failures.status(response.status, response.headers, said, body or {})

    async def _whole(self, response: ClientResponse, reader: Reader, body: Json) -> list[Chunk]:
        try:
            value = from_json(await read_body(response))
            if isinstance(value, dict) and value.get("error"):
                raise self._failures.event(value["error"], body, begun=False)
            chunks = reader.whole(value)
        except OutputFailed as error:
            raise self._failures.broken(str(error)) from None
        except _UNREADABLE as error:
            reason = (
                str(error)
                if isinstance(error, BodyTooLong)
                else f"its answer is no completion ({response.content_type})"
            )
            raise self._failures.broken(reason) from None
        self._check_end(reader)
        return chunks

    async def _no_stream(self, response: ClientResponse, body: Json) -> BackendError | Exception:
        """Why an answer is no stream: an error that came with status 200, or something else altogether."""
        try:
            value = json.loads(await read_body(response, limit=_ERROR_BYTES))
        except _UNREADABLE:
            value = None
        if isinstance(value, dict) and value.get("error"):
            return self._failures.event(value["error"], body, begun=False)
        return self._failures.broken(f"a stream was asked for, and its answer is {response.content_type or 'untyped'}")

    def _read(self, reader: Reader, events: Sequence[bytes], body: Json) -> Iterator[Chunk]:
        """The chunks of events up to the one that says that the stream is over."""
        for event in events:
            if reader.done or event == b"[DONE]":
                reader.done = True
                return
            try:
                value = from_json(event)
                error = value.get("error")
                chunks = () if error else reader.event(value)
            except OutputFailed as failed:
                raise self._failures.broken(str(failed)) from None
            except _UNREADABLE as unreadable:
                raise self._failures.broken(
                    f"a piece of its answer cannot be read ({type(unreadable).__name__})"
                ) from None
            if error:
                raise self._failures.event(error, body, begun=reader.begun)
            yield from chunks

    def _check_end(self, reader: Reader) -> None:
        if reader.unfinished:
            raise self._failures.broken("its answer ended without saying why")


def connect(model: str, options: Mapping[str, object]) -> VllmBackend:
    """``vllm/MODEL``, with the options of `VllmBackend`; sends nothing yet.

    Raises:
        ConfigError: another option, or one that cannot work.
    """
    return VllmBackend(model, **checked("vllm", options, _OPTIONS))


_OPTIONS: Known = {
    "base_url": (str,),
    "api_key": (),  # checked where it is used, so that no error can quote it
    "boundary": (str,),
    "price": get_args(Price),
    "context_tokens": (int,),
    "tokenizer": (str,),
    "capabilities": (Mapping,),
    "priority": (int,),
    "cache_salt": (str,),
    "connect_s": (int, float),
    "read_s": (int, float),
    "headers": (Mapping,),
    "trust_env": (bool,),
}


def _positive_int(name: str, value: int | None) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} must be a whole number, at least 1, got {value!r}")
    return value


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a number of seconds above 0, got {value!r}")
    return float(value)


def _harmless(error: Exception) -> Exception | None:
    """The cause to show; not one that holds the request's headers, and with them the key."""
    return None if hasattr(error, "request_info") else error
