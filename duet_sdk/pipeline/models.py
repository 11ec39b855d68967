"""What a client is made of, and what is learned about its models on first use."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from duet_sdk._tasks import is_short
from duet_sdk.agents.run import RunMemory
from duet_sdk.backends.base import Backend, Call, Capabilities, ThinkRenderer
from duet_sdk.cache import SignalCache
from duet_sdk.context import ContextPolicy
from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.gate import Gate, TokenGate
from duet_sdk.handoff import Handoff, Instruct, LocalThinkRenderer, Think
from duet_sdk.pipeline.degraded import Degraded
from duet_sdk.pipeline.lifetime import Cancellable, Lifetime
from duet_sdk.policies import FailurePolicy, Progressive, Prompts
from duet_sdk.pricing import PriceBook
from duet_sdk.rendering import Renderer, neutralise_unknown
from duet_sdk.rendering.control import suspects
from duet_sdk.signal import CutPolicy
from duet_sdk.types import HandoffName, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from duet_sdk.gate.calibration import Calibration

_log = logging.getLogger(__name__)

DEFAULT_GATE_DEADLINE_S = 2.0
"""As long as a user may be kept waiting for a decision; a gate of your own that needs longer sets its own limit."""


@dataclass(slots=True)
class StageModel:
    """The model of one stage, and what it turned out to be able to do."""

    stage: Stage
    name: str
    """As the user named it: the key of prices, and what traces show."""
    backend: Backend
    renderer: Renderer | None = None
    count_text: Callable[[str], int] | None = None
    """Tokens of a text by the model's own tokenizer, None where it is not available or not needed."""
    expected: Callable[[Stage, Backend], Awaitable[None]] | None = None
    """Compares the connected model with what its pair's manifest says; called until it is content."""
    degraded: Degraded = field(default_factory=Degraded, repr=False)
    """What was asked for by name and cannot be had, of the whole client."""
    leaves_thoughts_open: bool = False
    """Whether its last answer held a closing tag of thinking alone: its template opens the block in the prompt."""
    _silent: int | None = field(default=None, repr=False)
    """The backend's epoch in which logprobs were asked for and did not come, None if they did."""
    _opens: dict[tuple[int, bool | None], bool] = field(default_factory=dict, repr=False)
    """By the backend's epoch and the call's switch, whether the server's template opens a block."""
    _ready: Capabilities | None = field(default=None, repr=False)
    """What it could do when it was made ready."""
    _looked: int | None = field(default=None, repr=False)
    """The backend's epoch in which the renderer was looked for, None if it was not yet."""

    @property
    def identity(self) -> str:
        """The model and where it is served: what tells two of one name apart."""
        address = self.backend.base_url
        return f"{self.name}@{address}" if address else self.name

    @property
    def withholds_logprobs(self) -> bool:
        """Whether its server takes a call for logprobs and sends none, as it has once shown."""
        return self._silent == self.backend.epoch

    def sent_no_logprobs(self) -> None:
        """Remember that, until the model turns out to be another than before."""
        self._silent = self.backend.epoch

    async def connect(self) -> Capabilities:
        """Make the model ready.

        Raises:
            BackendError: it cannot be.
            PairError: it is not what its pair was trained with, and that is to be refused.
        """
        with Cancellable():
            able = await self.backend.connect()
        if able is self._ready:
            return able
        if self.expected is not None:
            await self.expected(self.stage, self.backend)
            self.expected = None  # where it raised, the next request is to learn of it as well
        for shortfall in self.backend.shortfalls:
            self.degraded.tell((self.name, shortfall), shortfall)
        if not able.token_ids and self._looked != self.backend.epoch:
            await self.find_renderer()  # its output is counted by its tokenizer
        self._ready = able
        return able

    async def may_open_thought(self, call: Call) -> bool:
        """Whether its answer to that call may begin amid thinking, without a tag that says so."""
        if call.prompt_ids or call.thought is not None:
            return False  # the prompt is ours, and its block closed
        if self.leaves_thoughts_open:
            return True
        if self.renderer is not None:
            return call.thinking is not False and self.renderer.opens_thinking
        key = (self.backend.epoch, call.thinking)
        if key not in self._opens:
            self._opens = {key: await self.backend.opens_thinking(thinking=call.thinking)}
        return self._opens[key]

    async def find_renderer(self) -> Renderer | None:
        """The model's own template and tokenizer, None if they, or the libraries for them, are not available."""
        epoch = self.backend.epoch
        if self._looked != epoch:
            self.renderer = self.count_text = None
            files = await self.backend.tokenizer()
            if files is not None:
                try:
                    # Reading a vocabulary takes a tenth of a second: not on the event loop.
                    renderer = await asyncio.to_thread(Renderer, files)
                except MissingExtra as error:
                    _log.info("%s is rendered without its own template: %s", self.name, error)
                else:
                    self.count_text = renderer.count_text
                    self.renderer = None if files.chat_template is None else renderer
            self._looked = epoch
        return self.renderer

    async def neutraliser(self, texts: Iterable[str]) -> Callable[[str], str]:
        """What makes these texts harmless to this model: by its tokenizer, else by its server's, else by a table."""
        renderer = self.renderer if self._looked == self.backend.epoch else await self.find_renderer()
        if renderer is not None:
            return renderer.neutralise
        written = "\n".join(texts)  # nothing that is looked for goes over a line's end
        asked = suspects(written) if is_short(len(written)) else await asyncio.to_thread(suspects, written)
        found = await self.backend.control_strings(asked) if asked else frozenset[str]()
        return partial(neutralise_unknown, also=found) if found else neutralise_unknown


