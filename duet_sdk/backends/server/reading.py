"""JSON of an answer → chunks, tolerant of servers that follow OpenAI's API only roughly: no bytes, no connection.

Source: https://platform.openai.com/docs/api-reference/chat, https://docs.vllm.ai/en/latest/serving/openai_compatible_server
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.provider_parts import Parts
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.events import ToolCallDelta
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, TokenLogprob

_FINISH = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED = {"error", "abort"}


class OutputFailed(ValueError):
    """The server gave up an output and says so in its finish reason."""


class Reader:
    """JSON of an answer → chunks. One for each call.

    Attributes:
        unfinished: a bit for each output that has not said why it ended.
        begun: whether anything was written.
        parts: what the model wants back with each output.
    """

    __slots__ = ("_is_whole", "_only_answers", "_outputs", "_per_output", "_used", "begun", "parts", "unfinished")

    def __init__(self, call: Call, *, dialect: Dialect) -> None:
        self.unfinished = (1 << call.n) - 1
        self.begun = False
        self._outputs = range(call.n)
        # Parsers that know nothing of the block in the prompt take the answer for more thinking.
        self._only_answers = call.thought is not None
        self._per_output = dialect.continuous_usage and call.n > 1
        self._used = [0] * call.n if self._per_output else []
        self._is_whole = False
        self.parts = [Parts() for _ in self._outputs]

    def event(self, value: Any) -> list[Chunk]:
        """The chunks of one event of a stream.

        Raises:
            OutputFailed: the server gave an output up.
            ValueError: the event is not of the form that is expected; so do TypeError, KeyError and AttributeError.
        """
        choices = value.get("choices") or ()
        usage, cost = _usage(value.get("usage"))
        if not choices:
            return [] if usage is None and cost is None else [Chunk(usage=usage, cost_usd=cost)]
        chunks = []
        for at, choice in enumerate(choices, 1):
            last = at == len(choices)
            chunks.append(self._chunk(choice, choice.get("delta"), usage if last else None, cost if last else None))
        return chunks

    def whole(self, value: Any) -> list[Chunk]:
        """The chunks of an answer in one piece, one for each output. Raises as `event`."""
        choices = value["choices"]
        if not choices:
            raise ValueError("no output")
        usage, cost = _usage(value.get("usage"))
        self._per_output, self._is_whole = False, True
        if len(choices) == 1:
            return [self._chunk(choices[0], choices[0].get("message"), usage, cost)]
        # Nobody says how the tokens are spread over several outputs: usage comes after them all.
        chunks = [self._chunk(choice, choice.get("message"), None, None) for choice in choices]
        return [*chunks, Chunk(usage=usage, cost_usd=cost)]

    def _chunk(self, choice: Any, said: Any, usage: StageUsage | None, cost: Decimal | None) -> Chunk:
        index = choice.get("index", 0)
        if index not in self._outputs:
            raise ValueError("an output that was not asked for")
        calls: tuple[ToolCallDelta, ...] = ()
        if said is None:  # the completion endpoint
            text, reasoning = choice.get("text") or "", ""
        else:
            text = said.get("content") or ""
            reasoning = said.get("reasoning") or said.get("reasoning_content") or ""
            if reasoning and self._only_answers:
                text, reasoning = reasoning + text, ""
            if asked := said.get("tool_calls"):
                calls = _tool_calls(asked, index)
        ids, scored, finish = choice.get("token_ids"), choice.get("logprobs"), choice.get("finish_reason")
        if not isinstance(text, str) or not isinstance(reasoning, str):
            raise TypeError("text that is none")
        if finish is not None:
            if finish in _FAILED:
                raise OutputFailed(f"the server gave its answer up ({finish})")
            finish = _FINISH.get(finish, "stop")
            self.unfinished &= ~(1 << int(index))  # some servers write 0.0
        if usage is not None and self._per_output:
            usage = self._summed(index, usage)
        if text or reasoning or calls or ids:
            self.begun = True
        return Chunk(
            text,
            reasoning,
            tuple(ids) if ids else (),
            _logprobs(scored) if scored else (),
            calls,
            usage,
            cost,
            finish,
            index,
            provider_parts=self._noted(said or {}, calls, index, has_ended=finish is not None),
        )

    def _noted(self, said: Any, calls: tuple[ToolCallDelta, ...], index: int, *, has_ended: bool) -> Json | None:
        """Note what the model wants back; all of it once the output has ended, and again if more comes then."""
        if self._only_answers:
            return None
        parts = self.parts[index]
        note = parts.whole if self._is_whole else parts.fragment
        of_calls = zip(calls, said.get("tool_calls") or (), strict=True)
        is_signed = note(said, [(delta.position, call) for delta, call in of_calls])
        comes_late = is_signed and not self.unfinished >> index & 1
        return parts.found if has_ended or comes_late else None

    def _summed(self, index: int, usage: StageUsage) -> StageUsage:
        """The running usage of vLLM counts the output that it comes with; ours counts the call."""
        self._used[index] = usage.output_tokens
        return StageUsage(usage.input_tokens, sum(self._used), usage.cached_tokens)


def _usage(given: Any) -> tuple[StageUsage | None, Decimal | None]:
    if not given:
        return None, None
    prompt, output = given.get("prompt_tokens"), given.get("completion_tokens")
    usage = None
    if type(prompt) is int and type(output) is int and prompt >= 0 and output >= 0:
        details = given.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if details else None
        usage = StageUsage(prompt, output, cached if type(cached) is int and cached >= 0 else None)
    cost = given.get("cost")
    if cost is None or isinstance(cost, bool):
        return usage, None
    try:
        amount = Decimal(str(cost))
    except InvalidOperation:
        return usage, None
    return usage, amount if amount.is_finite() else None


def _tool_calls(asked: Sequence[Any], output: int) -> tuple[ToolCallDelta, ...]:
    deltas = []
    for at, call in enumerate(asked):
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)  # some servers parse them
        position = call.get("index")
        deltas.append(
            ToolCallDelta(
                at if position is None else position, call.get("id"), function.get("name"), arguments or "", output
            )
        )
    return tuple(deltas)


def _logprobs(given: Any) -> tuple[TokenLogprob, ...]:
    if (content := given.get("content")) is not None:
        return tuple(
            TokenLogprob(
                item["token"],
                item["logprob"],
                tuple((top["token"], top["logprob"]) for top in item.get("top_logprobs") or ()),
            )
            for item in content
        )
    tokens = given.get("tokens") or ()
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, 0.0 if logprob is None else logprob, tuple((top or {}).items()))
        for token, logprob, top in zip(tokens, given.get("token_logprobs") or (), tops, strict=False)
    )
