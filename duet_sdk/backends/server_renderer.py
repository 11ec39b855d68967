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
from typing import Any, Protocol, cast

from duet_sdk.backends.wire import message_on_wire
from duet_sdk.errors import BackendError, ConfigError, InvalidRequest, SignalError
from duet_sdk.rendering.control import Span, clean, find
from duet_sdk.rendering.probe import ThinkBlock, find_block
from duet_sdk.rendering.template import ChatTemplate
from duet_sdk.types import Json, Message

_CONTROL = re.compile(r"\s*(?:[\[<{◁＜｟｛]\S.*[\]>}▷＞｠｝]|/\w+)\s*", re.DOTALL)
"""What a control token looks like, whatever its family (GLM has ``/nothink``); plain tokens of this look are cut as
well, at no loss."""
_MARKED = re.compile(r"[\[<{◁＜｟｛][^\s\[\]<>{}]{1,64}[\]>}▷＞｠｝]")
_CUTS = 8
"""Rounds of cutting; one is enough for every tokenizer known."""


class Ask(Protocol):
    """The server's ``/tokenize`` and ``/detokenize``."""

    def __call__(self, path: str, body: Json | None, /) -> Awaitable[Any]:
        """(path from the server's root, JSON) → JSON.

        Raises:
            BackendError: the server does not answer, or refuses.
        """


class ServerRenderer:
    """Renders the think handoff through a server; make one with `load`.

    Attributes:
        block: where the server's template puts thinking.
        think_tags: what opens and closes it.
    """

    def __init__(
        self,
        remote: _Remote,
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
        remote = _Remote(ask, model)

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
            remote.chat_ids([{"role": "user", "content": "?"}], generation=True, kwargs=found.kwargs),
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
        turns = [message_on_wire(message) for message in messages]
        prompt = await self._remote.chat_ids(turns, generation=True, tools=tools, kwargs=self.block.kwargs)
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

    async def _untrusted(self, remote: _Remote, text: str) -> list[int]:
        """Ids of text, none of them a control token."""
        cuts = {start + 1 for start, _ in find(_MARKED, text)} - {len(text)}
        for _ in range(_CUTS):
            edges = [0, *sorted(cuts), len(text)]
            pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
            encoded = await asyncio.gather(*(remote.tokens(piece) for piece in pieces))
            further = {
                edges[at] + start + len(piece[start:end]) - len(piece[start:end].lstrip()) + 1
                for at, (piece, (_, strings)) in enumerate(zip(pieces, encoded, strict=True))
                for start, end in _spans(piece, strings)
            } - cuts
            if not further:
                return [at for ids, _ in encoded for at in ids]
            cuts |= {cut for cut in further if 0 < cut < len(text)}
        raise SignalError("the tokenizer makes a control token out of plain text; use handoff='instruct'")


class _Remote:
    """The server's template and tokenizer."""

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask = ask
        self._model = model

    async def chat_ids(
        self,
        turns: Sequence[Json],
        *,
        generation: bool,
        tools: Sequence[Json] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> list[int]:
        """Ids of a rendered conversation."""
        asked: dict[str, object] = {"model": self._model, "messages": list(turns), "add_generation_prompt": generation}
        if tools:
            asked["tools"] = list(tools)
        if kwargs:
            asked["chat_template_kwargs"] = dict(kwargs)
        try:
            return list((await self._ask("//tokenize", asked))["tokens"])
        except BackendError as error:
            if error.status is not None and 400 <= error.status < 500:
                raise InvalidRequest(f"the server's chat template refuses these messages: {error}") from error
            raise

    async def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens written out."""
        return str((await self._ask("//detokenize", {"model": self._model, "tokens": list(ids)}))["prompt"])

    async def encode(self, text: str) -> list[int]:
        """Ids of trusted text: control strings in it become control tokens."""
        return (await self.tokens(text))[0] if text else []

    async def tokens(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of a text, and what each stands for."""
        asked = {"model": self._model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        answer = await self._ask("//tokenize", asked)
        strings = answer.get("token_strs")
        if not isinstance(strings, list) or len(strings) != len(answer["tokens"]):
            raise ConfigError(
                f"the server of {self._model} does not tell what its tokens are; name a local copy of the tokenizer "
                "(option tokenizer), or use handoff='instruct'"
            )
        return list(answer["tokens"]), [str(string) for string in strings]

    async def control_spans(self, text: str) -> list[Span]:
        """Where control tokens stand in trusted text."""
        return _spans(text, (await self.tokens(text))[1])


class _BlockingTemplate:
    """The server's template for code that does not await."""

    def __init__(self, remote: _Remote, wait: Callable[[Awaitable[Any]], Any]) -> None:
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
        ids = self._wait(self._remote.chat_ids(turns, generation=generation, tools=tools, kwargs=kwargs))
        text: str = self._wait(self._remote.text(ids))
        return text


async def _as_coroutine(work: Awaitable[Any]) -> Any:
    return await work


def _spans(text: str, strings: Sequence[str]) -> list[Span]:
    """Where tokens that look like control tokens stand in the text, found one after the other."""
    spans: list[Span] = []
    done = 0
    for string in strings:
        if len(string) > 1 and _CONTROL.fullmatch(string) and (at := text.find(string, done)) >= 0:
            spans.append((at, at + len(string)))
            done = at + len(string)
    return spans
