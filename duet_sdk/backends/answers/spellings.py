"""How servers spell what OpenAI's API spells its way: one table for each thing, and where each spelling comes from.

A spelling that is missing here is a new row, and a case in ``tests/backends/test_spellings.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str, ...]
"""Names of nested objects, from the outside in."""

FINISH: Final[Mapping[str, str]] = {
    # OpenAI, https://platform.openai.com/docs/api-reference/chat/object
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # Anthropic, https://docs.anthropic.com/en/api/handling-stop-reasons
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    # Text Generation Inference and Together, https://huggingface.co/docs/text-generation-inference
    "eos_token": "stop",
    "eos": "stop",
    # Mistral, https://docs.mistral.ai/api
    "model_length": "length",
    # Gemini, https://ai.google.dev/api/generate-content#FinishReason (in capitals there; letter case is ignored here)
    "safety": "content_filter",
    "recitation": "content_filter",
    "language": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    # Cohere, https://docs.cohere.com/reference/chat
    "complete": "stop",
    "tool_call": "tool_calls",
    "error_toxic": "content_filter",
    # GLM, https://docs.z.ai/api-reference/llm/chat-completion
    "sensitive": "content_filter",
    # Bedrock, https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    # OpenAI's Responses API behind gateways, https://platform.openai.com/docs/api-reference/responses/object
    "max_output_tokens": "length",
    # MiniMax, https://platform.minimax.io/docs/api-reference/text-post
    "max_output": "length",
    # watsonx, https://cloud.ibm.com/apidocs/watsonx-ai#text-generation
    "token_limit": "length",
    "time_limit": "length",
    # Cohere's first version
    "error_limit": "length",
    # GigaChat, https://developers.sber.ru/docs/ru/gigachat/api/reference/rest/post-chat
    "blacklist": "content_filter",
    # vLLM, where it looks for repetition
    "repetition": "length",
    # the Responses API's status behind gateways
    "incomplete": "length",
    # other names of the limit and the window behind gateways
    "max_length": "length",
    "max_new_tokens": "length",
    "context_length_exceeded": "length",
    # llama.cpp's own endpoint, https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "limit": "length",
    "word": "stop",
}
"""Why an output ended, in lower case with underscores → as DUET says it. What follows a colon is left out: Gemini's
OpenAI endpoint writes ``content_filter: RECITATION``. A word that is not here counts as ``stop``."""

FAILED: Final = frozenset(
    {
        # vLLM and SGLang: the engine gave the request up
        "abort",
        "error",
        # DeepSeek, https://api-docs.deepseek.com/api/create-chat-completion
        "insufficient_system_resource",
        # GLM, as above
        "network_error",
        # Gemini, as above: what the model wrote is not given
        "malformed_function_call",
        "malformed_response",
        # the same by its OpenAI endpoint, before a colon
        "function_call_filter",
        # the Responses API's status behind gateways
        "server_error",
        "failed",
        "cancelled",
    }
)
"""Words, in lower case, by which a server says that it gave an output up."""

UNFINISHED: Final = frozenset({"", "null", "none", "finish_reason_unspecified"})
"""Words, in lower case, by which some servers say that an output goes on: DashScope writes ``"null"``."""

REASONING_FIELDS: Final = (
    "reasoning",  # vLLM since 0.12, OpenRouter, Groq
    "reasoning_content",  # DeepSeek, Kimi, GLM, Qwen, SGLang, llama.cpp, vLLM before
    "thinking",  # Ollama
    "reasoning_text",  # GitHub Copilot
    "reasoning_details",  # OpenRouter: parts, whose text it also writes into `reasoning`
    "thinking_blocks",  # LiteLLM: Anthropic's blocks
)
"""Fields of a message that hold thinking, the first that holds any counts: several servers write it twice."""

TEXT_PARTS: Final[Mapping[str, str]] = {
    "text": "text",  # OpenAI, Mistral, Anthropic
    "output_text": "text",  # OpenAI's Responses API
    "text_delta": "text",  # Anthropic's streams
    "input_text": "text",  # OpenAI's Responses API, echoed by gateways
    "message": "content",  # OpenAI's Responses API, an item within the content
    "refusal": "refusal",  # OpenAI
}
"""Type of a part of the content → the field that holds its text."""

THINKING_PARTS: Final[Mapping[str, str]] = {
    "thinking": "thinking",  # Mistral (a list of text parts), Anthropic
    "thinking_delta": "thinking",  # Anthropic's streams
    "reasoning": "text",  # Databricks and others; its `summary` is a list of parts
    "reasoning_text": "text",  # OpenAI's Responses API
    "summary_text": "text",  # OpenAI's Responses API, Databricks
    "reasoning.text": "text",  # OpenRouter
    "reasoning.summary": "summary",  # OpenRouter
    "thought": "text",  # gateways to Gemini
}
"""Type of a part that holds thinking → the field that holds its text."""

CALL_PARTS: Final[Mapping[str, str]] = {
    "tool_use": "input",  # Anthropic
    "function_call": "arguments",  # OpenAI's Responses API
    "tool_call": "arguments",
}
"""Type of a part that is a tool call → the field that holds its arguments."""

PART_TEXTS: Final = ("text", "thinking", "content", "summary", "reasoning")
"""Where else the text of a part may stand."""

INPUT_TOKENS: Final[tuple[Path, ...]] = (
    ("prompt_tokens",),  # OpenAI
    ("input_tokens",),  # Anthropic, the Responses API
    ("inputTokens",),  # Bedrock's own
    ("promptTokenCount",),  # Gemini's own
    ("prompt_eval_count",),  # Ollama's own
)
OUTPUT_TOKENS: Final[tuple[Path, ...]] = (
    ("completion_tokens",),
    ("output_tokens",),
    ("outputTokens",),
    ("candidatesTokenCount",),  # without thinking, which the total has
    ("eval_count",),
)
TOTAL_TOKENS: Final[tuple[Path, ...]] = (("total_tokens",), ("totalTokens",), ("totalTokenCount",))

CACHED_TOKENS: Final[tuple[Path, ...]] = (
    ("prompt_tokens_details", "cached_tokens"),  # OpenAI, vLLM, SGLang, llama.cpp, xAI, OpenRouter
    ("input_tokens_details", "cached_tokens"),  # the Responses API
    ("prompt_cache_hit_tokens",),  # DeepSeek, https://api-docs.deepseek.com/guides/kv_cache
    ("cached_tokens",),  # Kimi, https://platform.moonshot.ai/docs/api/chat; Together
    ("cache_read_input_tokens",),  # Anthropic, and LiteLLM for it
    ("prompt_tokens_details", "cache_read_tokens"),
    ("num_cached_tokens",),  # Mistral
    ("cacheReadInputTokens",),  # Bedrock's own
    ("cachedContentTokenCount",),  # Gemini's own
)
CACHE_WRITE_TOKENS: Final[tuple[Path, ...]] = (
    ("prompt_tokens_details", "cache_write_tokens"),  # OpenAI, OpenRouter
    ("prompt_tokens_details", "cache_creation_tokens"),  # LiteLLM
    ("prompt_tokens_details", "created_cache_tokens"),  # vLLM 0.32
    (
        "prompt_tokens_details",
        "cache_creation_input_tokens",
    ),  # Qwen, https://help.aliyun.com/zh/model-studio/context-cache
    ("input_tokens_details", "cache_write_tokens"),
    ("cache_creation_input_tokens",),  # Anthropic, and LiteLLM for it
    ("cache_write_input_tokens",),  # Bedrock
    ("cacheWriteInputTokens",),
    ("cache_write_tokens",),
)
BESIDE_INPUT: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""What Anthropic does not count in ``input_tokens``:
https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching#tracking-cache-performance."""
REASONING_TOKENS: Final[tuple[Path, ...]] = (
    ("completion_tokens_details", "reasoning_tokens"),  # OpenAI, vLLM, DeepSeek, xAI, OpenRouter
    ("output_tokens_details", "reasoning_tokens"),  # the Responses API
    ("reasoning_tokens",),  # SGLang, Perplexity
    ("thoughtsTokenCount",),  # Gemini's own
)
COST_USD: Final[tuple[Path, ...]] = (
    ("cost",),  # OpenRouter
    ("cost", "total_cost"),  # Perplexity
    ("estimated_cost",),  # DeepInfra
)
"""Where a provider says what the call cost, in USD."""

USAGES: Final[tuple[Path, ...]] = (
    ("usage",),  # OpenAI
    ("x_groq", "usage"),  # Groq's streams before `include_usage`
    ("usageMetadata",),  # Gemini's own, passed on by gateways
)
"""Where usage stands in an answer or an event; Kimi puts it into the last choice, under the first of these names."""
