"""Errors as providers and servers send them, made by the documentation and reports that the SDK's table names."""

from __future__ import annotations

import json

from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContentFiltered,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
)


def openai(message, kind=None, code=None):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(message, status, code, *details):
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def anthropic(kind, message):
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


OVERFLOWS = [
    # who, status, body, tokens needed with the 16 that are asked for, window
    (
        "OpenAI",
        400,
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens. Please "
            "reduce the length of the messages.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        8561,
        8192,
    ),
    (
        "OpenAI, both",
        400,
        openai(
            "This model's maximum context length is 128,000 tokens. However, you requested 411,525 tokens (411,032 in the "
            "messages, 493 in the functions)."
        ),
        411_525,
        128_000,
    ),
    ("OpenAI, Responses", 400, openai("Your input exceeds the context window of this model."), 16, 0),
    (
        "OpenAI, GPT-5",
        400,
        openai(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300123 tokens. Please "
            "reduce the length of the messages."
        ),
        300_139,
        272_000,
    ),
    (
        "Anthropic",
        400,
        anthropic("invalid_request_error", "prompt is too long: 209353 tokens > 200000 maximum"),
        209_369,
        200_000,
    ),
    (
        "Anthropic, both",
        400,
        anthropic(
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
            "`max_tokens` and try again",
        ),
        209_573,
        200_000,
    ),
    (
        "Gemini",
        400,
        google(
            "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
            "INVALID_ARGUMENT",
            400,
        ),
        1_196_281,
        1_048_575,
    ),
    (
        "Gemini, without its count",
        400,
        google(
            "The input token count exceeds the maximum number of tokens allowed 1_048_576.", "INVALID_ARGUMENT", 400
        ),
        16,
        1_048_576,
    ),
    (
        "DeepSeek",
        400,
        openai(
            "This model's maximum context length is 131072 tokens. However, you requested 131134 tokens (122942 in the "
            "messages, 8192 in the completion). Please reduce the length of the messages or completion.",
            "invalid_request_error",
            "invalid_request_error",
        ),
        131_134,
        131_072,
    ),
    (
        "Kimi",
        400,
        openai(
            "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)",
            "invalid_request_error",
        ),
        269_030,
        262_144,
    ),
    ("Kimi, without numbers", 400, openai("Input token length too long", "invalid_request_error"), 16, 0),
    ("GLM", 400, openai("Prompt exceeds max length", None, "1261"), 16, 0),
    ("GLM, Chinese", 400, openai("Prompt 超长", None, "1261"), 16, 0),
    (
        "Mistral",
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_error",
            "code": "3051",
        },
        40_016,
        32_768,
    ),
    (
        "xAI",
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        },
        537_828,
        131_072,
    ),
    (
        "Groq",
        400,
        openai(
            "Please reduce the length of the messages or completion.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        16,
        0,
    ),
    (
        "OpenRouter",
        400,
        openai(
            "This endpoint's maximum context length is 128k tokens. However, you requested about 150000 tokens (149000 of text "
            "input, 1000 in the output).",
            None,
            400,
        ),
        150_000,
        128_000,
    ),
    (
        "OpenRouter, of its provider",
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "raw": json.dumps(openai("prompt is too long: 210 000 tokens > 200 000 maximum")),
                    "provider_name": "x",
                },
            }
        },
        210_016,
        200_000,
    ),
    (
        "Together",
        403,
        openai(
            "Input token count + max_tokens parameter must be less than the context length of the model being queried."
        ),
        16,
        0,
    ),
    (
        "Together, as TGI",
        422,
        openai(
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5013 `inputs` tokens and 128 `max_new_tokens`"
        ),
        5029,
        4097,
    ),
    (
        "Fireworks",
        400,
        openai("The prompt is too long: 140000, model maximum context length: 131071"),
        140_016,
        131_071,
    ),
    (
        "Cohere",
        400,
        {
            "message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292. Try using a shorter prompt."
        },
        4308,
        4081,
    ),
    ("Bedrock", 400, {"message": "Input is too long for requested model."}, 16, 0),
    (
        "Cerebras",
        400,
        openai("Please reduce the length of the messages or completion. Current length is 8199 while limit is 8192"),
        8215,
        8192,
    ),
    (
        "DashScope",
        400,
        openai(
            "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 204800]",
            None,
            "invalid_parameter_error",
        ),
        16,
        204_800,
    ),
    ("MiniMax", 400, openai("invalid params, context window exceeds limit (2013)", "bad_request_error"), 16, 0),
    (
        "vLLM",
        400,
        openai(
            "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
            "which exceeds this limit even without any output tokens.",
            "BadRequestError",
            400,
        ),
        2065,
        2048,
    ),
    (
        "vLLM, both",
        400,
        openai(
            "This model's maximum context length is 2048 tokens. However, you requested 16 output tokens and your prompt "
            "contains at least 2033 input tokens, for a total of at least 2049 tokens.",
            "BadRequestError",
            400,
        ),
        2049,
        2048,
    ),
    (
        "vLLM, in characters",
        400,
        openai(
            "This model's maximum context length is 2048 tokens. However, your prompt contains 90000 characters (more than 40960 "
            "characters, which is the upper bound for 2047 input tokens)."
        ),
        16,
        2048,
    ),
    (
        "vLLM, the limit alone",
        400,
        openai("max_tokens=9000 cannot be greater than max_model_len=2048. Please request fewer output tokens."),
        16,
        2048,
    ),
    (
        "vLLM, its engine",
        400,
        openai("The decoder prompt (length 5056) is longer than the maximum model length of 2048."),
        5072,
        2048,
    ),
    (
        "SGLang",
        400,
        {
            "object": "error",
            "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
            "type": "BadRequestError",
            "code": 400,
        },
        61_725,
        40_960,
    ),
    (
        "SGLang, both",
        400,
        {
            "object": "error",
            "message": "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of "
            "9000 tokens: 8500 tokens from the input messages and 500 tokens for the completion.",
        },
        9000,
        8192,
    ),
    (
        "llama.cpp",
        400,
        {
            "error": {
                "code": 400,
                "message": "request (3000 tokens) exceeds the available context size (2048 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 3000,
                "n_ctx": 2048,
            }
        },
        3016,
        2048,
    ),
    ("Ollama", 500, {"error": "the input length exceeds maximum context length of 4096"}, 16, 4096),
    (
        "LM Studio",
        400,
        {
            "error": "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough."
        },
        15_873,
        4096,
    ),
    (
        "TGI",
        422,
        {
            "error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
            "error_type": "validation",
        },
        5016,
        4096,
    ),
    ("TensorRT-LLM", 400, openai("Prompt length (5056) exceeds maximum sequence length (2048)"), 5072, 2048),
    (
        "TensorRT-LLM, both",
        400,
        openai(
            "The sum of prompt length (5000.0), query length (0) max_tokens (16) should not exceed max_seq_len (4096)"
        ),
        5016,
        4096,
    ),
    (
        "Vertex AI",
        400,
        google(
            "Unable to submit request because the input token count is 1500000 but model only supports up to 1048576. "
            "Reduce the input token count and try again.",
            "INVALID_ARGUMENT",
            400,
        ),
        1_500_016,
        1_048_576,
    ),
    (
        "GitHub Models",
        413,
        openai("Request body too large for gpt-4o model. Max size: 8000 tokens.", None, "tokens_limit_reached"),
        16,
        8000,
    ),
    ("GitHub Copilot", 400, openai("prompt token count of 140,000 exceeds the limit of 128,000"), 140_016, 128_000),
    (
        "Bedrock, Titan",
        400,
        {"message": "Too many input tokens. Max input tokens: 8192, request input token count: 9000"},
        9016,
        8192,
    ),
    (
        "SiliconFlow",
        400,
        {
            "code": 20015,
            "message": "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
            "data": None,
        },
        40_016,
        32_768,
    ),
    (
        "DashScope, older",
        400,
        {"code": "InvalidParameter", "message": "Total message token length exceed model limit (98304 tokens)"},
        16,
        98_304,
    ),
    (
        "SGLang, newer",
        400,
        openai("Input length (61709 tokens) exceeds the maximum allowed length (40954 tokens). Use a shorter input."),
        61_725,
        40_954,
    ),
    ("Ollama, newer", 400, {"error": "prompt too long; exceeded max context length by 42 tokens"}, 16, 0),
    (
        "LM Studio, newer",
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context length. "
            "(n_keep: 5000 >= n_ctx: 4096)"
        },
        5016,
        4096,
    ),
    ("llama.cpp for Python", 500, openai("Requested tokens (3000) exceed context window of 2048"), 3016, 2048),
    (
        "TensorRT-LLM, newer",
        400,
        openai(
            "default_max_tokens (-952) should be greater than 0, `default_max_tokens (-952) = max_seq_len (2048) - "
            "splited_prompt_len (3000) - query_token_len (0)`"
        ),
        3016,
        2048,
    ),
    (
        "a gateway, with suffixes",
        400,
        openai("This model takes 32k tokens of context, your prompt has 40.5k tokens"),
        40_516,
        32_000,
    ),
    (
        "a gateway, the limit last",
        400,
        openai("Your prompt of 9_000 tokens exceeds the 8_192 token limit."),
        9016,
        8192,
    ),
    (
        "a gateway, the limit first",
        400,
        openai("8192 is the most; the request exceeded that many tokens: 9000"),
        9016,
        8192,
    ),
    ("a gateway, Chinese", 400, {"code": 400, "msg": "输入长度超出模型最大长度"}, 16, 0),
    (
        "a gateway",
        400,
        openai("Prompt has 256,468 tokens, but the configured context size is 256,000 tokens"),
        256_484,
        256_000,
    ),
    (
        "a gateway, the other way round",
        400,
        openai("Context window of 32.768 tokens exceeded: the prompt has 40.001 tokens"),
        40_017,
        32_768,
    ),
    (
        "a gateway, in words of its own",
        400,
        openai("The conversation (9000 tokens) is too long, 8192 fit", None, "context_length_exceeded"),
        9016,
        8192,
    ),
    (
        "RFC 9457",
        413,
        {
            "type": "https://x.test/errors/context-length-exceeded",
            "title": "Too long",
            "status": 413,
            "detail": "Too long.",
        },
        16,
        0,
    ),
]

