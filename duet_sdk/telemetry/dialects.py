"""The same facts once more, under the names that a tool reads which does not know the GenAI conventions, or not money.

A dialect takes the attributes of a finished span and gives those to add.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

from duet_sdk.errors import ConfigError
from duet_sdk.telemetry import names
from duet_sdk.types import TraceDialect

if TYPE_CHECKING:
    from duet_sdk.telemetry.attributes import Attributes

_REQUEST = "gen_ai.request."
_OPENINFERENCE_PARTS = {
    names.USAGE_CACHE_READ_INPUT_TOKENS: "llm.token_count.prompt_details.cache_read",
    names.USAGE_CACHE_CREATION_INPUT_TOKENS: "llm.token_count.prompt_details.cache_write",
    names.USAGE_REASONING_OUTPUT_TOKENS: "llm.token_count.completion_details.reasoning",
}


def check_dialects(given: Sequence[str]) -> tuple[str, ...]:
    """The dialects, each of them known.

    Raises:
        ConfigError: one is not.
    """
    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, list | tuple):
        raise ConfigError(f"trace_dialects must be a list of names, got {type(given).__name__}")
    for name in given:
        if name not in get_args(TraceDialect):
            raise ConfigError(f"trace dialect {name!r} is unknown; known: {', '.join(get_args(TraceDialect))}")
    return tuple(given)


def in_dialects(given: Sequence[str], attributes: Attributes) -> Attributes:
    """What these dialects add to a span with these attributes."""
    found: Attributes = {}
    for name in given:
        found |= _DIALECTS[name](attributes)
    return found


def openinference(span: Attributes) -> Attributes:
    """OpenInference, as Phoenix and others read it."""
    if span.get(names.OPERATION_NAME) != names.CHAT:
        return {"openinference.span.kind": "CHAIN"} | _values(span)
    found: Attributes = {
        "openinference.span.kind": "LLM",
        "llm.model_name": span[names.REQUEST_MODEL],
        "llm.provider": span[names.PROVIDER_NAME],
        "llm.invocation_parameters": json.dumps(
            {name.removeprefix(_REQUEST): value for name, value in span.items() if name.startswith(_REQUEST)}
        ),
    }
    if names.USAGE_INPUT_TOKENS in span:
        prompt, completion = _number(span, names.USAGE_INPUT_TOKENS), _number(span, names.USAGE_OUTPUT_TOKENS)
        found["llm.token_count.prompt"] = prompt
        found["llm.token_count.completion"] = completion
        found["llm.token_count.total"] = prompt + completion
        found |= {theirs: span[ours] for ours, theirs in _OPENINFERENCE_PARTS.items() if ours in span}
    if names.COST_USD in span:
        found["llm.cost.total"] = span[names.COST_USD]
    return found | _values(span)


def langfuse(span: Attributes) -> Attributes:
    """Langfuse: the trace's name on every span, and usage and money in the form that takes precedence there."""
    found: Attributes = {"langfuse.trace.name": names.WORKFLOW}
    if span.get(names.OPERATION_NAME) != names.CHAT:
        return found
    if names.USAGE_INPUT_TOKENS in span:
        prompt, cached = _number(span, names.USAGE_INPUT_TOKENS), _number(span, names.USAGE_CACHE_READ_INPUT_TOKENS)
        output = _number(span, names.USAGE_OUTPUT_TOKENS)
        # Its usage types are added up: cached tokens are taken out of the input, hidden reasoning stays in the output.
        usage = {"input": prompt - cached, "output": output, "total": prompt + output}
        found["langfuse.observation.usage_details"] = json.dumps(
            usage | ({"input_cached_tokens": cached} if cached else {})
        )
    if names.COST_USD in span:
        found["langfuse.observation.cost_details"] = json.dumps({"total": span[names.COST_USD]})
    return found


def mlflow(span: Attributes) -> Attributes:
    """MLflow: what an attempt cost, by DUET's prices in place of its own list."""
    if span.get(names.OPERATION_NAME) != names.CHAT or names.COST_USD not in span:
        return {}
    # Its pages leave the cost of a span out unless all three are there; DUET's prices give the sum alone.
    cost = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": span[names.COST_USD]}
    return {"mlflow.llm.cost": json.dumps(cost)}


_DIALECTS: dict[str, Callable[[Attributes], Attributes]] = {
    "openinference": openinference,
    "langfuse": langfuse,
    "mlflow": mlflow,
}


def _number(span: Attributes, name: str) -> int:
    value = span.get(name, 0)
    return value if isinstance(value, int) else 0


def _values(span: Attributes) -> Attributes:
    """Input and output, where content is captured."""
    found: Attributes = {}
    for name, own in (("input", names.INPUT_MESSAGES), ("output", names.OUTPUT_MESSAGES)):
        if own in span:
            found[f"{name}.value"], found[f"{name}.mime_type"] = span[own], "application/json"
    return found
