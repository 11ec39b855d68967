"""Calls and chunks in the form of OpenAI's API, with vLLM's additions: pure functions, no connection.

Source: https://platform.openai.com/docs/api-reference/chat, https://docs.vllm.ai/en/latest/serving/openai_compatible_server
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from duet_sdk.backends.base import Call, Chunk, Thought
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.events import ToolCallDelta
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, Message, TextPart, TokenLogprob

_OURS = (
    "model",
    "messages",
    "prompt",
    "prompt_embeds",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "n_predict",
    "n",
    "best_of",
    "use_beam_search",
    "stream",
    "stream_options",
    "return_token_ids",
    "echo",
)
_FINISH = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED = {"error", "abort"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What of vLLM's additions a server understands."""

    token_ids: bool = False
    """Token ids come with the output (``return_token_ids``)."""
    continuous_usage: bool = False
    """Usage comes with every chunk, for its own output alone (``continuous_usage_stats``)."""
    switch_thinking: bool = False
    """The chat template takes ``enable_thinking``."""


def path_of(call: Call) -> str:
    """Where a call goes, below the base URL."""
    return "/completions" if call.prompt_ids else "/chat/completions"


def request_body(call: Call, *, model: str, dialect: Dialect, own: Json | None = None) -> dict[str, Any]:
    """A call as a request: messages for the chat endpoint, token ids for the completion endpoint.

    What stands in ``sampling.extra_body`` goes over the call's own choices and over ``own``, the endpoint's fields,
    except where it would lift a limit or change how the answer is read.

    Raises:
        ConfigError: ``extra_body`` holds one of those.
        InvalidRequest: the completion endpoint cannot do what the call asks.
    """
    body: dict[str, Any] = {"model": model, "max_tokens": call.max_tokens, "stream": not call.whole}
    if not call.whole:
        body["stream_options"] = {"include_usage": True}
        if dialect.continuous_usage:
            body["stream_options"]["continuous_usage_stats"] = True
    if call.n != 1:
        body["n"] = call.n
    if dialect.token_ids:
        body["return_token_ids"] = True
    if call.prompt_ids:
        if call.tools:
            raise InvalidRequest("tools cannot be called from a prompt of token ids; send messages")
        body["prompt"] = list(call.prompt_ids)
    else:
        body["messages"] = [message_on_wire(message) for message in call.messages]
        if call.tools:
            body["tools"] = list(call.tools)
            if call.tool_choice is not None:
                body["tool_choice"] = call.tool_choice
        if call.thinking is not None and dialect.switch_thinking:
            body["chat_template_kwargs"] = {"enable_thinking": call.thinking}
        if call.thought is not None:
            body |= _thought(call.thought, body["messages"])
    if call.response_format is not None:
        body["response_format"] = call.response_format
    return _merged(body | _sampling(call) | dict(own or {}), call.sampling.extra_body or {})


def _thought(thought: Thought, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields that put thinking into the open turn."""
    fields: dict[str, Any] = {"chat_template_kwargs": dict(thought.template)}
    if thought.turn is not None:
        fields["messages"] = [*turns, {"role": "assistant", "content": thought.turn}]
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    return fields


def _sampling(call: Call) -> dict[str, Any]:
    sampling = call.sampling
    given: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "seed")
        if (value := getattr(sampling, name)) is not None
    }
    if sampling.stop:
        given["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        given |= (
            {"logprobs": sampling.logprobs}
            if call.prompt_ids
            else {"logprobs": True, "top_logprobs": sampling.logprobs}
        )
    return given


def _merged(body: dict[str, Any], extra: Json) -> dict[str, Any]:
    for name in _OURS:
        if name in extra:
            raise ConfigError(
                f"extra_body must not hold {name!r}: DUET sets it, so that limits hold and the answer can be read"
            )
    merged = {**body, **extra}
    kwargs = extra.get("chat_template_kwargs")
    if isinstance(kwargs, Mapping) and "chat_template_kwargs" in body:
        merged["chat_template_kwargs"] = {**body["chat_template_kwargs"], **kwargs}
    return merged


def message_on_wire(message: Message) -> dict[str, Any]:
    """A message in OpenAI's form."""
    content: object = message.content
    if not isinstance(message.content, str):
        content = [
            {"type": "text", "text": part.text}
            if isinstance(part, TextPart)
            else {
                "type": "image_url",
                "image_url": {"url": part.url, **({"detail": part.detail} if part.detail else {})},
            }
            for part in message.content
        ]
    turn: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    return turn


def encode(body: Json) -> bytes:
    """A request as JSON bytes.

    Raises:
        InvalidRequest: something in it is no JSON, such as an object of a class in ``extra_body``.
    """
    try:
        text = _to_json(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the request holds what JSON cannot ({type(error).__name__}): check tools, response_format and extra_body"
        ) from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")  # lone surrogates, which no tokenizer takes


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode


class OutputFailed(ValueError):
    """The server gave up an output and says so in its finish reason."""


class Reader:
    """JSON of an answer → chunks. One for each call.

    Attributes:
        unfinished: outputs that have not said why they ended.
        done: whether the server said that nothing more comes.
        begun: whether anything was written.
    """

    def __init__(self, call: Call, *, dialect: Dialect) -> None:
        self.unfinished = set(range(call.n))
        self.done = False
        self.begun = False
        self._outputs = range(call.n)
        # Parsers that know nothing of the block in the prompt take the answer for more thinking.
        self._only_answers = call.thought is not None
        self._per_output = dialect.continuous_usage and call.n > 1
        self._used = [0] * call.n

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
        self._per_output = False
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
            self.unfinished.discard(index)
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
        )

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
        usage = StageUsage(prompt, output, cached if type(cached) is int and cached > 0 else 0)
    cost = given.get("cost")
    if cost is None or isinstance(cost, bool):
        return usage, None
    try:
        return usage, Decimal(str(cost))
    except InvalidOperation:
        return usage, None


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
