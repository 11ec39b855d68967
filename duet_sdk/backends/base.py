"""What a stage asks of a model, and what a model answers: the one seam between the pipeline and every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from duet_sdk.events import ToolCallDelta
from duet_sdk.policies import Sampling
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, Message, TokenLogprob

if TYPE_CHECKING:
    from duet_sdk.pricing import Price
    from duet_sdk.rendering import TokenizerFiles


trace_headers: ContextVar[Mapping[str, str] | None] = ContextVar("headers of the call's trace", default=None)
"""What a backend that speaks HTTP sends along, so that its server's spans belong to the call; set while it is sent."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a connected model can do. The pipeline refuses what is missing before it spends anything."""

    context_tokens: int | None = None
    """Window for prompt and output together, None where unknown."""
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
    thought: Thought | None = None
    """What the open turn after ``messages`` holds already."""
    whole: bool = False
    """The caller needs no deltas: a backend may ask for the answer in one piece."""
    joined: bool = False
    """The caller must be able to stop the model, but looks at no deltas: what arrives at once may come as one chunk."""


@dataclass(slots=True)  # not frozen: that makes it three times as dear to build, and one comes with every token
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


@runtime_checkable
class Backend(Protocol):
    """A model that can be called. One object serves many concurrent calls of one event loop."""

    @property
    def name(self) -> str:
        """The backend's name, such as ``transformers``."""

    @property
    def model(self) -> str:
        """The model as this backend knows it."""

    @property
    def price(self) -> Price | None:
        """What a call costs by this backend's own knowledge (a local model is free), None where unknown."""

    @property
    def boundary(self) -> str:
        """How far a request travels: ``local``, a named region, or ``any``."""

    async def connect(self) -> Capabilities:
        """Make the model ready (load, probe) and tell what it can do; cheap when called again.

        Raises:
            BackendError: the model is not there, incomplete, or its server does not answer.
            MissingExtra: a library that this backend needs is not installed.
        """

    def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Call the model. Closing the iterator (or cancelling the task) stops the model.

        An implementation is an async generator: the caller closes it.

        Raises:
            BackendError: as it happens, also part way.
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

    async def tokenizer(self) -> TokenizerFiles | None:
        """The model's tokenizer and chat template, None where they are not at hand."""

    async def aclose(self) -> None:
        """Free what this backend holds; calling it twice is harmless."""
