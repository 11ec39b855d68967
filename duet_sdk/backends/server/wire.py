"""Calls in the form of OpenAI's API, with vLLM's additions: pure functions, no connection.

Source: https://platform.openai.com/docs/api-reference/chat, https://docs.vllm.ai/en/latest/serving/openai_compatible_server
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from duet_sdk.backends.base import Call, Thought
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.types import Json

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
_NUMBERS = ("temperature", "top_p", "top_k", "min_p", "seed")
# Shared by all requests; never changed.
_USAGE = {"include_usage": True}
_CONTINUOUS_USAGE = {"include_usage": True, "continuous_usage_stats": True}


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


def request_body(
    call: Call, *, model: str, dialect: Dialect, own: Json | None = None, turns: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A call as a request: messages for the chat endpoint, token ids for the completion endpoint.

    ``turns`` are the call's messages as this server gets them; None for how they are.

    What stands in ``sampling.extra_body`` goes over the call's own choices and over ``own``, the endpoint's fields,
    except where it would lift a limit or change how the answer is read.

    Raises:
        ConfigError: ``extra_body`` holds one of those.
        InvalidRequest: the completion endpoint cannot do what the call asks.
    """
    body: dict[str, Any] = {"model": model, "max_tokens": call.max_tokens, "stream": not call.whole}
    if not call.whole:
        body["stream_options"] = _CONTINUOUS_USAGE if dialect.continuous_usage else _USAGE
    if call.n != 1:
        body["n"] = call.n
    if dialect.token_ids:
        body["return_token_ids"] = True
    if call.prompt_ids:
        if call.tools:
            raise InvalidRequest("tools cannot be called from a prompt of token ids; send messages")
        body["prompt"] = list(call.prompt_ids)
    else:
        body["messages"] = [m.on_wire() for m in call.messages] if turns is None else turns
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
    _sample(body, call)
    if own:
        body |= own
    return _merged(body, call.sampling.extra_body) if call.sampling.extra_body else body


def _thought(thought: Thought, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields that put thinking into the open turn."""
    fields: dict[str, Any] = {"chat_template_kwargs": dict(thought.template)}
    if thought.turn is not None:
        fields["messages"] = [*turns, {"role": "assistant", "content": thought.turn}]
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    return fields


def _sample(body: dict[str, Any], call: Call) -> None:
    """Add how the call samples, where it says so."""
    sampling = call.sampling
    for name in _NUMBERS:
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        if call.prompt_ids:
            body["logprobs"] = sampling.logprobs
        else:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}


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


def encoded_at_once(call: Call, body: Json) -> bytes | None:
    """The request that `request_body` made of a call, as JSON bytes: a millisecond for each MiB of a prompt.

    None where `encode` has to do it, which takes several times as long.
    """
    if _is_ours(call):
        try:
            return msgspec.json.encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError):
            pass  # a lone surrogate or a subclass of str: `encode` handles both
    return None


def _is_ours(call: Call) -> bool:
    """Whether a call holds only text and finite numbers; msgspec would also write values that are not JSON."""
    sampling = call.sampling
    if sampling.extra_body or call.tools or call.response_format is not None or call.thought is not None:
        return False
    numbers = [number for name in _NUMBERS if (number := getattr(sampling, name)) is not None]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def encode(body: Json) -> bytes:
    """A request as JSON bytes.

    Raises:
        InvalidRequest: something in it is not valid JSON, such as an object of a class in ``extra_body``.
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
    raise TypeError(f"{type(value).__name__} is not JSON")


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode
