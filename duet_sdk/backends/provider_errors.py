"""How providers and servers spell their errors: the data table, and what a spelling means.

A new spelling is a row here and one in ``tests/backends/test_provider_errors.py``. Only what a status does not tell by
itself needs one; `MEANING_OF_STATUS` has the statuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Meaning: TypeAlias = Literal[
    "quota", "filtered", "key", "forbidden", "overflow", "model", "rate", "overloaded", "failed", "refused"
]
"""What an error means for whoever asked:

- ``quota``: the account is empty, a limit of it is used up, or the call is larger than the account allows;
- ``filtered``: a content filter stopped the prompt or the answer;
- ``key``: the key is wrong or missing;
- ``forbidden``: key, account or region may not use this;
- ``overflow``: prompt and limits do not fit the context;
- ``model``: no such model there;
- ``rate``: too many requests for now;
- ``overloaded``, ``failed``: the server cannot, for now;
- ``refused``: something else is wrong with the call.

Where an error could be two of these, the first one counts.
"""

MEANING_OF_STATUS: Final[Mapping[int, Meaning]] = {
    401: "key",
    402: "quota",
    403: "forbidden",
    408: "rate",
    409: "failed",  # OpenAI: locked for now, and tried again by its client
    424: "failed",  # TGI: the generation failed
    425: "rate",
    429: "rate",
    451: "forbidden",
    498: "rate",  # Groq: no capacity for its flex tier; https://console.groq.com/docs/errors
    499: "failed",  # a proxy in between gave up
    503: "overloaded",
    529: "overloaded",  # Anthropic; https://docs.claude.com/en/api/errors
}
"""What a status means where neither codes nor words say more; else 4xx is ``refused``, and 5xx ``failed``."""

_AT_ANY: Final = range(200, 600)
_FOR_NOW: Final = frozenset((408, 425, 429, 502, 503, 504, 529))
_WHERE: Final[Mapping[Meaning, frozenset[int]]] = {
    "quota": frozenset(_AT_ANY),
    "filtered": frozenset(_AT_ANY) - _FOR_NOW - {401},
    "key": frozenset((200, 400, 401, 403, 422, 498, 500)),
    "forbidden": frozenset((200, 400, 403, 404, 451)),
    "overflow": frozenset(_AT_ANY) - _FOR_NOW - {401, 402, 404, 501},
    "model": frozenset((200, 400, 403, 404, 410, 422, 500)),
    "rate": frozenset((200, 400, 403, 408, 425, 429, 500, 503)),
    "overloaded": frozenset((200, 500, 502, 503, 529)),
    "failed": frozenset((200,)),
    "refused": frozenset((200,)),
}
"""The statuses with which a meaning's spellings count: a 429 is never about the context, whatever it mentions."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to say one thing."""

    meaning: Meaning
    source: str
    codes: tuple[str, ...] = ()
    """Names and numbers of the error; case and separators do not count. ``base_resp 1008`` stood within that field."""
    words: str = ""
    """A regular expression of what its text says; case does not count."""
    unless_told_when: bool = False
    """It says this also of a limit that is over within seconds: with a time to wait it means ``rate``."""


