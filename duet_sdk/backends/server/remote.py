"""A server's template and tokenizer, as vLLM shares them: ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Protocol

from duet_sdk.backends.answers.listing import token_ids
from duet_sdk.errors import BackendError, ConfigError, InvalidRequest
from duet_sdk.rendering.control import Span
from duet_sdk.rendering.folding import Folding, folded
from duet_sdk.types import Json

_CONTROL = re.compile(r"\s*(?:[\[<{◁＜｟｛]\S.*[\]>}▷＞｠｝]|/\w+)\s*", re.DOTALL)
"""What a control token looks like, whatever its family (GLM has ``/nothink``); plain tokens of this look are cut as
well, at no loss."""


class Ask(Protocol):
    """One JSON answer of the server."""

    def __call__(self, path: str, body: Json | None, /) -> Awaitable[Any]:
        """(path below the API's base, or with ``//`` from the server's root; JSON to post, None to get) → JSON.

        Raises:
            BackendError: the server does not answer, or refuses.
        """


class Remote:
    """One model's template and tokenizer at its server.

    Every method raises BackendError where the server does not answer, and ConfigError where its answer is none.
    """

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask = ask
        self._model = model
        self._folding = Folding()

    async def chat_ids(
        self, turns: Sequence[Json], *, tools: Sequence[Json] = (), kwargs: Mapping[str, object] | None = None
    ) -> tuple[int, ...]:
        """Ids of a conversation whose next turn, the assistant's, is opened.

        Raises:
            InvalidRequest: the template refuses it.
        """
        return await self._chat(turns, tools, kwargs, {"add_generation_prompt": True})

    async def finished_ids(
        self, turns: Sequence[Json], *, tools: Sequence[Json] = (), kwargs: Mapping[str, object] | None = None
    ) -> tuple[int, ...]:
        """Ids of a conversation as it stands. Raises as `chat_ids`."""
        return await self._chat(turns, tools, kwargs, {"add_generation_prompt": False})

    async def continued_ids(
        self, turns: Sequence[Json], *, tools: Sequence[Json] = (), kwargs: Mapping[str, object] | None = None
    ) -> tuple[int, ...]:
        """Ids of a conversation whose last turn is left open, to be gone on with. Raises as `chat_ids`."""
        return await self._chat(turns, tools, kwargs, {"add_generation_prompt": False, "continue_final_message": True})

    async def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens written out."""
        answer = await self._ask("//detokenize", {"model": self._model, "tokens": list(ids)})
        text = answer.get("prompt") if isinstance(answer, Mapping) else None
        if not isinstance(text, str):
            raise self._silent("what its tokens are")
        return text

    async def encode(self, text: str) -> tuple[int, ...]:
        """Ids of trusted text: control strings in it become control tokens."""
        return (await self.tokens(text))[0] if text else ()

    async def tokens(self, text: str) -> tuple[tuple[int, ...], list[str]]:
        """Ids of a text, and what each stands for."""
        asked = {"model": self._model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        answer = await self._ask("//tokenize", asked)
        ids = self._ids(answer)
        strings = answer.get("token_strs")
        if not isinstance(strings, list) or len(strings) != len(ids):
            raise self._silent("what its tokens are")
        return ids, [str(string) for string in strings]

    async def control_spans(self, text: str) -> list[Span]:
        """Where control tokens stand in trusted text."""
        return control_spans(text, (await self.tokens(text))[1])

    async def spoken(self, written: Collection[str]) -> frozenset[str]:
        """Those of these strings that hold a control token; they are asked about in one request."""
        spans = await self.control_spans("\n".join(written))
        found, end = set[str](), 0
        for string in written:
            begin, end = end, end + len(string) + 1
            if any(begin <= start < end for start, _ in spans):
                found.add(string)
        return frozenset(found)

    async def _chat(
        self, turns: Sequence[Json], tools: Sequence[Json], kwargs: Mapping[str, object] | None, end: Json
    ) -> tuple[int, ...]:
        asked: dict[str, object] = {"model": self._model, **end}
        if tools:
            asked["tools"] = list(tools)
        if kwargs:
            asked["chat_template_kwargs"] = dict(kwargs)
        given = [dict(turn) for turn in turns]
        while True:
            level = self._folding.level
            try:
                return self._ids(await self._ask("//tokenize", {**asked, "messages": folded(given, level)}))
            except BackendError as error:
                if error.status is None or not 400 <= error.status < 500:
                    raise
                if not self._folding.learns(given, level=level, words=str(error)):
                    raise InvalidRequest(f"the server's chat template refuses these messages: {error}") from error

    def _ids(self, answer: object) -> tuple[int, ...]:
        ids = token_ids(answer)
        if ids is None:
            raise self._silent("what tokens it makes")
        return tuple(ids)

    def _silent(self, what: str) -> ConfigError:
        return ConfigError(
            f"the server of {self._model} does not tell {what}; name a local copy of the tokenizer (option tokenizer), "
            "or use handoff='instruct'"
        )


def control_spans(text: str, strings: Sequence[str]) -> list[Span]:
    """Where tokens that look like control tokens stand in the text, found one after the other."""
    spans: list[Span] = []
    done = 0
    for string in strings:
        if len(string) > 1 and _CONTROL.fullmatch(string) and (at := text.find(string, done)) >= 0:
            spans.append((at, at + len(string)))
            done = at + len(string)
    return spans
