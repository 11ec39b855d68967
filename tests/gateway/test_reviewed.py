"""Ways around a gateway's limits that a review has found, each closed."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient, ConfigError, Limit, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.kept import Kept
from duet_sdk.gateway.side import is_side_request
from duet_sdk.gateway.signals import Signals
from duet_sdk.gateway_key import GatewayKey
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.types import Message

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
COUNTS = [f"{MESSAGES}/count_tokens", f"{RESPONSES}/input_tokens"]
BEARER = {"authorization": "Bearer a"}
QUESTION: list[Any] = [{"role": "user", "content": "How many primes are below 60?"}]
BODY = {"model": "duet", "messages": QUESTION, "input": "How many primes are below 60?", "max_tokens": 9}
CALL = ToolCall("c1", "look_up", "{}")


def key(tenant: str, **rights: Any) -> GatewayKey:
    """A key that is the tenant's name."""
    return GatewayKey(tenant, sha256=hashlib.sha256(tenant.encode()).hexdigest(), **rights)


def gateway(*models: Any, policy: GatewayPolicy, **options: Any) -> Gateway:
    pair = [one if isinstance(one, Scripted) else Scripted(one) for one in models or ("17 of them.", "There are 17.")]
    return app(AsyncDuetClient(*pair, **options), policy=policy)


@pytest.mark.parametrize("path", COUNTS)
async def test_counting_goes_no_further_than_the_key_and_counts_as_a_request(path: str) -> None:
    far = [Scripted("x", boundary="eu"), Scripted("y", boundary="eu")]
    near = GatewayPolicy(keys=(key("a", boundaries=("local",)),))
    assert (await ask(gateway(*far, policy=near), path, BODY, headers=BEARER)).status == 403
    seldom = gateway(policy=GatewayPolicy(keys=(key("a", requests_per_minute=1),), most_messages=3))
    many = {**BODY, "messages": QUESTION * 4, "input": QUESTION * 4}
    assert (await ask(seldom, path, many, headers=BEARER)).status == 400
    assert (await ask(seldom, path, BODY, headers=BEARER)).status == 429


async def test_a_client_that_leaves_late_pays_for_what_it_got() -> None:
    words = "word " * 400
    served = gateway(
        "x", Script(words, stall_after=300), policy=GatewayPolicy(keys=(key("a", tokens_per_minute=1500),))
    )
    body = {"model": "duet/generator", "messages": QUESTION, "stream": True}
    for _ in range(5):
        talk = Conversation(served, CHAT, body, headers=BEARER)
        while not talk.task.done() and talk.body.count(b"word") < 300:
            await asyncio.sleep(0)
        talk.leave()
        await asyncio.wait_for(talk.task, 20)
    assert talk.status == 429


async def test_no_key_is_no_key_even_where_its_digest_is_listed() -> None:
    nothing = GatewayKey("a", sha256=hashlib.sha256(b"").hexdigest())
    served = gateway(policy=GatewayPolicy(keys=(nothing,)))
    for headers in ({}, {"authorization": "Bearer "}, {"x-api-key": ""}):
        assert (await ask(served, CHAT, BODY, headers=headers)).status == 401


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        GatewayPolicy(keys=(key("a", name="ci"), key("b", name="ci")))


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1\\@img.example/x",
        "https://someone@img.example/x",
        "https://img.example /x",
        "https://img.example\t/x",
        "http://img.example/x",
    ],
)
async def test_an_images_host_is_the_same_for_every_reader(url: str) -> None:
    served = gateway(policy=GatewayPolicy(image_hosts=("img.example",)))
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "duet", "messages": [{"role": "user", "content": parts}]}
    assert (await ask(served, CHAT, body)).status == 400
    parts[1]["image_url"] = {"url": "https://img.example/x"}
    assert (await ask(served, CHAT, body)).status == 200


async def test_tools_that_are_no_list_are_no_fault_of_ours() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": 5}
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
    served = gateway(policy=GatewayPolicy())
    body = {"model": "duet", "input": "How many?", "tools": [tool], "tool_choice": choice}
    assert (await ask(served, RESPONSES, body)).status == 200


