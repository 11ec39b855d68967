"""Responses in the description."""

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

_NUMBER: Final[Schema] = {"type": ["number", "null"]}
_NAME: Final[Schema] = {"type": "string", "minLength": 1}
_OF_ONE: Final = (400, 401, 403, 404, 405, 421)
"""Errors of a path of one response."""


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


_TEXT_PART: Final[Schema] = _object(
    ["type", "text"], type={"enum": ["input_text", "output_text"]}, text={"type": "string"}
)
_IMAGE_PART: Final[Schema] = _object(
    ["type", "image_url"],
    type={"const": "input_image"},
    image_url={"type": "string", "pattern": "^data:image/"},
    detail=TEXT,
)
_CONTENT: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": r"\w"},
        {**listed({"anyOf": [_TEXT_PART, _IMAGE_PART]}), "minItems": 1},
    ]
}
_ITEM: Final[Schema] = {
    "anyOf": [
        _object(
            ["role", "content"],
            type={"const": "message"},
            role={"enum": ["system", "developer", "user", "assistant"]},
            content=_CONTENT,
        ),
        _object(
            ["type", "call_id", "name", "arguments"],
            type={"const": "function_call"},
            call_id=_NAME,
            name=_NAME,
            arguments={"type": "string"},
        ),
        _object(
            ["type", "call_id", "output"],
            type={"const": "function_call_output"},
            call_id=_NAME,
            output={"type": "string"},
        ),
        _object(["type"], type={"const": "reasoning"}, encrypted_content=TEXT),
        _object(["type", "id"], type={"const": "item_reference"}, id={"type": "string"}),
    ]
}
_FUNCTION: Final[Schema] = _object(
    ["type", "name"],
    type={"const": "function"},
    name=_NAME,
    description=TEXT,
    parameters={"type": ["object", "null"], "properties": {"properties": {"type": ["object", "null"]}}},
    strict={"type": ["boolean", "null"]},
)
_FORMAT: Final[Schema] = {
    "anyOf": [
        _object(["type"], type={"enum": ["text", "json_object"]}),
        _object(
            ["type", "name", "schema"], type={"const": "json_schema"}, name=_NAME, schema={"type": "object"}, strict={}
        ),
    ]
}
_FIELDS: Final[dict[str, Schema]] = {
    "model": {"type": "string", "description": "One of GET /v1/models."},
    "input": {
        "anyOf": [{"type": "string", "pattern": r"\w"}, {**listed(reference("ResponseItem")), "minItems": 1}],
        "description": "One item is a user's message; the last is that or a call's output.",
    },
    "instructions": TEXT,
    "previous_response_id": {"type": ["string", "null"], "description": "Of a response that is kept."},
    "store": {"type": ["boolean", "null"]},
    "stream": {"type": ["boolean", "null"]},
    "max_output_tokens": {**LIMIT, "description": "Limit of signal and answer together."},
    "reasoning": nullable(_object([], effort={"type": ["string", "null"], "enum": [*EFFORTS, None]}, summary=TEXT)),
    "include": nullable(listed({"type": "string"})),
    "temperature": {**_NUMBER, "minimum": 0, "maximum": 5},
    "top_p": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "text": nullable(_object([], format=_FORMAT, verbosity=TEXT)),
    "tools": nullable(
        listed({"anyOf": [reference("ResponseTool"), _object(["type", "name"], type={"const": "custom"}, name=_NAME)]})
    ),
    "tool_choice": {
        "anyOf": [
            {"enum": ["auto", "none", "required", None]},
            _object(["type", "name"], type={"enum": ["function", "custom"]}, name=_NAME),
        ],
        "description": "A tool that is named must be among `tools`.",
    },
    "parallel_tool_calls": {"type": ["boolean", "null"]},
    "metadata": {"type": ["object", "null"]},
    "user": TEXT,
    "safety_identifier": TEXT,
    "prompt_cache_key": TEXT,
}
_USAGE: Final[Schema] = _object(
    ["input_tokens", "output_tokens", "total_tokens"],
    input_tokens=COUNT,
    input_tokens_details=_object([], cached_tokens=COUNT),
    output_tokens=COUNT,
    output_tokens_details=_object([], reasoning_tokens=COUNT),
    total_tokens=COUNT,
)
SCHEMAS: Final[dict[str, Schema]] = {
    "ResponsesRequest": {"type": "object", "required": ["model", "input"], "properties": _FIELDS},
    "ResponseItem": _ITEM,
    "ResponseTool": _FUNCTION,
    "Response": _object(
        ["id", "object", "created_at", "model", "status", "output", "usage", "duet"],
        id={"type": "string"},
        object={"const": "response"},
        created_at=COUNT,
        model={"type": "string"},
        status={"enum": ["completed", "incomplete"]},
        incomplete_details={"type": ["object", "null"]},
        output=listed(
            _object(
                ["id", "type"],
                id={"type": "string"},
                type={"enum": ["reasoning", "message", "function_call", "custom_tool_call"]},
            )
        ),
        usage=_USAGE,
        duet=reference("Receipt"),
    ),
}


def _of_one(method: str, name: str, summary: str, good: dict[str, Any]) -> dict[str, Any]:
    return {method: {"operationId": name, "summary": summary, "responses": responses(good, _OF_ONE)}}


_ID: Final[dict[str, Any]] = {"name": "id", "in": "path", "required": True, "schema": _NAME}
_COUNTED: Final = answer(
    "The tokens.", _object(["object", "input_tokens"], object={"type": "string"}, input_tokens=COUNT)
)
PATHS: Final[dict[str, Any]] = {
    "/v1/responses": asks("createResponse", "Answer an input", "ResponsesRequest", reference("Response")),
    "/v1/responses/input_tokens": {
        "post": {
            "operationId": "countInputTokens",
            "summary": "Count the tokens of an input",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": reference("ResponsesRequest")}},
            },
            "responses": responses({**_COUNTED, "headers": RECEIPT_HEADER}),
        }
    },
    "/v1/responses/{id}": {
        "parameters": [_ID],
        **_of_one("get", "getResponse", "A response that is kept", answer("The response.", reference("Response"))),
        **_of_one("delete", "deleteResponse", "Forget a response", answer("It is forgotten.", _object(["deleted"]))),
    },
    "/v1/responses/{id}/input_items": {
        "parameters": [_ID],
        **_of_one("get", "listInputItems", "The items of its request", answer("The last in front.", _object(["data"]))),
    },
}
