"""What a stage asks of a model, and what a model answers: the one interface of the pipeline to all backends."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

from typing_extensions import override

from duet_sdk.events import ToolCallDelta
from duet_sdk.policies import Sampling
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, Message, TokenLogprob

if TYPE_CHECKING:
    from duet_sdk.pricing import Price
    from duet_sdk.rendering import TokenizerFiles


trace_headers: ContextVar[Mapping[str, str] | None] = ContextVar("headers of the call's trace", default=None)
"""What a backend that speaks HTTP sends along, so that its server's spans belong to the call; set while it is sent."""


@lru_cache(maxsize=256)  # asked for every request, of a few endpoints
def endpoint_id(backend: str, address: str | None) -> str:
    """A digest of backend and address: history that travels must not show where a model is served."""
    return hashlib.sha256(f"{backend}\n{address or ''}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a connected model can do. The pipeline refuses what it cannot do before spending anything."""

    context_tokens: int | None = None
    """Window for prompt and output together, None if unknown."""
    prompt_ids: bool = False
    """Takes a prompt as token ids; the think handoff needs it."""
    tools: bool = False
    strict_tools: bool = False
    """Holds a tool's arguments to their schema where the tool says ``strict``, and only there."""
    response_format: bool = False
    images: bool = False
    logprobs: bool = False
    switch_thinking: bool = False
    """Long thinking can be turned on and off by request."""
    stop_texts: int | None = None
    """Most stop texts of a call, None for no limit that is known."""
    refused: tuple[str, ...] = ()
    """Fields of sampling that the model's server refuses, such as ``min_p`` together with a draft model."""
    token_ids: bool = False
    """Sends the id of every token that it writes, so that nothing has to be counted by its tokenizer."""


@dataclass(frozen=True, slots=True)
class Thought:
    """A signal that stands as closed thinking in the open turn of a chat; made by the backend that is to send it."""

    prompt_ids: tuple[int, ...]
    """The whole prompt, as the model will read it."""
    template: Json
    """Arguments for the server's chat template."""
    turn: str | None = None
    """The open turn as text, where the server goes on with that."""
    by_text: bool = False
    """Whether the server makes these ids from the text; else they are sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one model.

    Exactly one of ``messages`` and ``prompt_ids`` is set. ``max_tokens`` bounds each of the ``n`` outputs and is
    never exceeded by a backend that obeys; the pipeline counts and cuts all the same.
    """

    max_tokens: int
    messages: tuple[Message, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    n: int = 1
    thinking: bool | None = None
    """Turn long thinking on or off where the model can; None leaves the model's default."""
    tenant: str | None = None
    """Whose request it is: a backend may keep apart by it what servers share between requests."""
    session: str | None = None
    """Which conversation it belongs to: a backend may send it where the earlier turns are cached."""
    thought: Thought | None = None
    """What the open turn after ``messages`` holds already."""
    whole: bool = False
    """The caller needs no deltas: a backend may ask for the answer in one piece."""
    joined: bool = False
    """The caller must be able to stop the model, but looks at no deltas: what arrives at once may come as one chunk."""

    def chosen(
        self,
        *,
        max_tokens: int,
        sampling: Sampling,
        tenant: str | None,
        session: str | None,
        tools: tuple[Json, ...] = (),
        tool_choice: str | Json | None = None,
        response_format: Json | None = None,
        n: int = 1,
        whole: bool = False,
        joined: bool = False,
    ) -> Call:
        """The same prompt with all that a request chooses; `dataclasses.replace` takes four times as long."""
        return Call(
            max_tokens,
            self.messages,
            self.prompt_ids,
            sampling,
            tools,
            tool_choice,
            response_format,
            n,
            self.thinking,
            tenant,
            session,
            self.thought,
            whole,
            joined,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered, in the words of the server."""

    model: str | None = None
    """The model, which may be a dated version of the one that was asked for."""
    id: str | None = None
    """The server's name for the answer."""


@dataclass(slots=True)  # not frozen: that makes it three times as expensive to build, and one comes with every token
class Chunk:
    """A piece of output number ``index``.

    ``usage`` is cumulative over the call, as the model itself counts; ``cost_usd`` is what the provider says the
    call cost. ``finish_reason`` (``stop``, ``length``, ``tool_calls``, ``content_filter``) ends that output.
    """

    text: str = ""
    reasoning: str = ""
    """Hidden thinking that the server keeps apart from ``text``."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    usage: StageUsage | None = None
    cost_usd: Decimal | None = None
    finish_reason: str | None = None
    index: int = 0
    last: bool = False
    """The model's server has said all: nothing follows, and nothing is left to be closed but what is closed at once."""
    served: Served | None = None
    """Who answers, with the first chunk of the call."""
    provider_parts: Json | None = None
    """What the model wants back with this turn, all of it so far: see `duet_sdk.backends.provider_parts`."""


class ThinkRenderer(Protocol):
    """Makes the prompt of a generator whose turn already holds a closed think block."""

    async def think_ids(self, messages: Sequence[Message], signal: str) -> tuple[int, ...]:
        """Token ids of the conversation, the opened turn and the block with the signal; no control token from it."""


class ThinkPlacer(Protocol):
    """Puts a signal into the open turn of a chat, so that the server's parsers read what follows."""

    async def place(self, messages: Sequence[Message], signal: str, *, tools: Sequence[Json]) -> Thought | None:
        """The signal as closed thinking; None where it cannot stand there as training would feed it."""


class Backend(ABC):
    """A model that can be called. One object serves many concurrent calls of one event loop.

    A backend of your own derives from this class and has ``name``, ``model``, `connect` and `stream`; what else is
    here has a default, which says that the backend does not know or cannot do it.
    """

    name: str
    """The backend's name, such as ``transformers``."""
    model: str
    """The model as this backend knows it."""
    boundary: str = "any"
    """How far a request travels: ``local``, a named region, or ``any``."""
    base_url: str | None = None
    """Where the model is served, None if it is in this process."""

    @property
    def price(self) -> Price | None:
        """What a call costs by this backend's own knowledge (a local model is free), None if unknown."""
        return None

    @property
    def own_price(self) -> Price | None:
        """The price that its user gave it, which goes before what a provider says a call cost; None for none."""
        return None

    @property
    def shortfalls(self) -> Sequence[str]:
        """What its options ask for by name and cannot be had, in sentences; known once it is connected."""
        return ()

    @property
    def endpoint_id(self) -> str:
        """A digest of backend and address, by which a provider's parts find back to where they came from."""
        return endpoint_id(self.name, self.base_url)

    @property
    def epoch(self) -> int:
        """Goes up when the model turned out to be another than before: what was derived from it is stale."""
        return 0

    @abstractmethod
    async def connect(self) -> Capabilities:
        """Make the model ready (load, probe) and tell what it can do; cheap when called again.

        Raises:
            BackendError: the model is not there, incomplete, or its server does not answer.
            MissingExtra: a library that this backend needs is not installed.
        """

    def keep_tenants_apart(self, secret: bytes) -> None:  # noqa: B027  # most servers share nothing between requests
        """Have the server share no prefix cache between tenants, where it can and nothing else was configured.

        How fast a prompt is read tells whether another tenant has sent the same one, where they share a cache.

        Args:
            secret: names of tenants are hashed with it, so that nobody else can make up what stands for one.
        """

    @abstractmethod
    def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Call the model. Closing the iterator (or cancelling the task) stops the model.

        An implementation is an async generator: the caller closes it.

        Raises:
            BackendError: as it happens, also midway.
        """

    async def batches(self, call: Call) -> AsyncGenerator[Sequence[Chunk], None]:
        """As `stream`, with the chunks that arrived together in one step; each step costs every layer above.

        Raises:
            BackendError: as `stream`, after all that came before it.
        """
        async with aclosing(cast("AsyncGenerator[Chunk, None]", self.stream(call))) as chunks:
            async for chunk in chunks:
                yield (chunk,)

    def attempt_begins(self) -> object:  # noqa: B027
        """An attempt is about to call the model; a wrapper may refuse it here, before anything is sent.

        Returns:
            what `attempt_ends` is to be given back.

        Raises:
            BackendError: the model is not to be called now.
        """

    def attempt_ends(self, begun: object, error: BaseException | None) -> None:  # noqa: B027
        """The attempt that `attempt_begins` let through is over.

        Args:
            begun: what `attempt_begins` gave.
            error: what ended it; None if the model ended, was stopped at a limit, or was no longer needed.
        """

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        """Prompt tokens that these messages make, None where this backend cannot tell without spending.

        Args:
            messages: the conversation.
            tools: what is offered along with it.
            thinking: as in the call: templates write another prompt where thinking is off.
        """
        return None

    async def tokenizer(self) -> TokenizerFiles | None:
        """The model's tokenizer and chat template, None if they are not available."""
        return None

    async def control_strings(self, written: Collection[str]) -> frozenset[str]:
        """Those of these strings that the model's server reads as control tokens; empty where it does not tell."""
        return frozenset()

    async def server_renderer(self) -> ThinkRenderer | None:
        """Renders by the template and tokenizer of the model's server, None if it does not share them.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
        """
        return None

    async def think_placer(self) -> ThinkPlacer | None:
        """Puts a signal into a chat with the model, None if its server has no way for it.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
        """
        return None

    async def chat_ids(self, messages: Sequence[Message]) -> tuple[int, ...] | None:
        """The token ids that the model's server makes of these messages, None if it does not say."""
        return None

    async def opens_thinking(self, *, thinking: bool | None = None) -> bool:
        """Whether the prompt that the model's server makes ends inside a think block; False where it does not tell.

        Args:
            thinking: as in the call.
        """
        return False

    async def aclose(self) -> None:  # noqa: B027
        """Free what this backend holds; calling it twice is harmless."""


class Wrapped(Backend):
    """A backend around another one, which it is but for the methods that a subclass overrides."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.model = backend.name, backend.model
        self.boundary, self.base_url = backend.boundary, backend.base_url

    @property
    @override
    def price(self) -> Price | None:
        return self._backend.price

    @property
    @override
    def own_price(self) -> Price | None:
        return self._backend.own_price

    @property
    @override
    def shortfalls(self) -> Sequence[str]:
        return self._backend.shortfalls

    @property
    @override
    def endpoint_id(self) -> str:
        return self._backend.endpoint_id

    @property
    @override
    def epoch(self) -> int:
        return self._backend.epoch

    @override
    async def connect(self) -> Capabilities:
        return await self._backend.connect()

    @override
    def keep_tenants_apart(self, secret: bytes) -> None:
        self._backend.keep_tenants_apart(secret)

    @override
    def stream(self, call: Call) -> AsyncIterator[Chunk]:
        return self._backend.stream(call)

    @override
    def batches(self, call: Call) -> AsyncGenerator[Sequence[Chunk], None]:
        return self._backend.batches(call)

    @override
    def attempt_begins(self) -> object:
        return self._backend.attempt_begins()

    @override
    def attempt_ends(self, begun: object, error: BaseException | None) -> None:
        self._backend.attempt_ends(begun, error)

    @override
    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        return await self._backend.count_tokens(messages, tools=tools, thinking=thinking)

    @override
    async def tokenizer(self) -> TokenizerFiles | None:
        return await self._backend.tokenizer()

    @override
    async def control_strings(self, written: Collection[str]) -> frozenset[str]:
        return await self._backend.control_strings(written)

    @override
    async def server_renderer(self) -> ThinkRenderer | None:
        return await self._backend.server_renderer()

    @override
    async def think_placer(self) -> ThinkPlacer | None:
        return await self._backend.think_placer()

    @override
    async def chat_ids(self, messages: Sequence[Message]) -> tuple[int, ...] | None:
        return await self._backend.chat_ids(messages)

    @override
    async def opens_thinking(self, *, thinking: bool | None = None) -> bool:
        return await self._backend.opens_thinking(thinking=thinking)

    @override
    async def aclose(self) -> None:
        await self._backend.aclose()
