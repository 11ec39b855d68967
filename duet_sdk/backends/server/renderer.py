"""The think handoff with a server's own template and tokenizer, where no local copy is at hand.

The server reads control tokens out of every text that it is given. So each piece of a signal that would become one is
cut after its first character and the pieces are encoded apart: no control token, nothing lost, and other ids than in
training only beside such a cut.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from duet_sdk.backends.server.remote import Ask, Remote, control_spans
from duet_sdk.errors import ConfigError, InvalidRequest, SignalError
from duet_sdk.rendering.control import clean, find
from duet_sdk.rendering.probe import ThinkBlock, find_block
from duet_sdk.rendering.template import ChatTemplate
from duet_sdk.types import Json, Message

_MARKED = re.compile(r"[\[<{◁＜｟｛][^\s\[\]<>{}]{1,64}[\]>}▷＞｠｝]")
_CUTS = 8
"""Rounds of cutting; one is enough for every tokenizer known."""


class ServerRenderer:
    """Renders the think handoff through a server; make one with `load`.

    Attributes:
        block: where the server's template puts thinking.
        think_tags: what opens and closes it.
    """

    def __init__(
        self,
        remote: Remote,
        block: ThinkBlock,
        *,
        header_ids: Sequence[int],
        head_ids: Sequence[int],
        closing_ids: Sequence[int],
    ) -> None:
        self._remote = remote
        self.block = block
        self._header_ids = header_ids
        self._head_ids = head_ids
        self._closing_ids = closing_ids
        self.think_tags = block.tags

    @classmethod
    async def load(cls, ask: Ask, model: str) -> ServerRenderer:
        """Find where the server's template puts thinking, by rendering sample turns there.

        Raises:
            ConfigError: the template or the tokenizer cannot hold a signal safely.
            BackendError: the server does not answer.
        """
        loop = asyncio.get_running_loop()
        remote = Remote(ask, model)

        def wait(work: Awaitable[Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(_as_coroutine(work), loop).result()

        template = _BlockingTemplate(remote, wait)
        # The search is written for a template at hand; in a thread it can wait for the server's answers.
        found = await asyncio.to_thread(
            find_block, cast("ChatTemplate", template), lambda text: wait(remote.control_spans(text))
        )
        if isinstance(found, str):
            raise ConfigError(f"no think handoff with {model}: {found}; use handoff='instruct'")
        prompt, header, head, closing = await asyncio.gather(
            remote.chat_ids([{"role": "user", "content": "?"}], kwargs=found.kwargs),
            *(remote.encode(text) for text in (found.header, found.head, found.closing)),
        )
        try:
            found.open(prompt, header, head)
        except InvalidRequest:
            raise ConfigError(
                f"the tokenizer of {model} does not give back the text that it read; name a local copy of it "
                "(option tokenizer), or use handoff='instruct'"
            ) from None
        return cls(remote, found, header_ids=header, head_ids=head, closing_ids=closing)

    async def think_ids(
        self, messages: Sequence[Message], signal: str, *, closed: bool = True, tools: Sequence[Json] = ()
    ) -> tuple[int, ...]:
        """Prompt whose open assistant turn holds ``signal``, stripped, as the model's own thinking.

        With ``closed`` the block is closed and the answer comes next, otherwise the thinking goes on.

        Raises:
            SignalError: the signal is empty, or cannot be cut so that it holds no control token.
            InvalidRequest: the template refuses these messages, or they switch its thinking off.
            BackendError: the server does not answer.
        """
        turns = [message.on_wire() for message in messages]
        prompt = await self._remote.chat_ids(turns, tools=tools, kwargs=self.block.kwargs)
        return await self.put_thought(prompt, signal, closed=closed)

    async def put_thought(self, prompt_ids: Sequence[int], signal: str, *, closed: bool = True) -> tuple[int, ...]:
        """As `think_ids`, for a prompt that the server has rendered, its assistant's turn opened."""
        block = self.block
        signal = clean(signal).strip()
        if not signal:
            raise SignalError("the signal is empty; ask the generator without one")
        opened = block.open(prompt_ids, self._header_ids, self._head_ids)
        span = await self._untrusted(self._remote, block.lead + signal + (block.trail if closed else ""))
        return (*opened, *span, *(self._closing_ids if closed else ()))

    async def _untrusted(self, remote: Remote, text: str) -> list[int]:
        """Ids of text, none of them a control token."""
        cuts = {start + 1 for start, _ in find(_MARKED, text)} - {len(text)}
        for _ in range(_CUTS):
            edges = [0, *sorted(cuts), len(text)]
            pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
            encoded = await asyncio.gather(*(remote.tokens(piece) for piece in pieces))
            further = {
                edges[at] + start + len(piece[start:end]) - len(piece[start:end].lstrip()) + 1
                for at, (piece, (_, strings)) in enumerate(zip(pieces, encoded, strict=True))
                for start, end in control_spans(piece, strings)
            } - cuts
            if not further:
                return [at for ids, _ in encoded for at in ids]
            cuts |= {cut for cut in further if 0 < cut < len(text)}
        raise SignalError("the tokenizer makes a control token out of plain text; use handoff='instruct'")


class _BlockingTemplate:
    """The server's template for code that does not await."""

    def __init__(self, remote: Remote, wait: Callable[[Awaitable[Any]], Any]) -> None:
        self._remote = remote
        self._wait = wait

    def render(
        self,
        turns: Sequence[Json],
        *,
        generation: bool,
        tools: Sequence[Json] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt's text. Raises InvalidRequest where the template refuses the turns."""
        render = self._remote.chat_ids if generation else self._remote.finished_ids
        ids = self._wait(render(turns, tools=tools, kwargs=kwargs))
        text: str = self._wait(self._remote.text(ids))
        return text


async def _as_coroutine(work: Awaitable[Any]) -> Any:
    return await work
