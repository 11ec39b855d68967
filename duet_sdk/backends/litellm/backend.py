"""Remote models of any provider that LiteLLM knows: ``litellm/<provider>/<model>``.

>>> from duet_sdk import DuetClient
>>> with DuetClient(generator="litellm/openai/gpt-4o-mini") as duet:  # doctest: +SKIP
...     duet.chat("What is the capital of France?", mode="generator").text
'The capital of France is Paris.'
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import aclosing
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from typing_extensions import override

from duet_sdk.backends.answers.reader import Reader
from duet_sdk.backends.answers.unreadable import Unreadable
from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk, endpoint_id
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.litellm.catalogue import ModelFacts, facts_of
from duet_sdk.backends.litellm.connections import Clients, load, refusing_redirects
from duet_sdk.backends.litellm.errors import event_of, is_silence, redirect_of, refusal_of
from duet_sdk.backends.litellm.wire import request_of, value_of
from duet_sdk.backends.options import Known, checked
from duet_sdk.backends.progress import Progress
from duet_sdk.backends.turns import WireTurns
from duet_sdk.environment import secrets
from duet_sdk.errors import BackendError, ConfigError, DuetError, MissingExtra, Rejected, StreamBroken
from duet_sdk.pricing import Price

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from decimal import Decimal

    from pydantic import SecretStr

    from duet_sdk.reply import StageUsage
    from duet_sdk.types import Json, Message

_OPTIONS: Known = {
    "api_key": (),  # a text, or a SecretStr
    "base_url": (str,),
    "boundary": (str,),
    "context_tokens": (int,),
    "price": get_args(Price),
    "timeout_s": (int, float),
}


class LiteLLMBackend(Backend):
    """A model behind ``litellm.acompletion``; LiteLLM's own retries and fallbacks are off.

    Args:
        model: ``provider/model``, as LiteLLM names it.
        api_key: the key; None leaves it to LiteLLM, which reads the provider's own environment variable.
        base_url: where the model is served; None for the provider's own address.
        boundary: how far requests travel; None for ``local`` on a loopback address, else ``any``.
        price: what a call costs; None takes LiteLLM's prices.
        context_tokens: the window; None asks LiteLLM's list of models.
        timeout_s: longest wait for the answer to go on, in seconds.
    """

    name = "litellm"

    def __init__(
        self,
        model: str,
        *,
        api_key: SecretStr | None = None,
        base_url: str | None = None,
        boundary: str | None = None,
        price: Price | None = None,
        context_tokens: int | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self.model = model
        self.boundary = boundary or ("local" if _is_loopback(base_url) else "any")
        self._api_key = api_key
        self._base_url = base_url
        self._own_price = price
        self._context_tokens = context_tokens
        self._timeout_s = timeout_s
        self._facts: ModelFacts | None = None
        self._clients = Clients()
        self._turns = WireTurns(self.endpoint_id, model)
        # Without a key given LiteLLM takes the environment's, and of several providers' which one is its own matter.
        keys = (api_key.get_secret_value(),) if api_key else secrets()
        self._failures = Failures(backend=self.name, model=model, url=base_url, secrets=keys)

    @property
    def price(self) -> Price | None:
        """The price given, else the highest price that LiteLLM lists for the model; None if it lists none."""
        return self._own_price or (self._facts.price if self._facts else None)

    @property
    @override
    def own_price(self) -> Price | None:
        return self._own_price

    @property
    @override
    def endpoint_id(self) -> str:
        """As `Backend.endpoint_id`, of the address that was given."""
        return endpoint_id(self.name, self._base_url)

    async def connect(self) -> Capabilities:
        """Import LiteLLM and look the model up in its list; nothing is sent.

        Raises:
            ConfigError: LiteLLM knows no such provider.
            MissingExtra: LiteLLM is not installed.
        """
        return (await self._known()).capabilities

    @override
    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        """Prompt tokens of texts for OpenAI's models; None for all others, and with tools, calls or images."""
        facts = await self._known()
        if not facts.counts or tools or any(m.images or m.tool_calls or m.tool_call_id for m in messages):
            return None
        return await asyncio.to_thread(facts.count, self._turns.of(messages))

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Call the model. Several outputs come whole, as LiteLLM does not tell their streams apart.

        Raises:
            BackendError: as it happens, also midway.
            ContextOverflow: the server says that the prompt does not fit.
        """
        if call.prompt_ids:
            raise Rejected("chat APIs take no token ids; use handoff='instruct'", backend=self.name, model=self.model)
        facts = await self._known()
        request, answer = await self._asked(call, facts)
        reader = Reader(call)
        if not request["stream"]:
            try:
                read = reader.whole(value_of(answer, with_usage=True))
            except Unreadable as error:
                raise self._failures.broken(str(error)) from None
            for chunk in self._billed(read, answer):
                yield chunk
            return
        async with aclosing(self._deltas(answer, request, reader)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _asked(self, call: Call, facts: ModelFacts) -> tuple[dict[str, Any], Any]:
        """The request in the form in which the provider takes it, and its answer."""
        litellm = load()
        while True:
            request, form = self._request(call, facts), self._turns.form
            try:
                with self._clients.watch():
                    return request, await litellm.acompletion(**request)
            except Exception as error:  # noqa: BLE001 - LiteLLM raises errors of any kind, and their words may quote the prompt
                failed = self._failed(error, request)
                if not isinstance(failed, BackendError) or not self._turns.learns(call.messages, form, failed):
                    raise failed from None

    def _request(self, call: Call, facts: ModelFacts) -> dict[str, Any]:
        return request_of(call, facts, turns=self._turns.of(call.messages)) | {
            "model": self.model,
            "api_key": self._api_key.get_secret_value() if self._api_key else None,
            "base_url": self._base_url,
            "timeout": self._timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            # With tools LiteLLM otherwise imports its MCP gateway, which fails without the package mcp.
            "_skip_mcp_handler": True,
            "stream": not (call.whole or call.n > 1),
        }

    async def _deltas(self, answer: Any, request: Json, reader: Reader) -> AsyncGenerator[Chunk, None]:
        written: list[str] = []
        usage: StageUsage | None = None
        first, progress, left_s = True, Progress(), self._timeout_s
        try:
            while True:
                began, timeout = monotonic(), asyncio.timeout(left_s)
                try:
                    # Some providers' requests are sent with the first step.
                    with self._clients.watch() if first else refusing_redirects():
                        async with timeout:
                            piece = await anext(answer)
                    first = False
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 - as above
                    if timeout.expired():
                        raise self._broken("nothing more arrived within timeout_s", written) from None
                    if not written:
                        raise self._failed(error, request) from None
                    refusal, partial = refusal_of(error), "".join(written)
                    raise self._failures.broke_off(refusal, request, partial=partial, usage=usage) from None
                try:
                    chunks = reader.event(value_of(piece, with_usage=_is_reported(answer)))
                except Unreadable as error:
                    raise self._broken(str(error), written) from None
                # What says nothing keeps the answer alive, but is no reason to wait longer.
                waited_s = monotonic() - began
                left_s = self._timeout_s if progress.is_made_by(chunks) else max(0.0, left_s - waited_s)
                for chunk in self._billed(chunks, piece):
                    written.append(chunk.text)
                    if chunk.finish_reason is not None and not _was_ended(answer):
                        raise self._broken("the stream ended without a finish reason", written)
                    usage = chunk.usage or usage
                    yield chunk
        finally:
            await answer.aclose()

    def _broken(self, message: str, written: Sequence[str]) -> StreamBroken:
        return StreamBroken(message, partial="".join(written), backend=self.name, model=self.model)

    def _failed(self, error: Exception, request: Json) -> DuetError:
        """The error of a call that failed before its answer began."""
        if (status := redirect_of(error)) is not None:
            return self._failures.status(status, {}, b"", request)
        if (sent := event_of(error)) is not None:
            return self._failures.event(sent, request, begun=False)
        refusal = refusal_of(error)
        if is_silence(error):
            return self._failures.no_answer(refusal, request)
        window = self._facts.capabilities.context_tokens if self._facts else None
        return self._failures.refused(refusal, request, context_tokens=window)

    def _billed(self, chunks: Sequence[Chunk], answer: Any) -> Sequence[Chunk]:
        """The same chunks; one with usage has what it cost."""
        for chunk in chunks:
            chunk.cost_usd = self._cost(getattr(answer, "usage", None)) if chunk.usage is not None else None
        return chunks

    def _cost(self, reported: object) -> Decimal | None:
        """LiteLLM's own calculation; None for a model it has no price for, or where another price was given."""
        if self._own_price is not None or self._facts is None:
            return None
        return self._facts.cost(reported)

    async def aclose(self) -> None:
        """Close the idle connections that LiteLLM opened for DUET."""
        await self._clients.aclose()

    async def _known(self) -> ModelFacts:
        if self._facts is None:
            # The import takes seconds, and what LiteLLM looks up may block.
            with refusing_redirects():  # LiteLLM may ask the server, as it does with Ollama
                self._facts = await asyncio.to_thread(facts_of, self.model, self._base_url, self._context_tokens)
        return self._facts


