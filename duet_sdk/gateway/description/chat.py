"""Chat completions in the description."""

from __future__ import annotations

from typing import Any, Final

from duet_sdk.gateway.description.pieces import COUNT, LIMIT, TEXT, Schema, asks, listed, nullable, reference
from duet_sdk.gateway.limits import EFFORTS
from duet_sdk.options import MOST_ANSWERS

_NUMBER: Final[Schema] = {"type": ["number", "null"]}
_NAME: Final[Schema] = {"type": "string", "minLength": 1}
_FIELDS: Final[dict[str, Schema]] = {
    "model": {"type": "string", "description": "One of GET /v1/models."},
    "messages": {
        **listed(reference("Message")),
        "minItems": 1,
        "description": "One is from a user; the last is from a user or a tool.",
    },
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
    "max_tokens": {**LIMIT, "description": "Limit of the answer."},
    "max_completion_tokens": {**LIMIT, "description": "Limit of signal and answer together."},
    "reasoning_effort": {"type": ["string", "null"], "enum": [*EFFORTS, None]},
    "n": {**LIMIT, "maximum": MOST_ANSWERS},
    "temperature": {**_NUMBER, "minimum": 0, "maximum": 5},
    "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
    "min_p": {**_NUMBER, "minimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": -1, "description": "-1 and 0 are none."},
    "seed": {"type": ["integer", "null"]},
    "stop": {
        "anyOf": [{"type": "null"}, {"type": "string", "minLength": 1}, listed({"type": "string", "minLength": 1})]
    },
    "logprobs": {"type": ["boolean", "null"]},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "tools": nullable(listed(reference("Tool"))),
    "tool_choice": {
        "anyOf": [{"enum": ["auto", "none", "required", None]}, reference("NamedTool")],
        "description": "A tool that is named must be among `tools`.",
    },
    "response_format": nullable(reference("Format")),
    "user": TEXT,
    "prompt_cache_key": TEXT,
}
_FUNCTION: Final[Schema] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _NAME,
        "description": TEXT,
        "parameters": {"type": ["object", "null"], "properties": {"properties": {"type": ["object", "null"]}}},
        "strict": {"type": ["boolean", "null"]},
    },
}
_PART: Final[Schema] = {
    "anyOf": [
        {
            "type": "object",
            "required": ["type", "text"],
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        },
        {
            "type": "object",
            "required": ["type", "image_url"],
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {"url": {"type": "string", "pattern": "^data:image/"}, "detail": TEXT},
                },
            },
        },
    ]
}
_CONTENT: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": r"\w"}, {**listed(reference("Part")), "minItems": 1}]
}
_CALL: Final[Schema] = {
    "type": "object",
    "required": ["id", "function"],
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
        },
    },
}


def _message(role: list[str], required: list[str], **more: Schema) -> Schema:
    properties = {"role": {"enum": role}, "content": _CONTENT, **more}
    return {"type": "object", "required": ["role", *required], "properties": properties}


_LOGPROBS: Final[Schema] = {
    "type": ["object", "null"],
    "properties": {"content": listed({"type": "object", "required": ["token", "logprob", "bytes", "top_logprobs"]})},
}
_CHOICE: Final[Schema] = {
    "type": "object",
    "required": ["index", "message", "finish_reason", "logprobs"],
    "properties": {
        "index": COUNT,
        "message": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"const": "assistant"},
                "content": TEXT,
                "refusal": TEXT,
                "reasoning_content": {"type": "string", "description": "The signal, where the gateway shows it so."},
                "reasoning": {"type": "string", "description": "Likewise."},
                "reasoning_details": {**listed({"type": "object"}), "description": "Likewise."},
                "tool_calls": listed(reference("ToolCall")),
            },
        },
        "logprobs": _LOGPROBS,
        "finish_reason": {"enum": ["stop", "length", "tool_calls", "content_filter"]},
    },
}
_USAGE: Final[Schema] = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": COUNT}},
        "completion_tokens_details": {"type": "object", "properties": {"reasoning_tokens": COUNT}},
    },
}
SCHEMAS: Final[dict[str, Schema]] = {
    "ChatRequest": {"type": "object", "required": ["model", "messages"], "properties": _FIELDS},
    "Message": {
        "anyOf": [
            _message(["system", "developer", "user"], ["content"]),
            _message(["assistant"], [], content=nullable(_CONTENT), tool_calls=nullable(listed(reference("ToolCall")))),
            _message(["tool"], ["content", "tool_call_id"], tool_call_id=_NAME),
        ]
    },
    "Part": _PART,
    "ToolCall": _CALL,
    "Tool": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": _FUNCTION},
    },
    "NamedTool": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {"type": "object", "required": ["name"], "properties": {"name": _NAME}},
        },
    },
    "Format": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}, "strict": {"type": "boolean"}},
            },
        },
    },
    "ChatCompletion": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "duet"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": COUNT,
            "model": {"type": "string"},
            "choices": {**listed(_CHOICE), "minItems": 1},
            "usage": _USAGE,
            "duet": reference("Receipt"),
        },
    },
}
PATHS: Final[dict[str, Any]] = {
    "/v1/chat/completions": asks(
        "createChatCompletion", "Answer a conversation", "ChatRequest", reference("ChatCompletion")
    )
}
