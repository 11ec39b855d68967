"""Schemas and responses that all paths of the description share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

Schema = dict[str, Any]
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
LIMIT: Final[Schema] = {"type": ["integer", "null"], "minimum": 1}
TEXT: Final[Schema] = {"type": ["string", "null"]}
RECEIPT_HEADER: Final[Schema] = {
    "x-duet-receipt": {"description": "The request's name in the log.", "schema": {"type": "string"}}
}
_LATER: Final[Schema] = {
    "retry-after": {"description": "Seconds after which to send it again.", "schema": {"type": "integer"}}
}
_NEVER: Final[Schema] = {
    "x-should-retry": {"description": "It would be refused again.", "schema": {"const": "false"}},
}
FAILURES: Final[Mapping[int, str]] = {
    400: "A field cannot be used, or the messages are longer than the models' context.",
    401: "The key is missing or not known.",
    402: "A limit of the request or of the ledger is used up.",
    403: "A web page asks that is not listed, or the pair is beyond a boundary.",
    404: "There is no such path, or no such model for this key.",
    405: "The path has another method; `allow` names it.",
    408: "The body took too long.",
    413: "The body is too long.",
    415: "The body is not JSON, or compressed.",
    421: "The gateway has another name than `host` says.",
    429: "A limit of requests, or a model, asks to wait.",
    500: "A fault of the gateway.",
    502: "A model failed.",
    503: "A model or the ledger cannot be reached, or the server is ending.",
    504: "The request's deadline has passed.",
    529: "On Messages: a model or the ledger cannot be reached now.",
}
"""What each status of an error means, on every path."""
SCHEMAS: Final[dict[str, Schema]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": TEXT, "code": TEXT},
            }
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": COUNT,
            "owned_by": {"type": "string"},
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "State": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    },
    "StageUsage": {
        "type": "object",
        "required": ["input_tokens", "output_tokens"],
        "properties": {
            "input_tokens": COUNT,
            "output_tokens": COUNT,
            "cached_tokens": {"type": ["integer", "null"]},
            "reasoning_tokens": {"type": ["integer", "null"]},
            "estimated": {"type": "boolean"},
        },
    },
    "Receipt": {
        "type": "object",
        "description": "What a request took, by stage.",
        "required": ["receipt", "mode", "served_by", "usage", "cost"],
        "properties": {
            "receipt": {"type": "string"},
            "mode": {"enum": ["duet", "generator", "reasoner"]},
            "served_by": {"type": "string"},
            "usage": {
                "type": "object",
                "properties": {
                    "reasoner": {"$ref": "#/components/schemas/StageUsage"},
                    "generator": {"$ref": "#/components/schemas/StageUsage"},
                    "total_tokens": COUNT,
                },
            },
            "cost": {"type": "object", "properties": {"usd": TEXT}},
        },
    },
}


def reference(name: str) -> Schema:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """A value or null, which every field of a request may be."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema) -> Schema:
    """A list of these."""
    return {"type": "array", "items": schema}


def answer(text: str, schema: Schema) -> dict[str, Any]:
    """A response in JSON."""
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def failures(form: str = "Error", prefix: str = "Error") -> dict[str, Any]:
    """The responses of errors in one form, as components by name, such as ``Error404``."""
    found = {}
    for status, text in FAILURES.items():
        headers = RECEIPT_HEADER | (_LATER if status in (429, 502, 503, 529) else _NEVER)
        found[f"{prefix}{status}"] = {**answer(text, reference(form)), "headers": headers}
    return found


def responses(good: dict[str, Any], statuses: Iterable[int] = FAILURES, prefix: str = "Error") -> dict[str, Any]:
    """All responses of an operation."""
    bad = {str(status): {"$ref": f"#/components/responses/{prefix}{status}"} for status in statuses}
    return {"200": good, **bad}


def asks(name: str, summary: str, body: str, good: Schema, prefix: str = "Error") -> dict[str, Any]:
    """A path of a wire that answers whole or streams.

    Args:
        name: of the operation, for generated clients.
        summary: of what it does.
        body: name of the request's schema.
        good: schema of a whole answer.
        prefix: of the names of its errors' responses.
    """
    content = {
        "application/json": {"schema": good},
        "text/event-stream": {"schema": {"type": "string", "description": "Events, where `stream` is true."}},
    }
    done = {"description": "The answer, or its stream.", "content": content, "headers": RECEIPT_HEADER}
    wanted = {"required": True, "content": {"application/json": {"schema": reference(body)}}}
    operation = {"operationId": name, "summary": summary, "requestBody": wanted}
    return {"post": {**operation, "responses": responses(done, prefix=prefix)}}
