"""Models behind an OpenAI-compatible HTTP server: vLLM with all it can do, any other with fewer capabilities.

>>> from duet_sdk import DuetClient
>>> with DuetClient(generator="vllm/Qwen/Qwen3-0.6B@http://127.0.0.1:8101/v1") as duet:  # doctest: +SKIP
...     duet.chat("What is the capital of France?", mode="generator").text
'The capital of France is Paris.'
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from typing_extensions import override

from duet_sdk._tasks import apart
from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.options import Known, checked
from duet_sdk.backends.provider_parts import own_parts
from duet_sdk.backends.server.address import DEFAULT_URL, Secret, checked_url, is_private, request_headers, secrets_in
from duet_sdk.backends.server.client import Generation, Prepare, Server
from duet_sdk.backends.server.decoding import Decoder
from duet_sdk.backends.server.fields import OwnFields, rank_headers, thinking_budget
from duet_sdk.backends.server.http import Http
from duet_sdk.backends.server.knowledge import Knowledge
from duet_sdk.backends.server.probing import Facts, Said, probe, tokenize
from duet_sdk.backends.server.remote import Remote
from duet_sdk.backends.server.renderer import ServerRenderer
from duet_sdk.backends.server.route import route_to
from duet_sdk.backends.server.scale_out import Derender
from duet_sdk.backends.server.think_placement import LocalWriter, ThinkPlacer
from duet_sdk.backends.server.wire import encode, encoded_at_once, path_of, request_body
from duet_sdk.backends.shared import Shared
from duet_sdk.backends.turns import Form, WireTurns
from duet_sdk.errors import BackendError, ConfigError, InvalidRequest
from duet_sdk.pricing import FREE, Price
from duet_sdk.think_tags import is_left_open

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from duet_sdk.rendering import TokenizerFiles
    from duet_sdk.types import Json, Message

_log = logging.getLogger(__name__)

_PROMPT_END = 32
"""Ids at the end of a prompt that are read for a tag: room for the longest of them where it is no token of its own."""


class VllmBackend(Backend):
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
        capabilities: what is known of the server by hand, by the names of `duet_sdk.backends.server.probing.Said`.
        priority: vLLM's ``priority`` of every call, lower is earlier; None sends none.
        cache_salt: vLLM's ``cache_salt`` of every call, None sends none: calls share prefix caches with those of the
            same salt only. ``{tenant}`` in it stands for a hash of the request's tenant.
        data_parallel_ranks: how many data-parallel engines share the address, each with a prefix cache of its own; None
            asks the server. The calls of a session go to one of them (``X-data-parallel-rank``); 1 sends no rank.
        connect_s: longest wait for a connection, in seconds.
        read_s: longest wait for an answer to go on, in seconds; what says nothing (comments, empty pieces) does not
            count. A whole answer says nothing until it is complete, and a loaded server may let a prompt wait long.
        headers: sent with every request; never shown.
        proxy: URL of the proxy that leads to the server; None for none, or the environment's.
        trust_env: whether the proxy is taken from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``,
            ``NO_PROXY``) where ``proxy`` names none.
        ca_file: PEM file, or a folder, with authorities that are trusted in addition to those that this machine knows.
        cert_file: PEM file with the client's own certificate, for servers that want one.
        key_file: PEM file with its private key; None if it stands in ``cert_file``.

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
        data_parallel_ranks: int | None = None,
        connect_s: float = 10.0,
        read_s: float = 300.0,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> None:
        self.model = model
        self.base_url, host = checked_url(base_url)
        self.boundary = boundary or ("local" if is_private(host) else "any")
        self._own_price = price
        self._price: Price | None = FREE if price is None and self.boundary == "local" else price
        self._said = Said.parse(capabilities or {})
        self._context_tokens = _positive_int("context_tokens", context_tokens)
        self._tokenizer = tokenizer
        self._own = OwnFields(priority, cache_salt)
        self._salts_with: bytes | None = None
        self._ranks = _positive_int("data_parallel_ranks", data_parallel_ranks)
        sent = request_headers(api_key, headers or {})
        route = route_to(
            self.base_url, proxy=proxy, trust_env=trust_env, ca_file=ca_file, cert_file=cert_file, key_file=key_file
        )
        self._failures = Failures(
            backend=self.name,
            model=model,
            url=self.base_url,
            secrets=(*secrets_in(sent), *route.secrets),
        )
        read_s = _seconds("read_s", read_s)
        self._http = Http(headers=sent, connect_s=_seconds("connect_s", connect_s), read_s=read_s, route=route)
        self._facts = Knowledge(self._probe)
        self._server = Server(self.base_url, self._http, self._failures, read_s=read_s, knowledge=self._facts)
        self._derived_in = 0
        self._renderer = Shared(self._load_renderer)
        self._placer = Shared(self._load_placer)
        self._turns = WireTurns(self.endpoint_id, model)

    def __repr__(self) -> str:
        return f"VllmBackend({self.model!r}, base_url={self.base_url!r})"

    @property
    def price(self) -> Price | None:
        """What a call costs, None where unknown."""
        return self._price

    @property
    @override
    def own_price(self) -> Price | None:
        return self._own_price

    @override
    def keep_tenants_apart(self, secret: bytes) -> None:
        self._salts_with = secret

    async def connect(self) -> Capabilities:
        """Ask the server what it is, or tell what is known of it; those who ask meanwhile share the answer.

        Costs no tokens. What is known is good for some minutes, unless a connection fails or a refusal contradicts it.

        Raises:
            ConnectFailed: no answer, or none of such a server.
            Authentication: the key is missing or was refused.
            ModelNotFound: the server serves other models; the text lists them.
            BackendError: the server failed.
            ConfigError: the tokenizer that was named is not there.
        """
        return (self._facts.found or await self._facts.get()).can

    @override
    def batches(self, call: Call) -> AsyncGenerator[list[Chunk], None]:
        """Send the call: messages to the chat endpoint, token ids to the completion endpoint.

        The chunks of one network read come in one step. Closing the iterator closes the connection, which makes the
        server stop.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures` for which error means what.
            ContextOverflow: the server says that prompt and limits do not fit.
            ConfigError: ``extra_body`` would lift a limit.
            InvalidRequest: the completion endpoint cannot do what the call asks, or JSON cannot say it.
        """
        prepare = partial(self._request, call)
        return self._server.whole(prepare) if call.whole else self._server.streamed(prepare)

    @override
    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """As `batches`, one chunk at a time."""
        async with aclosing(self.batches(call)) as batches:
            async for chunks in batches:
                for chunk in chunks:
                    yield chunk

    async def _request(self, call: Call) -> Generation:
        facts = self._facts.found or await self._facts.get()
        own = self._own.of(call, self._salts_with if facts.is_vllm else None)
        if facts.thinking_budget:
            own |= thinking_budget(
                call,
                dialect=facts.dialect,
                renderer=facts.renderer,
                grammar_in_thinking=self._said.grammar_in_thinking,
            )
        turns, form = self._turns.of(call.messages), self._turns.form
        body = request_body(call, model=self.model, dialect=facts.dialect, own=own, turns=turns)
        if facts.thinking_budget is False and body.get("thinking_token_budget") is not None:
            raise self._failures.rejected("the server was not started for thinking_token_budget")
        derender = None
        if call.thought is not None and not call.thought.by_text:
            derender = Derender(self._server.ask, body, call.thought.prompt_ids)
        decoder = Decoder(call, dialect=facts.dialect, failures=self._failures, sent=body)
        again = partial(self._otherwise, call, form) if call.messages else None
        headers = rank_headers(call, self._ranks or facts.ranks)
        payload = encoded_at_once(call, body)
        if payload is None:
            characters = sum([len(message.text) for message in call.messages])
            payload = await apart(lambda: encode(body), characters=characters)
        return Generation(path_of(call), body, payload, decoder, derender, again, headers)

    def _otherwise(self, call: Call, form: Form, error: BackendError) -> Prepare | None:
        """The call with its messages as the server seems to want them; remembered for later ones."""
        if not self._turns.learns(call.messages, form, error):
            return None
        _log.info("%s/%s refuses the form of its messages; they are sent in another", self.name, self.model)
        return partial(self._request, call)

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        """Prompt tokens by the local tokenizer, else by the server's ``/tokenize``, else None."""
        facts = await self._facts.get()
        kwargs = {"enable_thinking": thinking} if thinking is not None and facts.dialect.switch_thinking else {}
        if facts.renderer is not None and not any(message.images for message in messages):
            read = await asyncio.to_thread(facts.renderer.chat_ids, messages, tools=tools, **kwargs)
            # The template writes some of what goes back, or none; a bound must not be too low.
            back = [part.text for m in messages if (part := own_parts(m, self.endpoint_id, self.model)) is not None]
            return len(read) + (await asyncio.to_thread(facts.renderer.count_text, "".join(back)) if back else 0)
        ids = await self.chat_ids(messages, tools=tools, **kwargs)
        return None if ids is None else len(ids)

    async def chat_ids(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), **template_kwargs: object
    ) -> tuple[int, ...] | None:
        """Ids of the prompt that the server makes of these messages, None where it does not tell.

        Raises:
            BackendError: the server cannot be reached.
        """
        facts = await self._facts.get()
        if not facts.tokenize:
            return None
        asked: dict[str, Any] = {"model": self.model, "messages": self._turns.of(messages)}
        if tools:
            asked["tools"] = list(tools)
        if template_kwargs:
            asked["chat_template_kwargs"] = template_kwargs
        ids = await tokenize(self._server.ask, asked)
        return None if ids is None else tuple(ids)

    @property
    @override
    def shortfalls(self) -> Sequence[str]:
        return self._facts.found.shortfalls if self._facts.found is not None else ()

    async def tokenizer(self) -> TokenizerFiles | None:
        """The local tokenizer and template, where they were found and are the server's."""
        return (await self._facts.get()).files

    @override
    async def control_strings(self, written: Collection[str]) -> frozenset[str]:
        """Those of these strings that ``/tokenize`` makes control tokens of; empty where the server does not tell."""
        if not (await self._facts.get()).tokenize:
            return frozenset()
        try:
            return await Remote(self._server.ask, self.model).spoken(written)
        except (BackendError, ConfigError) as error:
            _log.debug("/tokenize does not tell control strings (%s)", type(error).__name__)
            return frozenset()

    @override
    async def opens_thinking(self, *, thinking: bool | None = None) -> bool:
        """Whether the server's template opens a block, by the end of a prompt as ``/detokenize`` writes it."""
        facts = await self._facts.get()
        if not facts.tokenize:
            return False
        kwargs = {"enable_thinking": thinking} if thinking is not None and facts.dialect.switch_thinking else None
        remote = Remote(self._server.ask, self.model)
        try:
            ids = await remote.chat_ids([{"role": "user", "content": "?"}], kwargs=kwargs)
            return is_left_open(await remote.text(ids[-_PROMPT_END:]))
        except (BackendError, ConfigError, InvalidRequest) as error:
            _log.debug("the end of a prompt is not told (%s)", type(error).__name__)
            return False

    async def server_renderer(self) -> ServerRenderer | None:
        """Renders the think handoff by the server's own template and tokenizer, None where it does not share them.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
            BackendError: the server does not answer.
        """
        facts = await self._facts.get()
        if not facts.tokenize or not facts.can.prompt_ids:
            return None
        self._forget_derived()
        return await self._renderer.get()

    async def think_placer(self) -> ThinkPlacer | None:
        """Puts a signal into a chat, so that tools can be called after it; None where the server has no way for it.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
            BackendError: the server does not answer.
        """
        await self._facts.get()
        self._forget_derived()
        return await self._placer.get()

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        for shared in (self._facts, self._renderer, self._placer):
            shared.cancel()
        await self._http.aclose()

    @property
    @override
    def epoch(self) -> int:
        return self._facts.epoch

    async def _probe(self) -> Facts:
        facts = await probe(
            self._server.ask,
            model=self.model,
            said=self._said,
            context_tokens=self._context_tokens,
            tokenizer=self._tokenizer,
            failures=self._failures,
        )
        self._server.pulse.ends_at_once = facts.is_vllm
        return facts

    def _forget_derived(self) -> None:
        """What was made by the template and tokenizer of a server that has changed since is made anew."""
        if self._derived_in != self._facts.epoch:
            self._derived_in = self._facts.epoch
            self._renderer.forget()
            self._placer.forget()

    async def _load_renderer(self) -> ServerRenderer:
        return await ServerRenderer.load(self._server.ask, self.model)

    async def _load_placer(self) -> ThinkPlacer | None:
        facts = await self._facts.get()
        if not facts.tokenize:
            return None
        writer = await self._renderer.get() if facts.renderer is None else LocalWriter(facts.renderer)
        return await ThinkPlacer.load(self._server.ask, self.model, writer)


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
    "data_parallel_ranks": (int,),
    "connect_s": (int, float),
    "read_s": (int, float),
    "headers": (Mapping,),
    "proxy": (str,),
    "trust_env": (bool,),
    "ca_file": (str,),
    "cert_file": (str,),
    "key_file": (str,),
}


def _positive_int(name: str, value: int | None) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} must be a whole number, at least 1, got {value!r}")
    return value


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a number of seconds above 0, got {value!r}")
    return float(value)
