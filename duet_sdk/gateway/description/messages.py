"""Anthropic's Messages in the description."""

from __future__ import annotations

from typing import Any, Final

from duet_sdk.gateway.description.pieces import (
    COUNT,
    LIMIT,
    RECEIPT_HEADER,
    TEXT,
    Schema,
    answer,
    asks,
    listed,
    nullable,
    reference,
    responses,
)
from duet_sdk.gateway.limits import EFFORTS

ERROR: Final = "MessagesError"
"""What the names of this wire's errors begin with."""
_STRING: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "minLength": 1}
_NUMBER: Final[Schema] = {"type": ["number", "null"]}


def _block(kind: str, required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": ["type", *required], "properties": {"type": {"const": kind}, **properties}}


_WORDS: Final[Schema] = _block("text", ["text"], text={"type": "string", "pattern": r"\w"})
_IMAGE: Final[Schema] = _block(
    "image",
    ["source"],
    source={
        "type": "object",
        "required": ["type", "media_type", "data"],
        "properties": {
            "type": {"const": "base64"},
            "media_type": {"enum": ["image/png", "image/jpeg", "image/gif", "image/webp"]},
            "data": _NAME,
        },
    },
)
_CONTENT: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": r"\w"}, {**listed(reference("Block")), "minItems": 1}]
}
_FIELDS: Final[dict[str, Schema]] = {
    "model": {"type": "string", "description": "One of GET /v1/models."},
    "messages": {**listed(reference("Turn")), "minItems": 1, "description": "The last is from a user."},
    "system": {"anyOf": [TEXT, listed(_WORDS)]},
    "max_tokens": {**LIMIT, "description": "Limit of the answer."},
    "thinking": {
        "type": ["object", "null"],
        "properties": {
            "type": {"enum": ["enabled", "disabled", "adaptive"]},
            "budget_tokens": {**LIMIT, "description": "Limit of the signal."},
        },
    },
    "output_config": {
        "type": ["object", "null"],
        "properties": {
            "effort": {"enum": [*EFFORTS, None]},
            "format": {
                "type": ["object", "null"],
                "properties": {"type": {"const": "json_schema"}, "schema": {"type": "object"}},
            },
        },
    },
    "tools": nullable(listed(reference("MessagesTool"))),
    "tool_choice": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["auto", "any", "none", "tool"]},
            "name": _STRING,
            "disable_parallel_tool_use": {"type": "boolean"},
        },
    },
    "stop_sequences": nullable(listed(_NAME)),
    "stream": {"type": ["boolean", "null"]},
    "temperature": {**_NUMBER, "minimum": 0, "maximum": 1},
    "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": 1},
    "metadata": {"type": ["object", "null"], "properties": {"user_id": TEXT}},
}
_USAGE: Final[Schema] = {
    "type": "object",
    "required": ["input_tokens", "output_tokens"],
    "properties": {
        "input_tokens": COUNT,
        "output_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "cache_creation_input_tokens": COUNT,
    },
}
_REQUEST: Final[Schema] = {"type": "object", "required": ["model", "messages"], "properties": _FIELDS}
SCHEMAS: Final[dict[str, Schema]] = {
    "MessagesRequest": _REQUEST,
    "Turn": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": _CONTENT},
    },
    "Block": {
        "anyOf": [
            _WORDS,
            _IMAGE,
            _block("thinking", ["thinking"], thinking=_STRING, signature=TEXT),
            _block("tool_use", ["id", "name", "input"], id=_NAME, name=_NAME, input={"type": "object"}),
            _block("tool_result", ["tool_use_id", "content"], tool_use_id=_NAME, content=_STRING),
        ]
    },
    "MessagesTool": {
        "type": "object",
        "required": ["name", "input_schema"],
        "properties": {
            "name": _NAME,
            "description": _STRING,
            "input_schema": {"type": "object", "properties": {"properties": {"type": ["object", "null"]}}},
        },
    },
    "AnsweredBlock": {
        "anyOf": [
            _block("text", ["text"], text=_STRING),
            _block("thinking", ["thinking", "signature"], thinking=_STRING, signature=_NAME),
            _block("tool_use", ["id", "name", "input"], id=_STRING, name=_STRING, input={"type": "object"}),
        ]
    },
    "AnsweredMessage": {
        "type": "object",
        "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage", "duet"],
        "properties": {
            "id": _STRING,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _STRING,
            "content": {**listed(reference("AnsweredBlock")), "minItems": 1},
            "stop_reason": {"enum": ["end_turn", "max_tokens", "tool_use", "refusal"]},
            "stop_sequence": TEXT,
            "usage": _USAGE,
            "duet": reference("Receipt"),
        },
    },
    "Counted": {"type": "object", "required": ["input_tokens"], "properties": {"input_tokens": COUNT}},
    ERROR: {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _STRING, "message": _STRING},
            },
            "request_id": TEXT,
        },
    },
}
_COUNT: Final[dict[str, Any]] = {
    "post": {
        "operationId": "countTokens",
        "summary": "Tokens of a prompt, unspent",
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference("MessagesRequest")}}},
        "responses": responses({**answer("How many.", reference("Counted")), "headers": RECEIPT_HEADER}, prefix=ERROR),
    }
}
PATHS: Final[dict[str, Any]] = {
    "/v1/messages": asks(
        "createMessage", "Answer a conversation", "MessagesRequest", reference("AnsweredMessage"), prefix=ERROR
    ),
    "/v1/messages/count_tokens": _COUNT,
}
