"""Reads a stream of Responses as strictly as the strictest of its clients."""

from __future__ import annotations

import json
from typing import Any

from support.asgi import Conversation

TEXTS = {
    "response.output_text": "text",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}
"""Events that come in pieces → the field that has the whole at their end."""


def events(reply: Conversation) -> list[dict[str, Any]]:
    """The events of a stream that is complete."""
    return in_order(reply.body)


def in_order(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, whose names must be their types, in their order."""
    found = []
    for event in body.decode().split("\n\n"):
        if event and not event.startswith(":"):
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def whole_of(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that a stream ends with; all that it says must be what its events have said."""
    created, in_progress, *middle, last = stream
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"]["status"] == in_progress["response"]["status"] == "in_progress"
    response: dict[str, Any] = last["response"]
    assert last["type"] == f"response.{response['status']}"
    assert {name: response[name] for name in ("id", "created_at", "model")} == {
        name: created["response"][name] for name in ("id", "created_at", "model")
    }
    if last["type"] == "response.failed":
        *middle, error = middle
        assert error["type"] == "error"
        assert (error["code"], error["message"]) == (response["error"]["code"], response["error"]["message"])
    done = items_of(middle, may_break=last["type"] == "response.failed")
    assert response["output"] == done
    return response


def items_of(middle: list[dict[str, Any]], *, may_break: bool) -> list[dict[str, Any]]:
    """The items that have ended; each begins, has its pieces, and ends before the next begins."""
    done: list[dict[str, Any]] = []
    item: dict[str, Any] | None = None
    pieces: list[str] = []
    part: dict[str, Any] | None = None
    for event in middle:
        kind, _, step = event["type"].rpartition(".")
        assert event["output_index"] == len(done)
        if event["type"] == "response.output_item.added":
            assert item is None
            item, pieces = event["item"], []
            assert item["id"] not in [one["id"] for one in done]
            continue
        assert item is not None
        if event["type"] == "response.output_item.done":
            assert part is None
            assert (event["item"]["id"], event["item"]["type"]) == (item["id"], item["type"])
            done.append(event["item"])
            item = None
            continue
        assert event["item_id"] == item["id"]
        if step == "added":
            assert part is None
            part = event["part"]
        elif step == "delta":
            pieces.append(event["delta"])
        elif kind in TEXTS:
            assert event[TEXTS[kind]] == "".join(pieces)
        else:
            assert event["part"]["text"] == "".join(pieces)
            part = None
    assert may_break or item is None
    return done
