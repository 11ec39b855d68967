"""Models in this process, through vLLM's own engine: no server, no HTTP.

>>> from duet_sdk import DuetClient
>>> with DuetClient("vllm-engine/Qwen/Qwen3-4B", "vllm-engine/Qwen/Qwen3-0.6B") as duet:  # doctest: +SKIP
...     duet.chat("How many primes are below 60?").text
'There are 17 primes below 60.'
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, get_args

from typing_extensions import override

from duet_sdk import models
from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.local.vllm_params import chunk_of, refusals, sampling_params
from duet_sdk.backends.options import Known, check_window, checked_local
from duet_sdk.backends.redaction import redacted, texts_of
from duet_sdk.errors import BackendError, ConfigError, MissingExtra, Rejected, StreamBroken
from duet_sdk.pricing import FREE, Price
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, Message

EngineArgs = Mapping[str, object]

_OPTIONS: Known = {
    "revision": (str,),
    "dtype": (str,),
    "context_tokens": (int,),
    "price": get_args(Price),
    "engine_args": (Mapping,),
}
_OURS = {"model", "tokenizer", "trust_remote_code", "revision", "dtype", "max_model_len"}
"""Engine arguments that are set here, or refused."""


@dataclass(frozen=True, slots=True)
class _Engine:
    """A started engine with what prompts are made with."""

    engine: Any
    files: TokenizerFiles
    renderer: Renderer
    context_tokens: int
    special: Mapping[str, int]
    """Special tokens, which never show up in the text."""
    defaults: Mapping[str, object]
    """The model's own sampling, as its ``generation_config.json`` says."""


