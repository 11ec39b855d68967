"""A signal as closed thinking in a chat call, where the server's parsers read the answer: needed with tools.

A prompt of token ids goes to the completion endpoint, which parses no tool calls. There are three ways to have the
thinking in a chat prompt, tried in this order, each only where it makes exactly the ids that we render:

1. The server's template takes the signal as an argument (`duet_sdk.rendering.signal_template` makes such a one).
2. The server renders the conversation, generates from our ids, and parses what came (``--enable-scale-out``).
3. The server goes on with an assistant's turn that holds the block as text (``continue_final_message``).

A way is known by a small conversation at connect, and checked again with every signal where the server tokenises its
text: text that holds control strings makes other ids there than here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

from duet_sdk.backends.base import Thought
from duet_sdk.backends.server.remote import Ask, Remote
from duet_sdk.errors import BackendError, ConfigError, InvalidRequest, SignalError
from duet_sdk.rendering import SIGNAL_ARGUMENT, Renderer, ThinkBlock
from duet_sdk.rendering.control import clean
from duet_sdk.types import Json, Message

Way = Literal["template", "render", "continue"]

_ORDER: tuple[Way, ...] = ("template", "render", "continue")
_TURNS: tuple[Json, ...] = ({"role": "user", "content": "And 1,000 – 17?"},)
_SIGNAL = "Zwei plus  zwei:\n\n\t4 🙂"
_CLOSED: Json = {"enable_thinking": False}
"""The block is closed, so what follows is the answer; parsers that know the switch take it for that."""


class ThoughtWriter(Protocol):
    """Puts thinking into a prompt that the server has rendered."""

    @property
    def block(self) -> ThinkBlock:
        """Where the template puts thinking."""

    async def put_thought(self, prompt_ids: Sequence[int], signal: str) -> tuple[int, ...]:
        """The prompt with ``signal`` as closed thinking, no control token from it.

        Raises:
            InvalidRequest: the prompt leaves no room for a think block.
            SignalError: the signal is empty, or holds a control token whatever is done.
        """


class LocalWriter:
    """The same by a local tokenizer and template."""

    def __init__(self, renderer: Renderer) -> None:
        self.block = renderer.think_block
        self._renderer = renderer

    async def put_thought(self, prompt_ids: Sequence[int], signal: str) -> tuple[int, ...]:
        """As `Renderer.put_thought`."""
        return self._renderer.put_thought(prompt_ids, signal)


class ThinkPlacer:
    """Finds a way for each signal; make one with `load`."""

    def __init__(self, remote: Remote, writer: ThoughtWriter, ways: Sequence[Way]) -> None:
        self._remote = remote
        self._writer = writer
        self._ways = ways

    @classmethod
    async def load(cls, ask: Ask, model: str, writer: ThoughtWriter) -> ThinkPlacer | None:
        """Try every way with a small conversation, which costs no tokens; None where none works."""
        remote = Remote(ask, model)
        probing = cls(remote, writer, _ORDER)
        try:
            expected = await probing.rendered(_TURNS, _SIGNAL)
        except (BackendError, ConfigError, InvalidRequest, SignalError):
            return None
        by_template, by_turn, renders = await asyncio.gather(
            probing.read("template", _TURNS, _SIGNAL),
            probing.read("continue", _TURNS, _SIGNAL),
            _renders(ask, model),
        )
        works = {"template": by_template == expected, "render": renders, "continue": by_turn == expected}
        ways = [way for way in _ORDER if works[way]]
        return cls(remote, writer, ways) if ways else None

    async def place(self, messages: Sequence[Message], signal: str, *, tools: Sequence[Json]) -> Thought | None:
        """The signal's place in the open turn of this conversation; None where no way leads to the ids we render.

        Raises:
            InvalidRequest: the template refuses these messages, or they leave no room for a think block.
            SignalError: the signal is empty.
            BackendError: the server does not answer.
        """
        turns, signal = [message.on_wire() for message in messages], clean(signal).strip()
        expected = await self.rendered(turns, signal, tools)
        for way in self._ways:
            if way == "render":
                return Thought(expected, template=_CLOSED)
            if await self.read(way, turns, signal, tools) == expected:
                turn = self._turn(signal) if way == "continue" else None
                return Thought(expected, template=_arguments(way, signal), turn=turn, by_text=True)
        return None

    async def rendered(self, turns: Sequence[Json], signal: str, tools: Sequence[Json] = ()) -> tuple[int, ...]:
        """The prompt as we render it: the server's conversation, our thinking."""
        prompt = await self._remote.chat_ids(turns, tools=tools, kwargs=self._writer.block.kwargs)
        return await self._writer.put_thought(prompt, signal)

    async def read(
        self, way: Way, turns: Sequence[Json], signal: str, tools: Sequence[Json] = ()
    ) -> tuple[int, ...] | None:
        """The prompt as the server would read it; None where it reads no text of ours, or refuses it."""
        arguments = _arguments(way, signal)
        try:
            if way == "template":
                return await self._remote.chat_ids(turns, tools=tools, kwargs=arguments)
            if way == "continue":
                opened = {"role": "assistant", "content": self._turn(signal)}
                return await self._remote.continued_ids([*turns, opened], tools=tools, kwargs=arguments)
        except (BackendError, ConfigError, InvalidRequest):
            return None
        return None

    def _turn(self, signal: str) -> str:
        """The assistant's turn up to the answer, as text; where the generation prompt opens the block, so does it."""
        block = self._writer.block
        opener = block.opener if block.opener.strip() else block.tags[0] + block.lead
        return opener + signal + block.trail + block.closing


def _arguments(way: Way, signal: str) -> Json:
    return {SIGNAL_ARGUMENT: signal, **_CLOSED} if way == "template" else _CLOSED


async def _renders(ask: Ask, model: str) -> bool:
    try:
        answer = await ask("/chat/completions/render", {"model": model, "messages": list(_TURNS), "max_tokens": 1})
    except BackendError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("token_ids"), list)