MEANINGS = [
    # who, status, body, class, whether it is tried again
    (
        "OpenAI, quota",
        429,
        openai(
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
            "insufficient_quota",
        ),
        QuotaExceeded,
        False,
    ),
    (
        "OpenAI, credits",
        429,
        openai("No credits left.", "insufficient_quota", "credit_balance_exhausted"),
        QuotaExceeded,
        False,
    ),
    ("OpenAI, spending", 429, openai("…", "x", "project_spend_limit_exceeded"), QuotaExceeded, False),
    (
        "OpenAI, hard limit",
        400,
        openai("Billing hard limit has been reached", "invalid_request_error", "billing_hard_limit_reached"),
        QuotaExceeded,
        False,
    ),
    (
        "OpenAI, more than a minute's",
        429,
        openai(
            "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 61337.",
            "tokens",
            "rate_limit_exceeded",
        ),
        QuotaExceeded,
        False,
    ),
    (
        "OpenAI, for now",
        429,
        openai(
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.",
            "tokens",
            "rate_limit_exceeded",
        ),
        RateLimited,
        True,
    ),
    (
        "OpenAI, filter",
        400,
        openai(
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            "invalid_request_error",
            "invalid_prompt",
        ),
        ContentFiltered,
        False,
    ),
    (
        "OpenAI, key",
        401,
        openai("Incorrect API key provided: sk-no***.", "invalid_request_error", "invalid_api_key"),
        Authentication,
        False,
    ),
    (
        "OpenAI, region",
        403,
        openai(
            "Country, region, or territory not supported", "request_forbidden", "unsupported_country_region_territory"
        ),
        Authentication,
        False,
    ),
    (
        "OpenAI, no access",
        403,
        openai("Project `p` does not have access to model `m`", "invalid_request_error", "model_not_found"),
        ModelNotFound,
        False,
    ),
    (
        "OpenAI, overloaded",
        503,
        openai("The engine is currently overloaded, please try again later", "server_error", "server_is_overloaded"),
        BackendError,
        True,
    ),
    (
        "Azure, filter",
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        ContentFiltered,
        False,
    ),
    (
        "Azure, name",
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
        ModelNotFound,
        False,
    ),
    (
        "Azure, for now",
        429,
        {"error": {"code": "429", "message": "Requests have exceeded call rate limit. Please retry after 20 seconds."}},
        RateLimited,
        True,
    ),
    (
        "Anthropic, credit",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        QuotaExceeded,
        False,
    ),
    ("Anthropic, billing", 402, anthropic("billing_error", "…"), QuotaExceeded, False),
    (
        "Anthropic, filter",
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        ContentFiltered,
        False,
    ),
    ("Anthropic, name", 404, anthropic("not_found_error", "model: claude-x"), ModelNotFound, False),
    ("Anthropic, overloaded", 529, anthropic("overloaded_error", "Overloaded"), BackendError, True),
    (
        "Anthropic, bytes",
        413,
        anthropic("request_too_large", "Request exceeds the maximum allowed number of bytes"),
        Rejected,
        False,
    ),
    (
        "Gemini, key",
        400,
        google(
            "API key not valid. Please pass a valid API key.",
            "INVALID_ARGUMENT",
            400,
            {"@type": "x", "reason": "API_KEY_INVALID"},
        ),
        Authentication,
        False,
    ),
    (
        "Gemini, region",
        400,
        google("User location is not supported for the API use.", "FAILED_PRECONDITION", 400),
        Authentication,
        False,
    ),
    (
        "Gemini, by the minute",
        429,
        google(
            "You exceeded your current quota, please check your plan and billing details. Please retry in 44.38s.",
            "RESOURCE_EXHAUSTED",
            429,
            {"retryDelay": "44s"},
        ),
        RateLimited,
        True,
    ),
    (
        "Gemini, name",
        404,
        google(
            "models/x is not found for API version v1main, or is not supported for generateContent.", "NOT_FOUND", 404
        ),
        ModelNotFound,
        False,
    ),
    (
        "Gemini behind a gateway",
        400,
        {
            "error": {
                "message": json.dumps(
                    {
                        "error": {
                            "code": 400,
                            "message": "API key not valid.",
                            "details": [{"reason": "API_KEY_INVALID"}],
                        }
                    }
                ),
                "code": 400,
            }
        },
        Authentication,
        False,
    ),
    (
        "DeepSeek, balance",
        402,
        openai("Insufficient Balance", "unknown_error", "invalid_request_error"),
        QuotaExceeded,
        False,
    ),
    (
        "DeepSeek, risk",
        400,
        openai("Content Exists Risk", "invalid_request_error", "invalid_request_error"),
        ContentFiltered,
        False,
    ),
    (
        "DeepSeek, name",
        400,
        openai("Model Not Exist", "invalid_request_error", "invalid_request_error"),
        ModelNotFound,
        False,
    ),
    (
        "Kimi, quota",
        429,
        openai("Your account is suspended due to insufficient balance", "exceeded_current_quota_error"),
        QuotaExceeded,
        False,
    ),
    (
        "Kimi, cycle",
        403,
        openai("You've reached your usage limit for this billing cycle", "access_terminated_error"),
        QuotaExceeded,
        False,
    ),
    (
        "Kimi, filter",
        400,
        openai("The request was rejected because it was considered high risk", "content_filter"),
        ContentFiltered,
        False,
    ),
    (
        "Kimi, name",
        404,
        openai("Not found the model x or Permission denied", "resource_not_found_error"),
        ModelNotFound,
        False,
    ),
    (
        "Kimi, overloaded",
        429,
        openai("The engine is currently overloaded, please try again later", "engine_overloaded_error"),
        RateLimited,
        True,
    ),
    ("GLM, arrears", 429, openai("您的账户已欠费,请充值后重试", None, "1113"), QuotaExceeded, False),
    ("GLM, for now", 429, openai("…", None, "1302"), RateLimited, True),
    (
        "GLM, filter",
        400,
        openai("系统检测到输入或生成内容可能包含不安全或敏感内容", None, "1301"),
        ContentFiltered,
        False,
    ),
    ("GLM, name", 400, openai("Unknown Model, please check the model code.", None, "1211"), ModelNotFound, False),
    (
        "openai 3 without a key",
        500,
        openai("Missing credentials. Please pass an `api_key`, or set the `OPENAI_API_KEY` environment variable."),
        Authentication,
        False,
    ),
    ("GLM, key", 401, openai("身份验证失败", None, "1000"), Authentication, False),
    ("MiniMax, balance", 500, anthropic("api_error", "insufficient balance (1008)"), QuotaExceeded, False),
    (
        "MiniMax, balance within",
        429,
        {"error": {"http_code": "429", "message": "insufficient balance (1008)", "type": "insufficient_balance_error"}},
        QuotaExceeded,
        False,
    ),
    (
        "Mistral, name",
        400,
        {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
        ModelNotFound,
        False,
    ),
    (
        "Mistral, detail",
        422,
        {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": {"a": 1}}]},
        Rejected,
        False,
    ),
    ("Mistral, key", 401, {"detail": "Unauthorized"}, Authentication, False),
    (
        "xAI, key",
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "Incorrect API key provided: sk***. You can obtain an API key from https://console.x.ai.",
        },
        Authentication,
        False,
    ),
    (
        "xAI, credits",
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Your newly created team doesn't have any credits yet.",
        },
        QuotaExceeded,
        False,
    ),
    (
        "xAI, spent",
        429,
        {
            "code": "x",
            "error": "Your team 1 has either used all available credits or reached its monthly spending limit.",
        },
        QuotaExceeded,
        False,
    ),
    (
        "Groq, for now",
        429,
        openai(
            "Rate limit reached for model `m` on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        RateLimited,
        True,
    ),
    (
        "Groq, too large",
        413,
        openai(
            "Request too large for model `m` in organization `o` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 14137",
            "tokens",
            "rate_limit_exceeded",
        ),
        QuotaExceeded,
        False,
    ),
    ("Groq, capacity", 498, openai("Flex tier capacity exceeded", "x", "capacity_exceeded"), RateLimited, True),
    (
        "Groq, the limit",
        400,
        openai(
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model",
            "invalid_request_error",
        ),
        Rejected,
        False,
    ),
    (
        "OpenRouter, credits",
        402,
        openai(
            "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 30104.",
            None,
            402,
        ),
        QuotaExceeded,
        False,
    ),
    (
        "Groq, a model that is gone",
        400,
        openai(
            "The model `m` has been decommissioned and is no longer supported. Please refer to "
            "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead.",
            "invalid_request_error",
            "model_decommissioned",
        ),
        ModelNotFound,
        False,
    ),
    (
        "OpenAI, a model that is gone",
        404,
        openai("The model `m` has been deprecated", None, None),
        ModelNotFound,
        False,
    ),
    ("OpenRouter, name", 400, openai("foo/bar is not a valid model ID", None, 400), ModelNotFound, False),
    (
        "OpenRouter, filter",
        403,
        {
            "error": {
                "code": 403,
                "message": "x requires moderation on y. Your input was flagged for z.",
                "metadata": {"reasons": ["z"]},
            }
        },
        ContentFiltered,
        False,
    ),
    ("OpenRouter, its provider", 502, openai("Provider returned error", None, 502), BackendError, True),
    (
        "Together, name",
        404,
        openai("Unable to access model x. Please visit …", "invalid_request_error", "model_not_available"),
        ModelNotFound,
        False,
    ),
    (
        "Fireworks, suspended",
        412,
        openai(
            "Account x is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.",
            "error",
            "PRECONDITION_FAILED",
        ),
        QuotaExceeded,
        False,
    ),
    (
        "Fireworks, name",
        404,
        openai("Model not found, inaccessible, and/or not deployed", "error", "NOT_FOUND"),
        ModelNotFound,
        False,
    ),
    (
        "Cohere, the limit",
        400,
        {
            "message": "too many tokens: max tokens must be less than or equal to 4096, the maximum output for this model - received 8192."
        },
        Rejected,
        False,
    ),
    ("Cohere, key", 498, {"message": "invalid api token"}, Authentication, False),
    ("Bedrock, for now", 429, {"message": "Too many tokens, please wait before trying again."}, RateLimited, True),
    ("Bedrock, name", 400, {"message": "The provided model identifier is invalid."}, ModelNotFound, False),
    ("Bedrock, key", 403, {"message": "The security token included in the request is invalid."}, Authentication, False),
    (
        "DashScope, arrears",
        400,
        {
            "code": "Arrearage",
            "message": "Access denied, please make sure your account is in good standing.",
            "request_id": "1",
        },
        QuotaExceeded,
        False,
    ),
    (
        "DashScope, filter",
        400,
        openai(
            "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.",
            None,
            "data_inspection_failed",
        ),
        ContentFiltered,
        False,
    ),
    (
        "DashScope, name",
        404,
        openai(
            "The model `x` does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"
        ),
        ModelNotFound,
        False,
    ),
    ("vLLM, name", 404, openai("The model `x` does not exist.", "NotFoundError", 404), ModelNotFound, False),
    ("vLLM, key", 401, {"error": "Unauthorized"}, Authentication, False),
    (
        "vLLM, a parameter",
        400,
        openai("top_k must be 0 (disable), or at least 1, got -5.", "BadRequestError", 400),
        Rejected,
        False,
    ),
    (
        "vLLM, no room asked for",
        400,
        openai("min_tokens must be less than or equal to max_tokens=16, got 20.", "BadRequestError", 400),
        Rejected,
        False,
    ),
    ("llama.cpp, loading", 503, openai("Loading model", "unavailable_error", 503), BackendError, True),
    ("llama.cpp, key", 401, openai("Invalid API Key", "authentication_error", 401), Authentication, False),
    ("Ollama, name", 404, {"error": 'model "qwen3:0.6b" not found, try pulling it first'}, ModelNotFound, False),
    (
        "LM Studio, name",
        404,
        openai("No model found that matches model identifier 'x'", "invalid_request_error", "model_not_found"),
        ModelNotFound,
        False,
    ),
    ("TGI, overloaded", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, RateLimited, True),
    (
        "TGI, a parameter",
        422,
        {"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"},
        Rejected,
        False,
    ),
    (
        "a gateway, msg",
        429,
        {"code": 1113, "msg": "Insufficient balance or no resource package."},
        QuotaExceeded,
        False,
    ),
    (
        "the limit of the output",
        400,
        openai(
            "The `max_tokens` of this request is above the limit of the model (32768)", "invalid_request_error", "1261"
        ),
        Rejected,
        False,
    ),
    (
        "the limit of the output, OpenAI",
        400,
        openai(
            "max_tokens is too large: 200000. This model supports at most 128000 completion tokens",
            "invalid_request_error",
            "invalid_value",
        ),
        Rejected,
        False,
    ),
    (
        "the limit of the output, in other words",
        400,
        openai("The `max_tokens` of this request exceeds the token limit of the model (32768)"),
        Rejected,
        False,
    ),
    (
        "the length of a name",
        400,
        openai("Invalid 'user': string too long. Expected at most 64 characters."),
        Rejected,
        False,
    ),
    (
        "TGI, failed",
        424,
        {"error": "Request failed during generation: x", "error_type": "generation"},
        BackendError,
        True,
    ),
    ("a tool", 400, openai("The model called a tool whose call id was not found in the messages"), Rejected, False),
    (
        "Kimi, for now",
        429,
        openai("Your account reached max RPM: 3, please try again after 1 seconds", "rate_limit_reached_error"),
        RateLimited,
        True,
    ),
    ("a proxy, a page", 403, "<html><title>Attention Required! | Cloudflare</title></html>", Authentication, False),
    ("a proxy, the address", 404, "<html><title>404 Not Found</title></html>", ConnectFailed, False),
    ("a proxy, its address", 404, {"message": "no Route matched with those values"}, ConnectFailed, False),
    ("a proxy, the model", 404, {"detail": "Model not found"}, ModelNotFound, False),
    ("tools", 400, openai("registry.x/m does not support tools"), Rejected, False),
    ("images", 400, openai("Too many images: the prompt contains 6 images, the maximum is 5"), Rejected, False),
    ("nothing there", 404, {"detail": "Not Found"}, ConnectFailed, False),
]