class VllmEngine(Backend):
    """A model in an engine that this process starts, a few seconds to minutes at `connect`.

    A script that uses it needs ``if __name__ == "__main__":``, since the engine runs in a process of its own that
    imports the script again.

    Args:
        model: ``embedded``, a hub id, or a folder's path (``/``, ``.`` or ``~`` in front, or it exists).
        revision: branch, tag or commit of a hub id; None for the default branch.
        dtype: as vLLM names them; None for the checkpoint's own.
        context_tokens: window for prompt and output together; None for the model's own.
        price: what a call costs; a local model is free unless priced.
        engine_args: further fields of vLLM's ``AsyncEngineArgs``, such as ``tensor_parallel_size``.
    """

    name = "vllm-engine"
    boundary = "local"

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        context_tokens: int | None = None,
        price: Price = FREE,
        engine_args: EngineArgs | None = None,
    ) -> None:
        if taken := _OURS & set(engine_args or {}):
            raise ConfigError(
                f"engine_args must not contain {', '.join(sorted(taken))}: model code is never trusted, and "
                "the others have options of their own (revision, dtype, context_tokens)"
            )
        self.model = model
        self._price: Price | None = price
        self._revision = revision
        self._args = {
            **(engine_args or {}),
            **({} if dtype is None else {"dtype": dtype}),
            **({} if context_tokens is None else {"max_model_len": context_tokens}),
        }
        self._started: _Engine | None = None
        self._starting = asyncio.Lock()
        self._running: set[str] = set()
        self._numbers = itertools.count()

    @property
    @override
    def price(self) -> Price | None:
        return self._price

    async def connect(self) -> Capabilities:
        """Start the engine, fetching or converting the model first where it must be; the event loop stays free.

        Raises:
            ModelNotFound: the model is not there, or incomplete.
            ConfigError: it is refused (pickled weights, its own code), or an argument of the engine is unknown.
            BackendError: it cannot be fetched, or the engine does not start.
            MissingExtra: vLLM is not installed.
        """
        started = await self._ready()
        return Capabilities(
            context_tokens=started.context_tokens,
            prompt_ids=True,
            response_format=True,
            logprobs=True,
            switch_thinking=started.files.switches_thinking,
            token_ids=True,
        )

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Generate: each chunk has its token ids, and the usage so far.

        ``sampling.extra_body`` sets further fields of vLLM's ``SamplingParams``.

        Raises:
            Rejected: the call asks for what this backend cannot do, or vLLM refuses a value.
            ContextOverflow: prompt and ``max_tokens`` do not fit the window.
            StreamBroken: the engine failed after something was written.
            BackendError: it failed before.
        """
        self._refuse(call)
        started = await self._ready()
        prompt = self._prompt(started, call)
        try:
            params = sampling_params(call, defaults=started.defaults, special=started.special)
        except refusals() as err:
            words = redacted(str(err), texts=texts_of({"messages": [one.on_wire() for one in call.messages]}))
            raise Rejected(f"vLLM rejected the sampling parameters: {words}", **self._facts()) from err
        request = f"duet-{next(self._numbers)}"
        usage, begun, aborted = StageUsage(input_tokens=len(prompt)), False, False
        self._running.add(request)
        try:
            async with aclosing(started.engine.generate({"prompt_token_ids": prompt}, params, request)) as outputs:
                async for output in outputs:
                    usage = replace(usage, cached_tokens=output.num_cached_tokens or 0)
                    for one in output.outputs:
                        if one.finish_reason == "abort":
                            aborted = True
                            break
                        begun = True
                        usage = replace(usage, output_tokens=usage.output_tokens + len(one.token_ids))
                        yield chunk_of(one, usage, top=call.sampling.logprobs)
        except Exception as err:  # the edge of the engine; its words may quote a prompt
            if isinstance(err, refusals()) and not begun:
                raise Rejected(f"vLLM rejected the call ({type(err).__name__})", **self._facts()) from err
            if started.engine.errored and self._started is started:
                self._started = None  # the next call starts another
                await asyncio.to_thread(started.engine.shutdown)
            raise self._error(f"the engine failed ({type(err).__name__})", begun=begun, usage=usage) from err
        finally:
            self._running.discard(request)
        if aborted:
            raise self._error("the backend was closed while the model ran", begun=begun, usage=usage)

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int:
        """Prompt tokens of these messages by the model's own tokenizer and chat template."""
        started = await self._ready()
        extra = started.files.thinking_kwargs(thinking)
        return await asyncio.to_thread(started.renderer.count, messages, tools=tools, **extra)

    async def tokenizer(self) -> TokenizerFiles:
        """The tokenizer and the chat template in the model's folder."""
        return (await self._ready()).files

    async def aclose(self) -> None:
        """Stop what runs, and end the engine's processes."""
        started, self._started = self._started, None
        if started is not None:
            if not started.engine.errored:
                await started.engine.abort(list(self._running))
            await asyncio.to_thread(started.engine.shutdown)

    # Inside.

    async def _ready(self) -> _Engine:
        async with self._starting:
            if self._started is None:
                starting = asyncio.ensure_future(asyncio.to_thread(self._start))
                try:
                    self._started = await asyncio.shield(starting)
                except asyncio.CancelledError:
                    starting.add_done_callback(_end)  # the thread goes on; nobody waits for its engine any more
                    raise
            return self._started

    def _start(self) -> _Engine:
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as err:
            raise MissingExtra(f"running vLLM in this process ({err.name} is missing)", extra="vllm-engine") from err
        folder = models.locate(self.model, revision=self._revision)
        models.check_folder(folder)
        files = TokenizerFiles.from_folder(folder)
        try:
            args = AsyncEngineArgs(**{"model": str(folder), "disable_log_stats": True, **self._args})
        except TypeError as err:
            raise ConfigError(f"vLLM does not know an argument of engine_args: {err}") from err
        try:
            engine = AsyncLLM.from_engine_args(args)
        except Exception as err:  # whatever vLLM raises for a model or machine that it cannot use
            raise BackendError(
                f"vLLM's engine did not start ({type(err).__name__}); see its log", **self._facts()
            ) from err
        config = engine.vllm_config.model_config
        added = json.loads(files.tokenizer_json).get("added_tokens", [])
        special = {token["content"]: token["id"] for token in added if token.get("special")}
        return _Engine(engine, files, Renderer(files), config.max_model_len, special, config.get_diff_sampling_param())

    def _refuse(self, call: Call) -> None:
        unable = {
            "tool calls need a server that parses them": bool(call.tools),
            "images need a server": any(message.images for message in call.messages),
        }
        for reason, asked in unable.items():
            if asked:
                raise Rejected(f"{reason}, which {self.name} does not support", **self._facts())

    def _prompt(self, started: _Engine, call: Call) -> list[int]:
        """The prompt's ids; raises ContextOverflow."""
        prompt = call.prompt_ids
        if not prompt:
            prompt = started.renderer.chat_ids(call.messages, **started.files.thinking_kwargs(call.thinking))
        check_window(self.model, prompt_tokens=len(prompt), max_tokens=call.max_tokens, window=started.context_tokens)
        return list(prompt)

    def _facts(self) -> dict[str, Any]:
        return {"backend": self.name, "model": self.model}

    def _error(self, message: str, *, begun: bool, usage: StageUsage) -> BackendError:
        if begun:
            return StreamBroken(message, usage=usage, **self._facts())
        return BackendError(message, **self._facts())


def connect(model: str, options: Mapping[str, object]) -> VllmEngine:
    """``vllm-engine/MODEL``, with the options of `VllmEngine`; starts nothing yet.

    Raises:
        ConfigError: another option, or one of the wrong type.
        MissingExtra: vLLM is not installed.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise MissingExtra("backend 'vllm-engine' (vllm is missing)", extra="vllm-engine")
    return VllmEngine(model, **checked_local(VllmEngine.name, options, _OPTIONS))


def _end(starting: asyncio.Future[_Engine]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        threading.Thread(target=starting.result().engine.shutdown, name="duet-vllm-engine").start()
