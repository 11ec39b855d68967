"""A scripted model that works for an agent: it calls two tools in turn, then answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from support.fault_server import Answer

from duet_sdk import ToolCall

PLAN = "Look every city up, then add."
FINAL = "All of it is done."


def working(turns: int) -> Callable[[Mapping[str, Any]], Answer]:
    """Calls ``look_up`` and ``add`` in turn until that many results stand after the question."""

    def answer(body: Mapping[str, Any]) -> Answer:
        if body["model"] == "reasoner":
            return Answer(PLAN)
        roles = [message["role"] for message in body["messages"]]
        last_user = len(roles) - 1 - roles[::-1].index("user")
        done = roles[last_user:].count("tool")
        return Answer(FINAL) if done >= turns else Answer("", tool_calls=(call(done),))

    return answer


def call(done: int) -> ToolCall:
    """What is called after that many results."""
    if done % 2:
        return ToolCall(f"call-{done}", "add", json.dumps({"a": done, "b": 1}))
    return ToolCall(f"call-{done}", "look_up", json.dumps({"city": f"city {done}"}))


def look_up(city: str) -> str:
    """Look up how many people live in a city."""
    return f"{city} has 7 people"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [look_up, add]


def notes_in(body: Mapping[str, Any]) -> list[int]:
    """Where notes stand in a prompt, by the places of its messages."""
    return [at for at, message in enumerate(body["messages"]) if f"<notes>\n{PLAN}" in str(message["content"])]