SPELLINGS: Final = (
    # The account. OpenAI: https://platform.openai.com/docs/guides/error-codes, help article 6614457.
    Spelling(
        "quota",
        "OpenAI, Azure",
        (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
            "account_deactivated",
        ),
        r"billing hard limit|account is not active, please check your billing|run out of credits",
    ),
    Spelling(
        "quota",
        "OpenAI; Gemini says it of its limits by the minute, too: https://ai.google.dev/gemini-api/docs/rate-limits",
        words=r"exceeded your current quota",
        unless_told_when=True,
    ),
    Spelling(
        "quota",
        "OpenAI 429 and Groq 413, issues continuedev/continue#10602, #10218: above the account's tokens per minute",
        words=r"request too large for .{0,300}tokens per (?:min|day)|request too large.{0,200}\bTP[MD]\b",
    ),
    Spelling(
        "quota",
        "Anthropic: https://docs.claude.com/en/api/errors, issue anthropics/claude-code#4207",
        ("billing_error", "enforced_spend_limit_reached"),
        r"credit balance is too low|reached your specified (?:api )?usage limits|spend(?:ing)? limit reached",
    ),
    Spelling(
        "quota", "Gemini", words=r"prepay(?:ment)? credits are depleted|billing account .{0,80}(?:disabled|closed)"
    ),
    Spelling(
        "quota",
        "DeepSeek: https://api-docs.deepseek.com/quick_start/error_codes; many gateways",
        ("insufficient_balance", "insufficient_balance_error", "payment_required", "insufficient_credits"),
        r"insufficient (?:account )?(?:balance|credits?|funds)|余额不足|payment required",
    ),
    Spelling(
        "quota",
        "Kimi: https://platform.kimi.ai/docs/api/errors, https://www.kimi.com/code/docs/en/kimi-code/error-reference.html",
        ("exceeded_current_quota_error",),
        r"suspended due to insufficient balance|reached your usage limit for this",
    ),
    Spelling(
        "quota",
        "GLM: https://docs.z.ai/api-reference/api-code (1112 locked, 1113 in arrears, 1304 and 1308 to 1310 used up)",
        ("1112", "1113", "1304", "1308", "1309", "1310"),
        r"已欠费|account balance (?:is )?exhausted",
    ),
    Spelling(
        "quota",
        "MiniMax, issues MiniMax-AI/MiniMax-M2#62, modelscope#1691; sent with 429, 500 and 200",
        ("base_resp 1008", "base_resp 2056"),
    ),
    Spelling(
        "quota",
        "xAI, issues continuedev/continue#10373, #12670, Wei-Shaw/sub2api#4069; sent with 403 and 429",
        words=r"used all available credits|monthly spending limit|have any credits|personal-team-blocked",
    ),
    Spelling(
        "quota",
        "OpenRouter: https://openrouter.ai/docs/api/reference/errors-and-debugging, issue QwenLM/qwen-code#73",
        ("openrouter_credits", "openrouter_key_limit"),
        r"requires more credits|can only afford|key limit exceeded|prompt tokens limit exceeded",
    ),
    Spelling(
        "quota",
        "Fireworks 412, issue pollinations#12136",
        words=r"suspended, possibly due to reaching the monthly spending limit|failure to pay past invoices",
    ),
    Spelling(
        "quota",
        "Qwen on DashScope: https://help.aliyun.com/zh/model-studio/error-code",
        ("Arrearage", "AllocationQuota.FreeTierOnly"),
        r"account is in good standing|free (?:tier|quota) of the model has been exhausted",
    ),
    Spelling(
        "quota", "Hugging Face", words=r"exceeded your monthly included credits|depleted your monthly included credits"
    ),
    Spelling("quota", "Cohere: https://docs.cohere.com/reference/errors", words=r"reached (?:its|your) billing limit"),
    Spelling("quota", "Bedrock", words=r"too many tokens per day"),
    # Content filters.
    Spelling(
        "filtered",
        "OpenAI, Azure: https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter; OpenRouter",
        (
            "content_filter",
            "content_policy_violation",
            "ResponsibleAIPolicyViolation",
            "moderation_blocked",
            "content_filtered",
            "refusal",
        ),
        r"triggering .{0,40}content management policy|rejected as a result of our safety system"
        r"|flagged as potentially violating|violat\w+ (?:our |the )?(?:usage|content) (?:polic|guideline)",
    ),
    Spelling("filtered", "Anthropic", words=r"blocked by content filtering policy"),
    Spelling("filtered", "DeepSeek", words=r"content exists risk"),
    Spelling("filtered", "Kimi: https://platform.kimi.ai/docs/api/errors", words=r"considered high risk"),
    Spelling("filtered", "GLM", ("1301",), r"不安全或敏感内容|(?:unsafe or sensitive|sensitive or unsafe) content"),
    Spelling("filtered", "MiniMax", ("base_resp 1026", "base_resp 1027"), r"(?:input|output) (?:new_)?sensitive"),
    Spelling(
        "filtered",
        "Qwen on DashScope, issue QwenLM/qwen-code#3145",
        ("DataInspectionFailed",),
        r"may contain inappropriate content|DataInspectionFailed",
    ),
    Spelling(
        "filtered",
        "OpenRouter 403",
        words=r"requires moderation|input was flagged|flagged by (?:a |the )?moderation",
    ),
    Spelling("filtered", "Gemini", ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST"), r"blocked due to safety"),
    Spelling("filtered", "xAI", words=r"content violates usage guidelines"),
    Spelling("filtered", "Bedrock", words=r"blocked by (?:the )?guardrail"),
    # Keys.
    Spelling(
        "key",
        "OpenAI, vLLM, DeepSeek, Kimi, Groq, Mistral",
        ("invalid_api_key", "authentication_error", "invalid_authentication_error", "authentication"),
        r"(?:incorrect|invalid|missing|wrong|expired) (?:or (?:missing|invalid) )?api[ _-]?key"
        r"|api[ _-]?key (?:is |appears to be )?(?:invalid|incorrect|missing|not valid|expired|not provided)",
    ),
    Spelling(
        "key",
        "Gemini 400, issue continuedev/continue#9251",
        ("API_KEY_INVALID", "UNAUTHENTICATED"),
        r"api key not (?:valid|found)",
    ),
    Spelling(
        "key",
        "openai 3 before it sends anything, which LiteLLM makes a 500 of",
        words=r"missing credentials\. please pass",
    ),
    Spelling("key", "GLM", ("1000", "1001", "1002", "1003", "1004"), r"身份验证失败"),
    Spelling("key", "MiniMax", ("base_resp 1004", "base_resp 2049")),
    Spelling("key", "Cohere 401, 498", words=r"invalid api token"),
    Spelling(
        "key",
        "Bedrock: https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html",
        ("UnrecognizedClientException", "InvalidClientTokenId", "IncompleteSignature", "ExpiredTokenException"),
        r"security token included in the request is",
    ),
    # Permissions and regions.
    Spelling(
        "forbidden",
        "OpenAI",
        ("unsupported_country_region_territory", "permission_error", "permission_denied", "ip_not_authorized"),
        r"country, region, or territory not supported",
    ),
    Spelling("forbidden", "Gemini 400", words=r"user location is not supported"),
    Spelling("forbidden", "Kimi", ("permission_denied_error",)),
    Spelling("forbidden", "GLM", ("1220", "1311")),
    Spelling("forbidden", "Bedrock", ("AccessDeniedException", "NotAuthorized"), r"not authorized to invoke this api"),
    # The context. The same words serve many: OpenAI's are also those of vLLM, SGLang, DeepSeek, Mistral, OpenRouter.
    Spelling(
        "overflow",
        "OpenAI, Azure, vLLM, SGLang, DeepSeek, Groq, OpenRouter, Cloudflare, MiniMax",
        ("context_length_exceeded", "context_window_exceeded"),
        # Not Groq's "the maximum value for `max_tokens` is less than the `context_window` for this model".
        r"(?<!less than the `)context[ _-](?:length|size|window|limit)"
        r"|reduce the length of (?:the|your) (?:messages|prompt|input)",
    ),
    Spelling("overflow", "OpenAI, GPT-5", words=r"input tokens exceed the (?:configured )?limit"),
    Spelling(
        "overflow",
        "Anthropic, xAI, Bedrock, Fireworks, vLLM, Kimi, GLM 1261",
        words=r"(?:prompt|input|conversation|messages?|token length|tokens) (?:is |are )?too long|prompt 超长",
    ),
    Spelling(
        "overflow",
        "vLLM, xAI, TensorRT-LLM, Triton, llama.cpp, Ollama",
        words=r"max(?:imum)?[ _](?:allowed )?(?:input|prompt|model|seq(?:uence)?)[ _]len|max_model_len",
    ),
    Spelling(
        "overflow",
        "Gemini; GitHub Copilot; Ollama; Kimi, issue MoonshotAI/kimi-cli#2011; Doubao",
        words=r"token count .{0,60}exceed|exceeded model token limit|exceed max(?:imum)? message tokens"
        r"|prompt exceeds max|(?<!max )(?<!output )\btokens? exceeds? the (?:maximum|limit)|input length .{0,40}exceeds"
        r"|exceeds? the max(?:imum)? (?:number of )?(?:input |prompt )?tokens",
    ),
    Spelling(
        "overflow",
        "TGI: https://github.com/huggingface/text-generation-inference, router/src/validation.rs; Together",
        words=r"inputs`? (?:tokens \+ `?max_new_tokens`? )?must (?:be <=|have less than)"
        r"|input token count \+ max_tokens",
    ),
    Spelling(
        "overflow",
        "TensorRT-LLM, issue triton-inference-server/tensorrtllm_backend#141",
        words=r"should not exceed max_(?:seq_len|num_tokens)|prompt length .{0,40}exceeds",
    ),
    Spelling(
        "overflow",
        "llama.cpp server; ds4",
        ("exceed_context_size_error", "context_exceeded"),
    ),
    Spelling("overflow", "LM Studio, issue lmstudio-bug-tracker#237", words=r"context the overflows|context overflow"),
    Spelling("overflow", "Cohere: https://docs.cohere.com/reference/errors", words=r"too many tokens(?!: max tokens)"),
    Spelling("overflow", "Bedrock, Titan", words=r"too many (?:input|prompt) tokens"),
    Spelling("overflow", "Vertex AI", words=r"token count is [\d,]+ but model only supports"),
    Spelling("overflow", "GitHub Models 413", ("tokens_limit_reached",), r"max size: [\d,]+ tokens"),
    Spelling("overflow", "GitHub Copilot", ("model_max_prompt_tokens_exceeded",)),
    Spelling("overflow", "LM Studio, llama.cpp", words=r"\bn_ctx\b"),
    Spelling(
        "overflow",
        "whoever says it in words of its own; what mentions max_tokens may be about the output alone",
        ("prompt_too_long", "input_too_long", "max_context_length_exceeded"),
        r"^(?!.*max_(?:completion_|new_|output_)?tokens).*(?:"
        r"\b(?:prompt|input|conversation|messages?|request|tokens?)\b[^.]{0,60}\bexceed(?:s|ed)?\b[^.]{0,40}"
        r"\b(?:tokens? (?:limit|length)|tokens? allowed|maximum (?:number of )?tokens|maximum length|tokens)\b"
        r"|token (?:limit|length) exceed|tokens of context"
        r"|(?:上下文|输入|提示词).{0,12}(?:超过|超出|过长|超长)|超[过出].{0,12}(?:上下文|最大长度|长度限制))",
    ),
    Spelling("overflow", "Cerebras", words=r"current length is \d+ while limit is"),
    Spelling("overflow", "Qwen on DashScope, issue QwenLM/qwen-code#98", words=r"range of input length should be"),
    # Names of models.
    Spelling(
        "model",
        "OpenAI, vLLM, Groq, LM Studio, DashScope",
        ("model_not_found", "model_not_available", "invalid_model", "DeploymentNotFound", "unknown_model"),
        r"model(?:(?!tool|file|image|message|call|function)(?:[^.]|\.\w)){0,120}?(?:not exist|doesn't exist|not found)"
        r"|(?:unknown|no such) model\b"
        r"|invalid model(?: name| id\b| identifier|:|[ :]*['\"`]|\.?$)",
    ),
    Spelling("model", "OpenRouter 400", words=r"is not a valid model"),
    Spelling(
        "model",
        "Groq: https://console.groq.com/docs/deprecations; OpenAI says deprecated, Anthropic and Together retired",
        ("model_decommissioned", "model_deprecated", "model_retired"),
        r"model.{0,120}? (?:has been|is|was) (?:decommissioned|deprecated|retired|sunset|discontinued|shut down)",
    ),
    Spelling("model", "GLM", ("1211", "1221"), r"模型不存在"),
    Spelling("model", "Kimi", words=r"not found the model"),
    Spelling("model", "Bedrock", words=r"model identifier is invalid"),
    Spelling("model", "Azure", words=r"api deployment for this resource does not exist"),
    # For now.
    Spelling(
        "rate",
        "OpenAI, Anthropic, Groq, Kimi, Mistral",
        (
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limited",
            "rate_limit_reached_error",
            "slow_down",
            "too_many_requests",
            "capacity_exceeded",
            "RESOURCE_EXHAUSTED",
            "in_flight_budget_exhausted",
        ),
    ),
    Spelling("rate", "Bedrock, DashScope", ("ThrottlingException", "Throttling", "Throttling.RateQuota")),
    Spelling("rate", "GLM", ("1302", "1303", "1305", "1312")),
    Spelling("rate", "MiniMax", ("base_resp 1002", "base_resp 1039", "base_resp 1041")),
    Spelling(
        "overloaded",
        "OpenAI, Anthropic, Kimi, OpenRouter, Bedrock, TGI",
        (
            "overloaded_error",
            "server_is_overloaded",
            "engine_overloaded_error",
            "provider_overloaded",
            "provider_unavailable",
            "ServiceUnavailableException",
            "ModelNotReadyException",
            "overloaded",
            "UNAVAILABLE",
        ),
    ),
    # What is said where no status says it: in a stream, or with status 200.
    Spelling(
        "failed",
        "OpenAI, Anthropic, Gemini, vLLM",
        ("server_error", "api_error", "internal_server_error", "internal_error", "INTERNAL"),
    ),
    Spelling(
        "refused",
        "OpenAI, Anthropic, Gemini, vLLM, TGI, Bedrock, MiniMax",
        (
            "invalid_request_error",
            "BadRequestError",
            "INVALID_ARGUMENT",
            "ValidationException",
            "unprocessable",
            "base_resp 2013",
        ),
    ),
)
"""The table."""


def squashed(code: str) -> str:
    """A code without case and separators: ``insufficient_quota`` and ``InsufficientQuota`` are one."""
    return re.sub(r"[\W_]+", "", code).lower()


_ORDER: Final[tuple[Meaning, ...]] = get_args(Meaning)
_BY_CODE: Final = {squashed(code): spelling for spelling in SPELLINGS for code in spelling.codes}
_BY_WORDS: Final = tuple(
    (spelling, re.compile(spelling.words, re.IGNORECASE | re.DOTALL)) for spelling in SPELLINGS if spelling.words
)


def meaning_of(status: int | None, codes: frozenset[str], words: str, *, told_when: bool = False) -> Meaning | None:
    """What an error means; None where nothing tells.

    Args:
        status: of HTTP, None or 200 where it says nothing.
        codes: the names that the error gives itself.
        words: what it says.
        told_when: whether it says when to ask again.
    """
    found = {spelling for code in codes if (spelling := _BY_CODE.get(squashed(code))) is not None}
    found |= {spelling for spelling, pattern in _BY_WORDS if pattern.search(words)}
    meanings = {
        "rate" if told_when and spelling.unless_told_when else spelling.meaning
        for spelling in found
        if (status or 200) in _WHERE[spelling.meaning]
    }
    if status == 402 and told_when:
        # OpenRouter: what runs right now has used up the budget, and frees it when it ends.
        return "rate"
    for meaning in _ORDER:
        if meaning in meanings:
            return meaning
    if status is None or not 400 <= status < 600:
        return None
    return MEANING_OF_STATUS.get(status, "refused" if status < 500 else "failed")
