"""What a client is made of, and what is found out about its models when they are first used."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from duet_sdk.backends.protocol import Backend, Capabilities
from duet_sdk.context import ContextPolicy
from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.gate import Gate
from duet_sdk.handoff import Handoff, Instruct, Think
from duet_sdk.pricing import PriceBook
from duet_sdk.rendering import Renderer
from duet_sdk.signal import CutPolicy
from duet_sdk.types import HandoffName, Prompts, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ladder:
    """What follows when a rung breaks; ``raise`` gives the error to the caller."""

    empty_signal: Literal["generator", "raise"] = "generator"
    """The reasoner wrote nothing of use."""
    reasoner: Literal["generator", "raise"] = "generator"
    """The reasoner failed."""
    generator: Literal["reasoner", "raise"] = "reasoner"
    """The generator failed before anything of its answer was handed on."""


OnFailure: TypeAlias = Literal["answer", "raise"] | Ladder
_LADDERS: dict[str, Ladder] = {"answer": Ladder(), "raise": Ladder("raise", "raise", "raise")}


def ladder(given: OnFailure) -> Ladder:
    """The failure ladder of that name, or the user's own.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(given, Ladder):
        return given
    if given not in _LADDERS:
        raise ConfigError(f"on_failure {given!r} is unknown; known are {', '.join(_LADDERS)}, or a Ladder")
    return _LADDERS[given]


@dataclass(slots=True)
class StageModel:
    """The model of one stage, and what it turned out to be able to do."""

    stage: Stage
    name: str
    """As the user named it: the key of prices, and what traces show."""
    backend: Backend
    renderer: Renderer | None = None
    _looked: bool = field(default=False, repr=False)

    async def connect(self) -> Capabilities:
        """Make the model ready.

        Raises:
            BackendError: it cannot be.
        """
        return await self.backend.connect()

    async def find_renderer(self) -> Renderer | None:
        """The model's own template and tokenizer, None where they, or the libraries for them, are not at hand."""
        if not self._looked:
            files = await self.backend.tokenizer()
            if files is not None and files.chat_template is not None:
                try:
                    # Reading a vocabulary takes a tenth of a second: not on the event loop.
                    self.renderer = await asyncio.to_thread(Renderer, files)
                except MissingExtra as error:
                    _log.info("%s is rendered without its own template: %s", self.name, error)
            self._looked = True
        return self.renderer


@dataclass(slots=True)
class Parts:
    """A pair with its policies. One of these serves every request of a client."""

    reasoner: StageModel
    generator: StageModel
    gate: Gate
    cut: CutPolicy
    ladder: Ladder
    context: ContextPolicy
    prices: PriceBook
    prompts: Prompts
    wanted_handoff: HandoffName
    _handoff: Handoff | None = None

    def model(self, stage: Stage) -> StageModel:
        """The model of that stage."""
        return self.reasoner if stage == "reasoner" else self.generator

    async def handoff(self) -> Handoff:
        """How this pair hands its signal over: as wanted, or ``instruct`` where ``think`` cannot be rendered.

        Raises:
            ConfigError: ``think`` is wanted, and the generator's template cannot hold a signal.
        """
        if self._handoff is None:
            generator = await self.generator.find_renderer()
            if self.wanted_handoff == "think":
                self._handoff = await self._think(generator)
            else:
                self._handoff = Instruct(generator)
        return self._handoff

    async def _think(self, generator: Renderer | None) -> Handoff:
        can = await self.generator.connect()
        if generator is None or not can.prompt_ids:
            _log.warning(
                "the think handoff cannot be rendered for %s (%s); the instruct handoff is used",
                self.generator.name,
                "its tokenizer is not at hand" if generator is None else "it takes no prompt as token ids",
            )
            return Instruct(generator)
        if not generator.can_think:
            raise ConfigError(
                f"the chat template or tokenizer of {self.generator.name} cannot hold a think block; "
                "use handoff='instruct'"
            )
        return Think(generator, await self.reasoner.find_renderer())
