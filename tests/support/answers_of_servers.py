"""Answers as servers document them, in their own forms: what the fuzzer starts from."""

from __future__ import annotations

from typing import Any

_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-2026-11-01"}
_WHOLE = {**_CHUNK, "object": "chat.completion"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {**_CHUNK, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], **more}


def _answer(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {**_WHOLE, "choices": [choice], "usage": _USAGE, **more}


def _call(**function: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "look_up", **function}}


STREAMS: dict[str, list[dict[str, Any]]] = {
    "vllm": [
        _chunk({"role": "assistant", "content": ""}, usage={**_USAGE, "completion_tokens": 0}),
        {
            **_CHUNK,
            "choices": [{"index": 0, "delta": {"reasoning": "hm"}, "token_ids": [5], "finish_reason": None}],
            "usage": {**_USAGE, "completion_tokens": 1},
        },
        {
            **_CHUNK,
            "choices": [{"index": 0, "delta": {"content": "17"}, "token_ids": [6, 7], "finish_reason": "stop"}],
            "usage": {**_USAGE, "completion_tokens": 3},
        },
        {
            **_CHUNK,
            "choices": [],
            "usage": {
                **_USAGE,
                "prompt_tokens_details": {"cached_tokens": 8},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        },
    ],
    "azure": [
        {"choices": [], "id": "", "model": "", "object": "", "prompt_filter_results": [{"prompt_index": 0}]},
        _chunk({"role": "assistant", "content": "", "refusal": None}),
        _chunk({"content": "17"}),
        _chunk({}, "stop"),
        {**_CHUNK, "choices": [], "usage": _USAGE},
    ],
    "mistral": [
        _chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        _chunk({"content": [{"type": "text", "text": "17"}]}),
        _chunk({"content": ""}, "stop", usage=_USAGE),
    ],
    "gemini": [
        _chunk(
            {"tool_calls": [{**_call(arguments='{"n": 1}'), "extra_content": {"google": {"thought_signature": "x"}}}]}
        ),
        _chunk(
            {"tool_calls": [{**_call(arguments='{"n": 2}'), "id": "call_2"}]},
            "stop",
            usage={**_USAGE, "total_tokens": 99},
        ),
    ],
    "deepseek": [
        _chunk({"role": "assistant", "content": None, "reasoning_content": "hm"}),
        _chunk({"content": "17", "reasoning_content": None}),
        _chunk({"content": ""}, "stop", usage={**_USAGE, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4}),
    ],
    "kimi": [
        _chunk({"content": "17"}),
        {
            **_CHUNK,
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**_USAGE, "cached_tokens": 8}}],
        },
    ],
    "openrouter": [
        _chunk({"content": "", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
        _chunk({"content": "17"}),
        _chunk({"content": ""}, "stop", usage={**_USAGE, "cost": 0.0012}),
    ],
    "openai tools": [
        _chunk({"tool_calls": [{"index": 0, **_call(arguments="")}]}),
        _chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"n"'}}]}),
        _chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
        _chunk({}, "tool_calls"),
    ],
    "minimax": [
        _chunk({"content": "17"}),
        _answer({"content": "17"}, base_resp={"status_code": 0, "status_msg": ""}),
    ],
    "anthropic": [
        {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 12, "output_tokens": 1}}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "17"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    ],
    "completions": [
        {**_CHUNK, "object": "text_completion", "choices": [{"index": 0, "text": "17", "finish_reason": None}]},
        {**_CHUNK, "object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    ],
    "an error": [_chunk({"content": "17"}), {"error": {"message": "the engine died", "type": "Internal", "code": 500}}],
}
"""The events of a stream, by server."""

ANSWERS: dict[str, dict[str, Any]] = {
    "openai": _answer({"content": "17", "refusal": None, "annotations": []}),
    "refusal": _answer({"content": None, "refusal": "I cannot."}),
    "mistral": _answer(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "17"},
            ]
        }
    ),
    "tools": _answer(
        {"content": None, "tool_calls": [_call(arguments='{"n": 1}'), _call(arguments={"n": 2})]}, "tool_calls"
    ),
    "logprobs": {
        **_WHOLE,
        "choices": [
            {
                "index": 0,
                "message": {"content": "17"},
                "logprobs": {
                    "content": [{"token": "17", "logprob": -0.5, "top_logprobs": [{"token": "17", "logprob": -0.5}]}]
                },
                "finish_reason": "stop",
            }
        ],
    },
    "sglang": _answer({"content": "17", "reasoning_content": "hm"}, usage={**_USAGE, "reasoning_tokens": 3}),
    "anthropic through a gateway": _answer(
        {"content": "17"}, "end_turn", usage={**_USAGE, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}
    ),
    "completions": {"choices": [{"index": 0, "text": "17", "finish_reason": "length"}], "usage": _USAGE},
    "an error": {"error": {"message": "no", "code": "rate_limit_exceeded", "type": "requests"}},
    "fastapi": {"detail": [{"loc": ["body", "n"], "msg": "no", "type": "x"}]},
}
"""Answers in one piece, by server."""
