"""A chat answered from token ids of ours and read by the server's own parsers: vLLM with ``--enable-scale-out``.

The server renders the request (which settles its sampling), generates from the ids that we put in place of its own, and
derenders what came: tool calls, logprobs, text. What it sends by these endpoints is brought into the form of its chat
endpoint here, so that one reader reads both.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server (scale-out endpoints, vLLM 0.32).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from duet_sdk.backends.server.remote import Ask
from duet_sdk.think_tags import overlap
from duet_sdk.types import Json

GENERATE = "//inference/v1/generate"
_RENDER = "/chat/completions/render"
_DERENDER = "/chat/completions/derender"
_END = b"[DONE]"


class Derender:
    """One call by these endpoints.

    Args:
        ask: one JSON answer of the server.
        body: the request as the chat endpoint would take it.
        prompt_ids: the prompt to generate from.
    """

    def __init__(self, ask: Ask, body: Json, prompt_ids: Sequence[int]) -> None:
        self._ask = ask
        self._body = body
        self._prompt_ids = list(prompt_ids)
        self._states: dict[int, object] = {}
        self._stops: dict[int, _StopTexts] = {}

    async def request(self) -> dict[str, Any]:
        """What is posted to `GENERATE`.

        Raises:
            BackendError: the server does not answer, or refuses the request.
        """
        rendered = await self._ask(_RENDER, self._body)
        given = {name: value for name, value in rendered.items() if value is not None}
        # The block is closed: a grammar begins with the first token.
        return {**given, "token_ids": self._prompt_ids, "reasoning_ended": True}

    async def events(self, events: Sequence[bytes]) -> list[bytes]:
        """Events of the stream, as the chat endpoint would send them.

        Tokens of one output that arrived together are read together, as each reading starts over from the first.

        Raises:
            BackendError: the server does not answer.
            ValueError: an event is not of the form that is expected; so do TypeError, KeyError and AttributeError.
        """
        read: list[bytes] = []
        waiting: list[dict[str, Any]] = []
        for event in events:
            value: dict[str, Any] = {} if event == _END else json.loads(event)
            choices = value.get("choices")
            if waiting and (not choices or choices[0]["index"] != waiting[-1]["choices"][0]["index"]):
                read.append(await self._chunk(waiting))
                waiting = []
            if choices:
                waiting.append(value)
            else:
                read.append(event)
        if waiting:
            read.append(await self._chunk(waiting))
        return read

    async def whole(self, answer: bytes) -> bytes:
        """An answer in one piece, as the chat endpoint would send it. Raises as `events`."""
        value = json.loads(answer)
        if not value.get("choices"):
            return answer
        written = [list(choice["token_ids"]) for choice in value["choices"]]
        value["choices"] = [_without_end(choice) for choice in value["choices"]]
        said = [choice for choice in value["choices"] if choice["token_ids"]]
        asked = {**self._common(), "generate_response": {**value, "choices": said}}
        parsed = (await self._ask(_DERENDER, asked))["choices"] if said else []
        messages = {choice["index"]: choice for choice in parsed}
        choices = []
        for given, ids in zip(value["choices"], written, strict=True):
            choice = messages.get(given["index"]) or {**given, "message": {"content": ""}}
            message = choice["message"]
            if message.get("content"):
                message["content"] = _StopTexts(self._stop).all_of(message["content"])
            finish = "tool_calls" if message.get("tool_calls") else given["finish_reason"]
            choices.append({**choice, "token_ids": ids, "finish_reason": finish})
        return json.dumps({"choices": choices, "usage": value.get("usage")}).encode()

    async def _chunk(self, values: Sequence[dict[str, Any]]) -> bytes:
        """Chunks of one output, read as one."""
        choice = _joined([value["choices"][0] for value in values])
        index, ids = choice["index"], choice["token_ids"]
        scored = await self._scored(choice) if choice["logprobs"] else None
        asked = {
            **self._common(),
            "stream": True,
            "generate_chunk": {**values[-1], "choices": [_without_end(choice)]},
            "stream_state": self._states.get(index),
        }
        answer = await self._ask(_DERENDER, asked)
        self._states[index] = answer["stream_state"]
        chunk = answer["chunk"]
        for parsed in chunk["choices"]:
            parsed |= {"token_ids": ids, "logprobs": scored}
            if self._stop:
                stops = self._stops.setdefault(index, _StopTexts(self._stop))
                shown = stops.feed(parsed["delta"].get("content") or "")
                parsed["delta"]["content"] = shown + stops.rest() if choice.get("finish_reason") else shown
        return json.dumps({"choices": chunk["choices"], "usage": values[-1].get("usage")}).encode()

    async def _scored(self, choice: Json) -> Json | None:
        """Logprobs with their tokens as text, which vLLM 0.32 writes out for whole answers alone."""
        answer = await self._ask(_DERENDER, {**self._common(), "generate_response": {"choices": [choice]}})
        logprobs: Json | None = answer["choices"][0].get("logprobs")
        return logprobs

    def _common(self) -> dict[str, object]:
        return {
            "model": self._body["model"],
            "prompt_tokens": len(self._prompt_ids),
            "prompt_token_ids": self._prompt_ids,
            "chat_request": self._body,
        }

    @property
    def _stop(self) -> Sequence[str]:
        stop: Sequence[str] = self._body.get("stop") or ()
        return stop


class _StopTexts:
    """Leaves out stop texts, which the server's ids still hold, and what follows them."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self._stopped = False

    def feed(self, text: str) -> str:
        """What of the text can be shown now."""
        if self._stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        kept = max((overlap(self._held, stop) for stop in self._stops), default=0)
        at = len(self._held) - kept
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        shown, self._held = self._held, ""
        return shown

    def all_of(self, text: str) -> str:
        """What can be shown of a text that is complete."""
        return self.feed(text) + self.rest()


def _joined(choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Choices of one output, one after the other, as one."""
    scored = [item for choice in choices for item in (choice.get("logprobs") or {}).get("content") or ()]
    return {
        **choices[-1],
        "token_ids": [at for choice in choices for at in choice.get("token_ids") or ()],
        "logprobs": {"content": scored} if scored else None,
    }


def _without_end(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The choice without the token that ended it, which the server would write out as text."""
    ended = choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str)
    ids = list(choice.get("token_ids") or ())
    return {**choice, "token_ids": ids[:-1] if ended else ids}
