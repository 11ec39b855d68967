"""A `Call` → the arguments of ``litellm.acompletion``; what that returns → the JSON that `Reader` reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from duet_sdk.backends.base import Call
from duet_sdk.backends.provider_parts import CALL_FIELDS, MESSAGE_FIELDS

if TYPE_CHECKING:
    from duet_sdk.backends.litellm.catalogue import ModelFacts

_SOME_THINKING = "low"
"""The effort for a call that is to think: the limit of tokens holds thinking and text together."""


def request_of(call: Call, facts: ModelFacts, *, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments that the call itself makes; LiteLLM names ``max_tokens`` as the provider wants it."""
    sampling = call.sampling
    request: dict[str, Any] = {
        "messages": turns,
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


def value_of(answer: Any, *, with_usage: bool) -> dict[str, Any]:
    """What LiteLLM hands on, as JSON would say it: an answer, or an event of a stream.

    Args:
        answer: LiteLLM's object.
        with_usage: whether the usage in it is the server's: LiteLLM counts by itself where a server says nothing.
    """
    value: dict[str, Any] = answer.model_dump(exclude_none=True, warnings=False)
    if not with_usage:
        value.pop("usage", None)
    for choice in value.get("choices") or ():
        for name in ("message", "delta"):
            if said := choice.get(name):
                choice[name] = _moved_back(said, MESSAGE_FIELDS)
                if calls := said.get("tool_calls"):
                    choice[name]["tool_calls"] = [_moved_back(call, CALL_FIELDS) for call in calls]
    return value


def _moved_back(said: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The object with those fields that LiteLLM, which does not know them, moved into ``provider_specific_fields``."""
    moved = said.get("provider_specific_fields") or {}
    return {**{name: moved[name] for name in names if name in moved}, **said}
