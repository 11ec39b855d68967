"""What DUET's values look like as attributes of spans."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from duet_sdk.telemetry import names

if TYPE_CHECKING:
    from decimal import Decimal
    from typing import TypeAlias

    from opentelemetry.util.types import AttributeValue

    from duet_sdk.backends.base import Backend, Call
    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.reply import Attempt, GateDecision, StageUsage
    from duet_sdk.request import Labels, Request
    from duet_sdk.types import Stage

    Attributes: TypeAlias = dict[str, AttributeValue]

IN_PROCESS: Final = frozenset({"scripted", "transformers", "vllm-engine"})
"""Backends whose models run in this process: their spans are not client spans."""

_LABEL_CHARS: Final = 256
"""Metadata are labels, not documents."""

PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's names of providers that the conventions call otherwise."""


def readable(text: str) -> str:
    r"""The text as every exporter can carry it: half a surrogate pair would fail a whole batch of spans.

    >>> readable("half \ud800")
    'half ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def labels_of(labels: Labels) -> Attributes:
    """Session, user and tenant where they are given: on every span, as tools filter spans and not traces by them."""
    found: Attributes = {}
    if labels.session is not None:
        found[names.CONVERSATION_ID] = found[names.SESSION_ID] = readable(labels.session)
    if labels.user is not None:
        found[names.USER_ID] = readable(labels.user)
    if labels.tenant is not None:
        found[names.TENANT] = readable(labels.tenant)
    return found


def root_start(request: Request) -> Attributes:
    """What is known of a request before anything is done."""
    limits = request.budget
    found: Attributes = {
        names.OPERATION_NAME: names.INVOKE_WORKFLOW,
        names.WORKFLOW_NAME: names.WORKFLOW,
        names.MODE: request.mode,
    }
    if limits.total_tokens is not None:
        found[names.BUDGET_TOKENS_LIMIT] = limits.total_tokens
    if limits.cost_usd is not None:
        found[names.BUDGET_COST_LIMIT] = float(limits.cost_usd)
    for key, value in request.labels.metadata.items():
        if isinstance(value, str | bool | int | float):
            text = readable(value[:_LABEL_CHARS]) if isinstance(value, str) else value
            found[names.METADATA + readable(key)] = text
    return found


def root_end(draft: Draft) -> Attributes:
    """What a request came to. No ``gen_ai.usage.*``: tools would count tokens here and in the attempts."""
    account = draft.account
    usage, cost = account.usage(), account.cost()
    found: Attributes = {
        names.INPUT_TOKENS: usage.reasoner.input_tokens + usage.generator.input_tokens,
        names.OUTPUT_TOKENS: usage.reasoner.output_tokens + usage.generator.output_tokens,
        names.TOTAL_TOKENS: usage.total_tokens,
    }
    if usage.reasoner.estimated or usage.generator.estimated:
        found[names.USAGE_ESTIMATED] = found[names.COST_ESTIMATED] = True
    _put_usd(found, names.COST_USD, cost.usd)
    if draft.request.budget.total_tokens is not None:
        found[names.BUDGET_TOKENS_CONSUMED] = usage.total_tokens
    if draft.request.budget.cost_usd is not None:
        _put_usd(found, names.BUDGET_COST_CONSUMED, cost.usd)
    stages: tuple[tuple[Stage, StageUsage, Decimal | None], ...] = (
        ("reasoner", usage.reasoner, cost.reasoner_usd),
        ("generator", usage.generator, cost.generator_usd),
    )
    for stage, used, usd in stages:
        found[names.of_stage(names.INPUT_TOKENS, stage)] = used.input_tokens
        found[names.of_stage(names.OUTPUT_TOKENS, stage)] = used.output_tokens
        _put_usd(found, names.of_stage(names.COST_USD, stage), usd)
    if draft.signal.limit:
        found[names.SIGNAL_TOKENS] = draft.signal.tokens
        found[names.SIGNAL_LIMIT] = draft.signal.limit
        found[names.SIGNAL_TRUNCATED] = draft.signal.truncated
    if draft.handoff is not None:
        found[names.HANDOFF] = draft.handoff
    if account.first_answer_s is not None:
        found[names.TIME_TO_FIRST_ANSWER] = account.first_answer_s
    if discarded := sum(attempt.usage.total_tokens for attempt in account.attempts if attempt.discarded):
        found[names.DISCARDED_TOKENS] = discarded
    if overlap := sum(attempt.overlap_tokens for attempt in account.attempts):
        found[names.OVERLAP_TOKENS] = overlap
    return found


def decision_of(decision: GateDecision) -> Attributes:
    """What a gate decided."""
    found: Attributes = {
        names.GATE_POLICY: readable(decision.policy),
        names.GATE_DECISION: "ask" if decision.ask else "skip",
    }
    if decision.score is not None:
        found[names.GATE_SCORE] = decision.score
    if decision.threshold is not None:
        found[names.GATE_THRESHOLD] = decision.threshold
    return found


def called(backend: Backend) -> tuple[str, Attributes]:
    """Which model is called, and the attributes that say so and where: what spans and metrics share."""
    provider, model = backend.name, backend.model
    if provider == "litellm" and "/" in model:
        prefix, model = model.split("/", 1)
        provider = PROVIDERS.get(prefix, prefix)
    model = readable(model)
    found: Attributes = {
        names.OPERATION_NAME: names.CHAT,
        names.PROVIDER_NAME: provider,
        names.REQUEST_MODEL: model,
    }
    if backend.base_url:
        found[names.SERVER_ADDRESS], found[names.SERVER_PORT] = _server(backend.base_url)
    return model, found


def attempt_start(call: Call) -> Attributes:
    """What an attempt asks for."""
    sampling = call.sampling
    found: Attributes = {names.REQUEST_MAX_TOKENS: call.max_tokens, names.REQUEST_STREAM: not call.whole}
    given = (
        (names.REQUEST_TEMPERATURE, sampling.temperature),
        (names.REQUEST_TOP_P, sampling.top_p),
        (names.REQUEST_TOP_K, sampling.top_k),
        (names.REQUEST_SEED, sampling.seed),
    )
    for name, value in given:
        if value is not None:
            found[name] = value
    if call.n > 1:
        found[names.REQUEST_CHOICE_COUNT] = call.n
    if call.response_format is not None:
        found[names.OUTPUT_TYPE] = "json"
    return found


def attempt_end(record: Attempt, said: str) -> Attributes:
    """What an attempt came to, with the words of its error; token counts only if the model's server reported them."""
    usage = record.usage
    found: Attributes = {
        names.ATTEMPT_KIND: record.kind,
        names.OUTCOME: _outcome(record),
    }
    if not record.honoured:
        found[names.LIMIT_HONOURED] = False
    if usage.estimated:
        found[names.INPUT_TOKENS], found[names.OUTPUT_TOKENS] = usage.input_tokens, usage.output_tokens
        found[names.USAGE_ESTIMATED] = found[names.COST_ESTIMATED] = True
    elif usage.total_tokens:
        found[names.USAGE_INPUT_TOKENS], found[names.USAGE_OUTPUT_TOKENS] = usage.input_tokens, usage.output_tokens
        told = (
            (names.USAGE_CACHE_READ_INPUT_TOKENS, usage.cached_tokens),
            (names.USAGE_CACHE_CREATION_INPUT_TOKENS, usage.cache_write_tokens),
            (names.USAGE_REASONING_OUTPUT_TOKENS, usage.reasoning_tokens),
        )
        found.update((name, tokens) for name, tokens in told if tokens is not None)
    if record.response_model is not None:
        found[names.RESPONSE_MODEL] = readable(record.response_model)
    if record.response_id is not None:
        found[names.RESPONSE_ID] = readable(record.response_id)
    _put_usd(found, names.COST_USD, record.usd)
    if record.first_token_s is not None:
        found[names.RESPONSE_TIME_TO_FIRST_CHUNK] = record.first_token_s
    if record.finish_reasons:
        found[names.RESPONSE_FINISH_REASONS] = list(record.finish_reasons)
    if record.stage == "reasoner" and record.kind != "answer":
        found[names.SIGNAL_TOKENS] = usage.output_tokens
        found[names.SIGNAL_LIMIT] = record.limit_tokens
        found[names.SIGNAL_TRUNCATED] = record.truncated
    if record.overlap_tokens:
        found[names.OVERLAP_TOKENS] = record.overlap_tokens
    if record.discarded:
        found[names.DISCARDED] = True
    if record.error_type is not None:
        found |= {names.ERROR_TYPE: record.error_type, names.ERROR: said}
    return found


def _outcome(record: Attempt) -> str:
    if record.error_type is None:
        return "ok"
    return "cancelled" if record.error_type == "cancelled" else "error"


def _put_usd(found: Attributes, name: str, usd: Decimal | None) -> None:
    """An unknown price is left out: 0 would say that it was free."""
    if usd is not None:
        found[name] = float(usd)


@lru_cache(maxsize=64)
def _server(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
