"""Models in this process, through Hugging Face transformers.

>>> from duet_sdk import DuetClient
>>> with DuetClient("transformers/embedded", "transformers/embedded") as duet:  # doctest: +SKIP
...     duet.chat("What is the capital of France?", mode="generator").text
'The capital of France is Paris.'
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event
from typing import TYPE_CHECKING, Any, get_args

from typing_extensions import override

from duet_sdk import models
from duet_sdk._tasks import to_the_end
from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.options import Known, check_window, checked_local
from duet_sdk.errors import (
    BackendError,
    DuetError,
    MissingExtra,
    Rejected,
    StreamBroken,
)
from duet_sdk.models.sources import local_library
from duet_sdk.pricing import FREE, Price

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from duet_sdk.backends.local.generation import LoadedModel
    from duet_sdk.rendering import TokenizerFiles
    from duet_sdk.reply import StageUsage
    from duet_sdk.types import Json, Message

_log = logging.getLogger(__name__)

_WORKERS = 4
"""Calls that run at the same time; more share the same cores and only wait for one another."""
_LEAVE_S = 30.0
"""Longest wait for a stopped call to leave the model, which it does before its next layer."""
_OPTIONS: Known = {
    "revision": (str,),
    "dtype": (str,),
    "device": (str,),
    "price": get_args(Price),
    "context_tokens": (int,),
}


class TransformersBackend(Backend):
    """A model in this process.

    Args:
        model: ``embedded``, a hub id, or a folder's path (``/``, ``.`` or ``~`` in front, or it exists).
        revision: branch, tag or commit of a hub id; None for the default branch.
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``; None for bfloat16 on a CPU, else ``auto``.
        device: a torch device; None for the GPU where there is one, else the CPU.
        price: what a call costs; a local model is free unless priced.
        context_tokens: a window smaller than the model's own; None for its own.
    """

    name = "transformers"
    boundary = "local"

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        price: Price = FREE,
        context_tokens: int | None = None,
    ) -> None:
        self.model = model
        self._price: Price | None = price
        self._context_tokens = context_tokens
        self._revision = revision
        self._dtype = dtype
        self._device = device
        self._loaded: LoadedModel | None = None
        self._loading = asyncio.Lock()
        self._workers: ThreadPoolExecutor | None = None
        self._running: dict[asyncio.Future[None], Event] = {}

    @property
    @override
    def price(self) -> Price | None:
        return self._price

    async def connect(self) -> Capabilities:
        """Load the model, fetching or converting it first where it must be; the event loop stays free.

        Raises:
            ModelNotFound: the model is not there, or incomplete.
            ConfigError: it is refused (pickled weights, its own code), or an option cannot work.
            BackendError: it cannot be fetched or loaded.
            MissingExtra: torch or transformers is not installed.
        """
        loaded = await self._ready()
        return Capabilities(
            context_tokens=self._context_tokens or loaded.context_tokens,
            prompt_ids=True,
            logprobs=True,
            switch_thinking=loaded.files.switches_thinking,
            token_ids=True,
        )

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Generate in a worker thread: one chunk per token, each with the usage so far.

        Raises:
            Rejected: the call asks for what this backend cannot do.
            ContextOverflow: prompt and ``max_tokens`` do not fit the model's window.
            StreamBroken: the model failed after it had written something.
            BackendError: it failed before.
        """
        self._refuse(call)
        loaded = await self._ready()
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        stopped = Event()

        def emit(chunk: Chunk) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        def ended(running: asyncio.Future[None]) -> None:
            self._running.pop(running, None)
            chunks.put_nowait(None)

        if self._workers is None:
            self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="duet-transformers")
        job = self._workers.submit(self._run, loaded, call, emit, stopped)
        running = asyncio.wrap_future(job)
        self._running[running] = stopped
        running.add_done_callback(ended)
        written: list[str] = []
        usage, unfinished = None, call.n
        try:
            while (chunk := await chunks.get()) is not None:
                written.append(chunk.text)
                usage = chunk.usage
                unfinished -= chunk.finish_reason is not None
                yield chunk
            if unfinished and stopped.is_set():
                raise self._error("the backend was closed while the model ran", written, usage)
            try:
                await running
            except DuetError:
                raise
            except Exception as err:  # the edge of the worker thread
                raise self._error(f"the model failed{_kind(err)}", written, usage) from err
        finally:
            stopped.set()
            job.cancel()
            await _left(running)

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int:
        """Prompt tokens of these messages by the model's own tokenizer and chat template."""
        loaded = await self._ready()
        extra = loaded.files.thinking_kwargs(thinking)
        return await asyncio.to_thread(loaded.renderer.count, messages, tools=tools, **extra)

    async def tokenizer(self) -> TokenizerFiles:
        """The tokenizer and the chat template in the model's folder."""
        return (await self._ready()).files

    async def aclose(self) -> None:
        """Stop what runs, wait for it, and let go of the weights; they are freed with their last holder."""
        for stopped in self._running.values():
            stopped.set()
        workers, self._workers, self._loaded = self._workers, None, None
        if workers is not None:
            await asyncio.to_thread(workers.shutdown, cancel_futures=True)

    async def _ready(self) -> LoadedModel:
        async with self._loading:
            if self._loaded is None:
                self._loaded = await asyncio.to_thread(self._load)
            return self._loaded

    def _load(self) -> LoadedModel:
        for library in ("torch", "transformers", "tokenizers", "safetensors"):
            local_library(library)
        from duet_sdk.backends.local.generation import load

        folder = models.locate(self.model, revision=self._revision)
        models.check_folder(folder)
        try:
            return load(folder, dtype=self._dtype, device=self._device)
        except DuetError:
            raise
        except Exception as err:  # whatever a library raises for a broken model
            raise self._error(f"the model in {folder} cannot be loaded{_kind(err)}") from err

    def _run(self, loaded: LoadedModel, call: Call, emit: Any, stopped: Event) -> None:
        from duet_sdk.backends.local.generation import generate

        prompt = call.prompt_ids
        if not prompt:
            prompt = loaded.renderer.chat_ids(call.messages, **loaded.files.thinking_kwargs(call.thinking))
        window = self._context_tokens or loaded.context_tokens
        check_window(self.model, prompt_tokens=len(prompt), max_tokens=call.max_tokens, window=window)
        generate(loaded, prompt, call, emit, stopped)

    def _error(self, message: str, written: Sequence[str] = (), usage: StageUsage | None = None) -> BackendError:
        if usage is None:
            return BackendError(message, backend=self.name, model=self.model)
        partial = "".join(written)
        return StreamBroken(message, partial=partial, usage=usage, backend=self.name, model=self.model)

    def _refuse(self, call: Call) -> None:
        unable = {
            "extra_body is for servers": call.sampling.extra_body is not None,
            "tools need a server": bool(call.tools),
            "response_format needs a server": call.response_format is not None,
            "images need a server": any(message.images for message in call.messages),
        }
        for reason, asked in unable.items():
            if asked:
                raise Rejected(f"{reason}, which {self.name} does not support", backend=self.name, model=self.model)