async def test_a_chain_has_no_more_messages_than_a_request_may() -> None:
    served = gateway(policy=GatewayPolicy(most_messages=10))
    first = await ask(served, RESPONSES, {"model": "duet", "input": QUESTION * 8})
    body = {"model": "duet", "input": QUESTION * 8, "previous_response_id": first.json["id"]}
    assert (await ask(served, RESPONSES, body)).json["error"]["code"] == "too_many_messages"


async def test_a_kept_signal_is_shown_to_keys_alone_that_may_see_it() -> None:
    keys = (key("a", sees_signal=True), GatewayKey("a", sha256=hashlib.sha256(b"b").hexdigest()))
    served = gateway("a secret plan", "yes", policy=GatewayPolicy(keys=keys, signal_field="both"))
    body = {"model": "duet", "input": "How many?", "reasoning": {"summary": "auto"}}
    made = await ask(served, RESPONSES, body, headers=BEARER)
    assert b"a secret plan" in made.body
    for name, sees in (("a", True), ("b", False)):
        read = await ask(served, f"{RESPONSES}/{made.json['id']}", headers={"authorization": f"Bearer {name}"})
        assert read.status == 200
        assert (b"a secret plan" in read.body) is sees


async def test_a_spent_budget_takes_no_tokens_of_a_minute() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(requests=0))
    served = gateway(policy=GatewayPolicy(keys=(key("a", tokens_per_minute=1500),)), ledger=ledger)
    for _ in range(4):
        assert (await ask(served, CHAT, BODY, headers=BEARER)).status == 402


async def test_a_run_of_one_call_at_a_time_asks_the_reasoner_once() -> None:
    reasoner = Scripted("look it up")
    two = Script("", tool_calls=(CALL, ToolCall("c2", "look_up", "{}")))
    served = gateway(reasoner, Scripted(two, "done"), policy=GatewayPolicy())
    tool = {"name": "look_up", "input_schema": {"type": "object"}}
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = {"model": "duet", "max_tokens": 99, "messages": QUESTION, "tools": [tool], "tool_choice": choice}
    first = (await ask(served, MESSAGES, body)).json
    told = [{"type": "tool_result", "tool_use_id": "c1", "content": "17"}]
    turns = [*QUESTION, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": told}]
    assert (await ask(served, MESSAGES, body | {"messages": turns})).status == 200
    assert len(reasoner.calls) == 1


async def test_settings_that_are_refused_change_nothing() -> None:
    before = gateway(policy=GatewayPolicy())
    missing = GatewayPolicy(metrics_tenants=True, keys=(GatewayKey("a", key_env="NOT_SET_ANYWHERE"),))
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE"):
        Gateway(before.pairs, missing, before=before)
    assert before.metrics.by_tenant is False


async def test_new_settings_have_no_places_of_their_own() -> None:
    stalled = Scripted(Script("a b c", stall_after=1))
    policy = GatewayPolicy(at_once=1, queue=0)
    before = gateway("x", stalled, policy=policy)
    body = {"model": "duet/generator", "messages": QUESTION}
    talk = Conversation(before, CHAT, body)
    while not stalled.open_calls:
        await asyncio.sleep(0)
    after = Gateway(before.pairs, policy, before=before)
    assert (await ask(after, CHAT, body)).status == 429
    talk.leave()
    await asyncio.wait_for(talk.task, 20)


def test_one_tenant_pushes_out_nobody_elses() -> None:
    kept, signals = Kept(1 << 20), Signals()
    asked = [Message("user", "How many?")]
    kept.keep("b", {"id": "resp_b", "output": []}, ["x" * 10_000])
    signals.keep("b", asked, [CALL], "a plan", "b")
    for at in range(5000):
        kept.keep("a", {"id": f"resp_{at}", "output": []}, [])
        signals.keep("a", asked, [ToolCall(f"c{at}", "look_up", "{}")], "another", str(at))
    assert kept.response("b", "resp_b") is not None
    assert len(kept) <= 2501
    assert signals.signed("b", signals.signature("b", "b")) == "a plan"
    assert signals.signed("a", signals.signature("a", "0")) is None


def test_what_is_read_of_a_long_body_is_read_once() -> None:
    class Counted(dict[str, Any]):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return super().__eq__(other)

        __hash__ = None  # type: ignore[assignment]

    turns = [Counted(role=role, content="x") for role in ("system", "user") for _ in range(100)]
    assert is_side_request({"messages": turns}) is False
    assert Counted.compared == 0
