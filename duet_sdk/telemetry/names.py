"""Every name that DUET writes into spans and metrics; a test checks the standard ones against the published packages.

What begins with ``duet.`` is DUET's own: there is no standard attribute for money, gates or signals.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "duet_sdk"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
"""The conventions that opentelemetry-util-genai 1.3b0 names as its own."""
WORKFLOW: Final = "duet"

# Operations and the spans named after them.
INVOKE_WORKFLOW: Final = "invoke_workflow"
CHAT: Final = "chat"
GATE_SPAN: Final = "duet.gate"

# Attributes of the GenAI conventions.
OPERATION_NAME: Final = "gen_ai.operation.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
PROVIDER_NAME: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"

# Attributes of the general conventions.
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SESSION_ID: Final = "session.id"
USER_ID: Final = "user.id"

# DUET's own: who and what.
TENANT: Final = "duet.tenant"
RECEIPT: Final = "duet.receipt"
"""A gateway's name for a request, as its answer and its log have it."""
ENDED: Final = "duet.ended"
"""How a gateway's request ended: ``complete``, ``error``, ``left``, ``drained``."""
MODE: Final = "duet.mode"
SERVED_BY: Final = "duet.served_by"
HANDOFF: Final = "duet.handoff"
OUTCOME: Final = "duet.outcome"
"""``ok``, ``error``, or ``cancelled`` where the caller left."""
GATE_POLICY: Final = "duet.gate.policy"
GATE_DECISION: Final = "duet.gate.decision"
"""``ask`` or ``skip``."""
GATE_SCORE: Final = "duet.gate.score"
GATE_THRESHOLD: Final = "duet.gate.threshold"
STAGE: Final = "duet.stage"
MODEL: Final = "duet.model"
"""The model's full name, as prices and ledger entries have it."""
ATTEMPT: Final = "duet.attempt"
ATTEMPT_KIND: Final = "duet.attempt.kind"
SIGNAL_TOKENS: Final = "duet.signal.tokens"
SIGNAL_LIMIT: Final = "duet.signal.limit"
SIGNAL_TRUNCATED: Final = "duet.signal.truncated"
LIMIT_HONOURED: Final = "duet.limit.honoured"

METADATA: Final = "duet.metadata."
"""Before each key of a request's metadata."""

# DUET's own: tokens, money, time.
INPUT_TOKENS: Final = "duet.usage.input_tokens"
OUTPUT_TOKENS: Final = "duet.usage.output_tokens"
TOTAL_TOKENS: Final = "duet.usage.total_tokens"
USAGE_ESTIMATED: Final = "duet.usage.estimated"
DISCARDED_TOKENS: Final = "duet.usage.discarded_tokens"
OVERLAP_TOKENS: Final = "duet.usage.overlap_tokens"
COST_USD: Final = "duet.cost.usd"
COST_ESTIMATED: Final = "duet.cost.estimated"
TIME_TO_FIRST_ANSWER: Final = "duet.time_to_first_answer"
BUDGET_TOKENS_LIMIT: Final = "duet.budget.tokens.limit"
BUDGET_TOKENS_CONSUMED: Final = "duet.budget.tokens.consumed"
BUDGET_COST_LIMIT: Final = "duet.budget.cost_usd.limit"
BUDGET_COST_CONSUMED: Final = "duet.budget.cost_usd.consumed"
BUDGET_EXHAUSTED: Final = "duet.budget.exhausted"
BUDGET_SCOPE: Final = "duet.budget.scope"
DISCARDED: Final = "duet.discarded"
ERROR: Final = "duet.error"

# Metrics of the GenAI conventions.
TOKEN_USAGE_METRIC: Final = "gen_ai.client.token.usage"
OPERATION_DURATION_METRIC: Final = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK_METRIC: Final = "gen_ai.client.operation.time_to_first_chunk"
WORKFLOW_DURATION_METRIC: Final = "gen_ai.invoke_workflow.duration"

# DUET's own metrics.
SIGNAL_TOKENS_METRIC: Final = "duet.signal.tokens"
SIGNAL_SHARE_METRIC: Final = "duet.signal.limit_used"
SIGNALS_CUT_METRIC: Final = "duet.signal.cut"
GATE_DECISIONS_METRIC: Final = "duet.gate.decisions"
FALLBACKS_METRIC: Final = "duet.fallbacks"
RETRIES_METRIC: Final = "duet.retries"
REFUSALS_METRIC: Final = "duet.budget.refusals"
COST_METRIC: Final = "duet.cost"
FIRST_ANSWER_METRIC: Final = "duet.time_to_first_answer"
DISCARDED_METRIC: Final = "duet.tokens.discarded"
OVERLAP_METRIC: Final = "duet.tokens.overlap"

# The log event of an attempt.
DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"

# Events on the root span.
RETRY_EVENT: Final = "duet.retry"
FALLBACK_EVENT: Final = "duet.fallback"
BUDGET_EVENT: Final = "duet.budget.exceeded"


def of_stage(name: str, stage: str) -> str:
    """A stage's share of a total, as the root span has it.

    >>> of_stage(COST_USD, "reasoner"), of_stage(INPUT_TOKENS, "generator")
    ('duet.cost.reasoner.usd', 'duet.usage.generator.input_tokens')
    """
    first, kind, rest = name.split(".", 2)
    return f"{first}.{kind}.{stage}.{rest}"
