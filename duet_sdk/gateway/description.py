"""The API in OpenAPI's form, for generators of clients and for tests; what is read over stands in no schema."""

from __future__ import annotations

from typing import Any, Final

from duet_sdk.gateway.limits import EFFORTS

_COUNT: Final = {"type": ["integer", "null"], "minimum": 1}
_NUMBER: Final = {"type": ["number", "null"]}
_FIELDS: Final[dict[str, Any]] = {
    "model": {"type": "string"},
    "messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}},
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "reasoning_effort": {"type": ["string", "null"], "enum": list(EFFORTS)},
    "n": {**_COUNT, "maximum": 64},
    "temperature": {**_NUMBER, "minimum": 0, "maximum": 5},
    "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
    "min_p": {**_NUMBER, "minimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": -1},
    "seed": {"type": ["integer", "null"]},
    "stop": {"type": ["string", "array", "null"], "items": {"type": "string", "minLength": 1}},
    "logprobs": {"type": ["boolean", "null"]},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "tool_choice": {"type": ["string", "object", "null"]},
    "response_format": {"type": ["object", "null"]},
    "user": {"type": ["string", "null"]},
    "prompt_cache_key": {"type": ["string", "null"]},
}
_MESSAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"type": ["string", "array", "null"], "items": {"type": "object"}},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
    },
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def description() -> dict[str, Any]:
    """The whole description, version 3.1."""
    body = _content("application/json", {"$ref": "#/components/schemas/ChatRequest"})
    answers = {
        "description": "The completion, or its stream.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "DUET gateway", "version": "1"},
        "paths": {
            "/v1/chat/completions": {
                "post": {"requestBody": {"required": True, **body}, "responses": _responses(answers)}
            },
            "/v1/models": {"get": {"responses": _responses(_answer("The names that the key may use."))}},
            "/v1/models/{name}": {
                "get": {"parameters": [name], "responses": _responses(_answer("One of these names."))}
            },
            "/metrics": {"get": {"responses": _responses({"description": "Prometheus' text."})}},
            "/health": {"get": {"responses": _responses(_answer("The process runs."))}},
            "/ready": {"get": {"responses": _responses(_answer("It takes requests."))}},
        },
        "components": {
            "schemas": {
                "ChatRequest": {"type": "object", "required": ["model", "messages"], "properties": _FIELDS},
                "Message": _MESSAGE,
                "Error": _ERROR,
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"bearer": []}, {"header": []}, {}],
    }


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _answer(text: str) -> dict[str, Any]:
    return {"description": text, **_content("application/json", {"type": "object"})}


def _responses(good: dict[str, Any]) -> dict[str, Any]:
    bad = {"description": "An error.", **_content("application/json", {"$ref": "#/components/schemas/Error"})}
    return {"200": good, "default": bad}
