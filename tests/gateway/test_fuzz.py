"""Bodies of any kind: an answer or an error in the API's own form, never a fault of ours, and nothing that stays.

``DUET_FUZZED_BODIES=10000 pytest tests/gateway/test_fuzz.py`` sends as many to each path.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from support.asgi import Conversation, ask
from support.wire_bodies import WHOLE, bodies, fixtures

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.base import Call
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

COUNT = int(os.environ.get("DUET_FUZZED_BODIES", "200"))
"""Bodies for each path; few by default, as each run of the tests draws other ones."""
DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
"""Of the key "secret"."""
HEADERS = {"authorization": "Bearer secret"}
REFUSED = {400, 402, 404}
"""What a body can be answered with, beside 200."""
PATHS = list(WHOLE)


def said(call: Call) -> Script:
    """What a model writes: a call where there are tools, JSON where that is asked for, else words."""
    dice = random.Random(len(call.messages))
    if call.tools and dice.random() < 0.7:
        return Script("", tool_calls=(ToolCall("c9", "look_up", '{"town":"Bern"}'),))
    return Script('{"town":"Bern"}' if call.response_format else "There are 17 of them.", reasoning="hm")


class Served:
    """A gateway with a key, a ledger and scripted models, and a loop in which it is asked."""

    def __init__(self) -> None:
        self.models = Scripted("17 of them."), Scripted(said)
        self.ledger = MemoryLedger()
        key = GatewayKey("a", sha256=DIGEST, sees_signal=True)
        policy = GatewayPolicy(keys=(key,), signal_field="both", aliases={"*": "duet"})
        self.gateway: Gateway = app(AsyncDuetClient(*self.models, ledger=self.ledger), policy=policy)
        self.runner = asyncio.Runner()
        self.statuses: dict[int, int] = {}

    def ask(self, path: str, body: bytes) -> Conversation:
        for model in self.models:
            model.calls.clear()  # they have the bodies in them
        reply: Conversation = self.runner.run(ask(self.gateway, path, body, headers=HEADERS))
        self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
        return reply

    def left(self) -> tuple[int, int, int, int]:
        """Requests and calls that run, holds, and tasks: all 0 between requests."""
        held = self.runner.run(self.ledger.balance("tenant:a")).held
        tasks = len(asyncio.all_tasks(self.runner.get_loop()))
        calls = sum(model.open_calls for model in self.models)
        return self.gateway.metrics.running, calls, held.generator_tokens + held.reasoner_tokens, tasks


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.runner.close()


def check(path: str, reply: Conversation) -> None:
    """What every response is, whatever was sent."""
    if reply.status != 200:
        assert reply.status in REFUSED, (reply.status, reply.body)
        check_error(path, reply.json)
    elif not reply.headers["content-type"].startswith("text/event-stream"):
        assert set(reply.json) >= WHOLE_ANSWER[path]
    else:
        CHECK_STREAM[path](reply.events)


def check_chat(events: list[Any]) -> None:
    *chunks, last = events
    if last != "[DONE]":
        check_error("/v1/chat/completions", last)
    else:
        assert any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])


def check_messages(events: list[Any]) -> None:
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    if kinds[-1] != "message_stop":
        check_error("/v1/messages", events[-1])
    else:
        assert kinds[-2] == "message_delta"
        assert kinds.count("content_block_start") == kinds.count("content_block_stop")


def check_responses(events: list[Any]) -> None:
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete", "response.failed", "error")


CHECK_STREAM = {
    "/v1/chat/completions": check_chat,
    "/v1/messages": check_messages,
    "/v1/responses": check_responses,
}
WHOLE_ANSWER = {
    "/v1/chat/completions": {"object", "choices", "usage", "duet"},
    "/v1/messages": {"type", "content", "stop_reason", "usage"},
    "/v1/messages/count_tokens": {"input_tokens"},
    "/v1/responses": {"object", "status", "output", "usage"},
}


def check_error(path: str, told: dict[str, Any]) -> None:
    if path.startswith("/v1/messages"):
        assert told["type"] == "error"
        assert set(told["error"]) >= {"type", "message"}
        assert told["error"]["type"] != "api_error", told
    else:
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told["error"]["type"] != "server_error", told


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@pytest.mark.parametrize("path", PATHS)
def test_any_body_is_answered_or_refused_and_leaves_nothing(served: Served, path: str) -> None:
    clients = fixtures(path)

    @settings(
        max_examples=COUNT,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        database=None,
    )
    @given(bodies(path, clients))
    @example(b"")
    def send(body: bytes) -> None:
        check(path, served.ask(path, body))
        assert served.left() == (0, 0, 0, 0)

    send()


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@pytest.mark.parametrize("path", PATHS)
def test_the_bodies_that_are_put_out_of_order_are_answered_as_they_are(served: Served, path: str) -> None:
    for body in WHOLE[path]:
        assert served.ask(path, json.dumps(body).encode()).status == 200