def connect(model: str, options: Mapping[str, object]) -> LiteLLMBackend:
    """``litellm/PROVIDER/MODEL`` with the options of `LiteLLMBackend`; imports and sends nothing yet.

    Raises:
        ConfigError: another option, or one of the wrong type; or a model that is a pair itself.
        MissingExtra: LiteLLM is not installed.
    """
    if model.startswith("duet/"):
        # The provider of integrations/litellm: a pair that names itself would call itself without end.
        raise ConfigError(f"litellm/{model} is itself a pair; name the models it is made of")
    if model.startswith("aiohttp_openai/"):
        raise ConfigError(f"litellm/{model} follows redirects, which carry key and prompt away; name it as openai/…")
    if find_spec("litellm") is None:
        raise MissingExtra("backend 'litellm'", extra="litellm")
    given = checked("litellm", options, _OPTIONS)
    if "api_key" in given:
        given["api_key"] = _secret(given["api_key"])
    return LiteLLMBackend(model, **given)


def _secret(key: object) -> SecretStr:
    from pydantic import SecretStr

    if isinstance(key, SecretStr):
        return key
    if isinstance(key, str):
        return SecretStr(key)
    raise ConfigError(f"option 'api_key' must be a str or SecretStr, got {type(key).__name__}")


def _is_reported(answer: Any) -> bool:
    """Whether the server has told its usage; a count of LiteLLM's own, where it has not, does not serve."""
    return any(getattr(seen, "usage", None) is not None for seen in answer.chunks)


def _was_ended(answer: Any) -> bool:
    """Whether the server said why the output ended; LiteLLM makes up ``stop`` for a stream that breaks off."""
    return bool(answer.received_finish_reason or answer.intermittent_finish_reason)


def _is_loopback(url: str | None) -> bool:
    host = urlsplit(url or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
