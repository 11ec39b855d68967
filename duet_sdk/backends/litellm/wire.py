"""A `Call` → the arguments of ``litellm.acompletion``; what that returns → `Chunk`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from duet_sdk.backends.base import Call, Chunk
from duet_sdk.backends.provider_parts import CALL_FIELDS, MESSAGE_FIELDS, Parts, messages_on_wire
from duet_sdk.events import ToolCallDelta
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, TokenLogprob

if TYPE_CHECKING:
    from duet_sdk.backends.litellm.catalogue import ModelFacts

_SOME_THINKING = "low"
"""The effort for a call that is to think: the limit of tokens holds thinking and text together."""


def request_of(call: Call, facts: ModelFacts, *, endpoint: str, model: str) -> dict[str, Any]:
    """The arguments that the call itself makes; LiteLLM names ``max_tokens`` as the provider wants it."""
    sampling = call.sampling
    request: dict[str, Any] = {
        "messages": messages_on_wire(call.messages, endpoint=endpoint, model=model),
        "max_tokens": call.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "tools": [dict(tool) for tool in call.tools] or None,
        "tool_choice": call.tool_choice,
        "response_format": call.response_format,
        "n": call.n if call.n > 1 else None,
        "stream_options": None if call.whole or call.n > 1 else {"include_usage": True},
    }
    if sampling.logprobs is not None:
        request |= {"logprobs": True, "top_logprobs": sampling.logprobs or None}
    extra = dict(sampling.extra_body or {})
    if call.thinking is not None and facts.provider == "hosted_vllm":
        # What vLLM's templates take; one that does not know it ignores it.
        template = dict(extra.get("chat_template_kwargs") or {})
        extra["chat_template_kwargs"] = {"enable_thinking": call.thinking} | template
    elif call.thinking is not None and facts.no_thinking is not None:
        request["reasoning_effort"] = _SOME_THINKING if call.thinking else facts.no_thinking
    if extra:
        request["extra_body"] = extra
    return {name: value for name, value in request.items() if value is not None}


def answer_chunks(answer: Any) -> Iterator[Chunk]:
    """A whole answer, a chunk for each output."""
    for choice in answer.choices:
        chunk = _chunk(choice, choice.message, finish_reason=choice.finish_reason or "stop")
        parts = Parts()
        parts.whole(*_parted(choice.message, chunk))
        chunk.provider_parts = parts.found
        yield chunk


def delta_chunk(piece: Any, parts: Parts) -> Chunk:
    """A piece of a stream, which is of one output; ``parts`` notes what the model wants back, usage is read apart."""
    if not piece.choices:
        return Chunk()
    choice = piece.choices[0]
    chunk = _chunk(choice, choice.delta, finish_reason=choice.finish_reason)
    parts.fragment(*_parted(choice.delta, chunk))
    if chunk.finish_reason is not None:
        chunk.provider_parts = parts.found
    return chunk


def _parted(said: Any, chunk: Chunk) -> tuple[Json, list[tuple[int, Json]]]:
    """What a model may want back of a message and of its calls."""
    calls = zip(chunk.tool_calls, getattr(said, "tool_calls", None) or (), strict=True)
    return _named(said, MESSAGE_FIELDS), [(delta.position, _named(call, CALL_FIELDS)) for delta, call in calls]


def _named(said: Any, names: Iterable[str]) -> Json:
    """Fields by name; of whole answers LiteLLM moves those that it does not know into ``provider_specific_fields``."""
    moved = getattr(said, "provider_specific_fields", None) or {}
    found = {name: getattr(said, name, None) or moved.get(name) for name in names}
    return {name: value for name, value in found.items() if value}


def usage_of(reported: Any) -> StageUsage | None:
    """Tokens as billed, hidden reasoning in the output; None where none were reported."""
    if reported is None or not (reported.prompt_tokens or reported.completion_tokens):
        return None
    return StageUsage(
        input_tokens=reported.prompt_tokens or 0,
        output_tokens=max(
            reported.completion_tokens or 0, _detail(reported, "completion_tokens_details", "reasoning_tokens") or 0
        ),
        cached_tokens=_detail(reported, "prompt_tokens_details", "cached_tokens"),
    )


def _detail(reported: Any, details: str, name: str) -> int | None:
    told: int | None = getattr(getattr(reported, details, None), name, None)
    return told


def _chunk(choice: Any, said: Any, *, finish_reason: str | None) -> Chunk:
    index = choice.index or 0
    return Chunk(
        text=getattr(said, "content", None) or "",
        reasoning=getattr(said, "reasoning_content", None) or "",
        logprobs=tuple(_logprobs(getattr(choice, "logprobs", None))),
        tool_calls=tuple(_tool_calls(getattr(said, "tool_calls", None) or (), index)),
        finish_reason="tool_calls" if finish_reason == "function_call" else finish_reason,
        index=index,
    )


def _tool_calls(calls: Iterable[Any], index: int) -> Iterator[ToolCallDelta]:
    for at, call in enumerate(calls):
        position = getattr(call, "index", None)
        yield ToolCallDelta(
            position=at if position is None else position,
            id=call.id or None,
            name=call.function.name or None,
            arguments=call.function.arguments or "",
            index=index,
        )


def _logprobs(reported: Any) -> Iterator[TokenLogprob]:
    for item in _field(reported, "content") or ():
        best = tuple((_field(top, "token"), _field(top, "logprob")) for top in _field(item, "top_logprobs") or ())
        yield TokenLogprob(_field(item, "token"), _field(item, "logprob"), best)


def _field(value: Any, name: str) -> Any:
    """LiteLLM hands log-probabilities on as objects from some providers, as mappings from others."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)
