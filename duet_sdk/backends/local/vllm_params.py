"""Calls and chunks in the form of vLLM's engine. Import it on use only: it needs vLLM where it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from duet_sdk.backends.base import Call, Chunk
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, TokenLogprob

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "logprobs")


def sampling_params(call: Call, *, defaults: Mapping[str, object], special: Mapping[str, int]) -> SamplingParams:
    """A call's sampling: over ``defaults``, and under ``sampling.extra_body``, whose fields are vLLM's own.

    Args:
        call: its limit and its number of outputs always hold.
        defaults: the model's own sampling.
        special: texts of special tokens and their ids.

    Raises:
        Exception: one of `refusals`, for a field that vLLM does not have or a value that it refuses.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = call.sampling
    fields: dict[str, Any] = dict(defaults)
    fields |= {name: value for name in _SAMPLING if (value := getattr(sampling, name)) is not None}
    if call.n > 1 and sampling.temperature == 0:
        fields |= {"temperature": 1.0, "top_k": 1}  # as greedy; vLLM refuses several outputs at temperature 0
    if call.response_format is not None:
        fields["structured_outputs"] = _shape(call.response_format)
    fields |= sampling.extra_body or {}
    if isinstance(shape := fields.get("structured_outputs"), Mapping):
        fields["structured_outputs"] = StructuredOutputsParams(**shape)
    if (bias := fields.get("logit_bias")) is not None:
        fields["logit_bias"] = {int(at): value for at, value in bias.items()}  # JSON knows text keys only
    # A special token never shows up in the text, where vLLM looks for stop texts.
    ids = [special[text] for text in sampling.stop if text in special]
    fields["stop_token_ids"] = [*fields.get("stop_token_ids", ()), *ids]
    fields |= {"n": call.n, "max_tokens": call.max_tokens, "stop": list(sampling.stop)}
    return SamplingParams(**fields, output_kind=RequestOutputKind.DELTA)


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it refuses."""
    from vllm.exceptions import VLLMClientError

    return (TypeError, ValueError, VLLMClientError)


def chunk_of(output: CompletionOutput, usage: StageUsage, *, top: int | None) -> Chunk:
    """What came of one output, with the call's usage so far and the ``top`` best alternatives of each token."""
    logprobs: tuple[TokenLogprob, ...] = ()
    if top is not None and output.logprobs:
        found = zip(output.token_ids, output.logprobs, strict=True)
        logprobs = tuple(_logprob(token, alternatives, top) for token, alternatives in found)
    return Chunk(
        text=output.text,
        token_ids=tuple(output.token_ids),
        logprobs=logprobs,
        usage=usage,
        finish_reason=output.finish_reason,
        index=output.index,
    )


def _logprob(token: int, alternatives: Mapping[int, Any], top: int) -> TokenLogprob:
    best = sorted(alternatives.values(), key=lambda one: one.rank)[:top]
    own = alternatives[token]
    return TokenLogprob(
        own.decoded_token or "", own.logprob, tuple((one.decoded_token or "", one.logprob) for one in best)
    )


def _shape(response_format: Json) -> dict[str, object]:
    """OpenAI's ``response_format`` as vLLM's constraint.

    Raises:
        ValueError: a type that is neither text, ``json_object`` nor ``json_schema``.
    """
    match response_format.get("type"):
        case "json_schema":
            return {"json": response_format["json_schema"]["schema"]}
        case "json_object":
            return {"json_object": True}
    raise ValueError(f"response_format has the type {response_format.get('type')!r}; known: json_schema, json_object")