@dataclass(slots=True)
class Parts:
    """A pair with its policies. One of these serves every request of a client."""

    reasoners: tuple[StageModel, ...]
    """In the order in which they are tried; likewise the next."""
    generators: tuple[StageModel, ...]
    gate: Gate | TokenGate
    cut: CutPolicy
    failure: FailurePolicy
    context: ContextPolicy
    prices: PriceBook
    prompts: Prompts
    wanted_handoff: HandoffName
    signal_cache: SignalCache | None = None
    gate_deadline_s: float = DEFAULT_GATE_DEADLINE_S
    """Seconds that a gate's own code may take to decide."""
    progressive: Progressive | None = None
    """How the generator probes the growing signal; None if it does not."""
    calibration: Calibration | None = None
    """What was measured of this pair, None if nothing was."""
    runs: RunMemory = field(default_factory=RunMemory)
    """What is remembered of agents' runs."""
    degraded: Degraded = field(default_factory=Degraded)
    """What was asked for by name and cannot be had, so far."""
    lifetime: Lifetime = field(default_factory=Lifetime)
    """What runs for the client, and what still closes behind it; ended with the client."""
    fallback: Parts | None = None
    """The pair that takes over when this one cannot answer."""
    _handoffs: dict[tuple[str, str], tuple[tuple[int, int], Handoff]] = field(default_factory=dict)
    """By reasoner and generator, with the epochs in which it was made."""

    def chain(self, stage: Stage) -> tuple[StageModel, ...]:
        """The models of that stage, in the order in which they are tried."""
        return self.reasoners if stage == "reasoner" else self.generators

    async def handoff(self, reasoner: StageModel, generator: StageModel) -> Handoff:
        """How this signal is handed over: as wanted, or ``instruct`` where ``think`` cannot be rendered.

        Only the generator that a pair was trained with takes a signal for its own thinking: any other model of the
        chain gets ``instruct``.

        Raises:
            ConfigError: ``think`` is wanted, and the generator's template cannot hold a signal.
        """
        key = (reasoner.name, generator.name)
        if self.wanted_handoff == "instruct" and key in self._handoffs:
            return self._handoffs[key][1]
        epochs = (reasoner.backend.epoch, generator.backend.epoch)
        known = self._handoffs.get(key)
        if known is not None and known[0] == epochs:
            return known[1]
        handoff: Handoff
        if self.wanted_handoff == "think" and _same_weights(generator, self.generators[0]):
            handoff = await _think(reasoner, generator, self.degraded)
        else:
            handoff = Instruct(generator)
        self._handoffs[key] = (epochs, handoff)
        return handoff

    def backends(self) -> list[Backend]:
        """Every backend of this pair and of the one behind it."""
        return [model.backend for model in self.models()]

    def models(self) -> list[StageModel]:
        """Every model of this pair and of the one behind it."""
        return [*self.reasoners, *self.generators, *(self.fallback.models() if self.fallback else ())]


def _same_weights(one: StageModel, other: StageModel) -> bool:
    return one.backend.model == other.backend.model


async def _think(reasoner: StageModel, generator: StageModel, degraded: Degraded) -> Handoff:
    able = await generator.connect()
    renderer = await generator.find_renderer()
    own = await reasoner.find_renderer()
    takes_ids = (await reasoner.connect()).prompt_ids
    remote: ThinkRenderer | None = None
    if renderer is not None and able.prompt_ids:
        if not renderer.can_think:
            raise ConfigError(
                f"the chat template or tokenizer of {generator.name} cannot hold a think block; use handoff='instruct'"
            )
        remote = LocalThinkRenderer(renderer)
    elif able.prompt_ids:
        remote = await generator.backend.server_renderer()
    placer = await generator.backend.think_placer()
    if remote is not None or placer is not None:
        return Think(remote, placer, own, takes_ids)
    why = "its tokenizer is not available" if able.prompt_ids else "it does not accept prompts as token ids"
    _log.warning("the think handoff cannot be rendered for %s (%s); the instruct handoff is used", generator.name, why)
    degraded.tell(
        ("handoff", generator.name),
        f"handoff='think' cannot be had with {generator.name} ({why}): the signal is handed over as notes; set "
        "handoff='instruct', or name its tokenizer (option tokenizer)",
    )
    return Instruct(generator)
