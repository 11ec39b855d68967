"""The API in OpenAPI's form, for generators of clients and for tests; fields that are read over stand in no schema."""

from __future__ import annotations

from typing import Any, Final

from duet_sdk.gateway.description import chat, messages
from duet_sdk.gateway.description import responses as responses_wire
from duet_sdk.gateway.description.pieces import SCHEMAS, answer, failures, reference, responses

_WIRES: Final[tuple[Any, ...]] = (chat, responses_wire, messages)
"""Modules with ``PATHS`` and ``SCHEMAS`` of a wire each."""
_GENERAL: Final = (401, 403, 404, 405, 421)
"""Errors of a path that takes no body."""


def description() -> dict[str, Any]:
    """The whole description, version 3.1."""
    paths: dict[str, Any] = {}
    schemas = dict(SCHEMAS)
    for wire in _WIRES:
        paths |= wire.PATHS
        schemas |= wire.SCHEMAS
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DUET gateway",
            "version": "1",
            "description": "A pair of models behind OpenAI's and Anthropic's protocols.",
        },
        "paths": {**paths, **_own()},
        "components": {
            "schemas": schemas,
            "responses": failures() | failures(messages.ERROR, messages.ERROR),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        # The empty one is for a gateway without keys.
        "security": [{"bearer": []}, {"header": []}, {}],
    }


def _own() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    models = answer("The names that the key may use.", reference("Models"))
    one = answer("One of these names.", reference("Model"))
    metrics = {"description": "Sums over all requests.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    state = answer("The state.", reference("State"))
    whole = answer("This description.", {"type": "object"})
    return {
        "/v1/models": _get("listModels", "Names of models", responses(models, _GENERAL)),
        "/v1/models/{name}": _get("getModel", "One name", responses(one, _GENERAL)) | {"parameters": [name]},
        "/metrics": _get("getMetrics", "Numbers for Prometheus", responses(metrics, _GENERAL)),
        "/health": _get("getHealth", "Whether the process runs", {"200": state}, is_open=True),
        "/ready": _get("getReady", "Whether it takes requests", {"200": state, "503": state}, is_open=True),
        "/openapi.json": _get("getDescription", "This description", {"200": whole}, is_open=True),
    }


def _get(name: str, summary: str, given: dict[str, Any], *, is_open: bool = False) -> dict[str, Any]:
    """A path that is read; an open one needs no key."""
    security: dict[str, Any] = {"security": []} if is_open else {}
    return {"get": {"operationId": name, "summary": summary, "responses": given, **security}}