def connect(model: str, options: Mapping[str, object]) -> TransformersBackend:
    """``transformers/MODEL``, with the options of `TransformersBackend`; loads nothing yet.

    Raises:
        ConfigError: another option, or one of the wrong type.
        MissingExtra: torch or transformers is not installed.
    """
    for library in ("torch", "transformers"):
        if find_spec(library) is None:
            raise MissingExtra(f"backend 'transformers' ({library} is missing)", extra="local")
    return TransformersBackend(model, **checked_local(TransformersBackend.name, options, _OPTIONS))


def _kind(err: Exception) -> str:
    """What may be shown of a library's error: not its own words, which may quote a prompt."""
    # torch raises a plain RuntimeError when the CPU's memory is used up.
    if isinstance(err, MemoryError) or "OutOfMemory" in type(err).__name__ or "allocate memory" in str(err):
        return ": out of memory; lower the limits, free memory on the device, or use a smaller model or dtype"
    return f" ({type(err).__name__})"


async def _left(running: asyncio.Future[None]) -> None:
    """Wait until the worker is out of the model: what follows may need the memory that it holds."""
    try:
        await to_the_end(asyncio.wait({running}, timeout=_LEAVE_S))
    finally:
        if not running.done():
            _log.warning("a stopped call is still running after %.0f s; it ends at the model's next layer", _LEAVE_S)
        elif not running.cancelled():
            running.exception()  # looked at, so that asyncio does not report it as forgotten
