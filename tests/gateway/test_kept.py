"""Responses that are kept: by whom they are found, and that they never take more than they may."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asgi import ask

from duet_sdk import AsyncDuetClient, ConfigError, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.kept import KEPT_S, Kept
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

RESPONSES = "/v1/responses"
DIGESTS = {  # of "secret" and of "other"
    "a": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    "b": "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa",
}
A, B = {"authorization": "Bearer secret"}, {"authorization": "Bearer other"}


def response(name: str, text: str = "", previous: str | None = None) -> dict[str, Any]:
    return {"id": f"resp_{name}", "previous_response_id": previous, "output": [{"id": f"msg_{name}", "text": text}]}


def served(generator: Any = "ok", **policy: Any) -> tuple[Gateway, Scripted, Scripted]:
    """A gateway with two tenants, and its models."""
    keys = tuple(GatewayKey(tenant, sha256=digest, sees_signal=True) for tenant, digest in DIGESTS.items())
    models = Scripted("a signal"), generator if isinstance(generator, Scripted) else Scripted(generator)
    return (app(AsyncDuetClient(*models), policy=GatewayPolicy(keys=keys, **policy)), *models)


async def test_a_conversation_goes_on_from_a_previous_response_without_its_instructions() -> None:
    gateway, _, generator = served(Scripted("17.", "2.", "No."))
    first = await ask(gateway, RESPONSES, {"model": "duet", "input": "Below 60?", "instructions": "Brief."}, headers=A)
    more = {"model": "duet", "input": "The least?", "previous_response_id": first.json["id"], "stream": True}
    await ask(gateway, RESPONSES, more, headers=A)
    second = next(name for name in gateway.kept._tenants["a"] if name != first.json["id"])
    last = {"model": "duet", "input": "Is it odd?", "instructions": "Yes or no.", "previous_response_id": second}
    reply = await ask(gateway, RESPONSES, last, headers=A)
    assert reply.json["previous_response_id"] == second
    said = [(message.role, message.text) for message in generator.calls[-1].messages]
    texts = [text for _, text in said]
    assert not any("Brief." in text for text in texts)
    assert "Yes or no." in texts[0]
    assert [(role, text) for role, text in said if role != "system"][:4] == [
        ("user", "Below 60?"),
        ("assistant", "17."),
        ("user", "The least?"),
        ("assistant", "2."),
    ]


async def test_a_tools_output_alone_goes_on_with_the_signal_of_its_call() -> None:
    calling = Script("", tool_calls=(ToolCall("c1", "look_up", "{}"),))
    gateway, reasoner, generator = served(Scripted(calling, "It rains."))
    tools = [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]
    first = await ask(gateway, RESPONSES, {"model": "duet", "input": "Weather?", "tools": tools}, headers=A)
    output = [{"type": "function_call_output", "call_id": "c1", "output": "rain"}]
    more = {"model": "duet", "input": output, "previous_response_id": first.json["id"], "tools": tools}
    reply = await ask(gateway, RESPONSES, more, headers=A)
    assert reply.json["output"][-1]["content"][0]["text"] == "It rains."
    assert len(reasoner.calls) == 1
    assert "a signal" in repr(generator.calls[-1].messages)


@pytest.mark.parametrize("stored", [True, False])
async def test_another_tenants_and_an_unknown_previous_response_are_the_same_400(stored: bool) -> None:
    gateway, reasoner, _ = served()
    first = await ask(gateway, RESPONSES, {"model": "duet", "input": "hi", "store": stored}, headers=A)
    assert first.json["store"] is stored
    more = {"model": "duet", "input": "and?", "previous_response_id": first.json["id"]}
    told = []
    for headers, name in ((B, first.json["id"]), (A, "resp_none"), (A, 17)):
        reply = await ask(gateway, RESPONSES, more | {"previous_response_id": name}, headers=headers)
        assert (reply.status, reply.json["error"]["code"]) == (400, "previous_response_not_found")
        told.append(reply.json["error"])
    assert told[0] == told[1] == told[2]
    assert len(reasoner.calls) == 1
    assert (await ask(gateway, RESPONSES, more, headers=A)).status == (200 if stored else 400)
    wrong = await ask(gateway, RESPONSES, more | {"input": [17]}, headers=A)
    assert wrong.json["error"]["message"].startswith("item 0 of input" if stored else "this previous response")


async def test_a_response_can_be_read_and_deleted_by_its_tenant_alone() -> None:
    gateway, _, _ = served()
    made = (await ask(gateway, RESPONSES, {"model": "duet", "input": "hi"}, headers=A)).json
    path = f"{RESPONSES}/{made['id']}"
    assert (await ask(gateway, path, headers=B)).status == 404
    assert (await ask(gateway, path, headers=B, method="DELETE")).status == 404
    assert (await ask(gateway, path)).status == 401
    assert (await ask(gateway, path, headers=A)).json == made
    items = (await ask(gateway, f"{path}/input_items", headers=A)).json["data"]
    assert [item["content"] for item in items] == ["hi"]
    cancelled = await ask(gateway, f"{path}/cancel", {}, headers=A)
    assert (cancelled.status, cancelled.json["error"]["code"]) == (400, "not_cancellable")
    assert (await ask(gateway, path, headers=A, method="PUT")).headers["allow"] == "GET, HEAD, DELETE"
    deleted = await ask(gateway, path, headers=A, method="DELETE")
    assert deleted.json == {"id": made["id"], "object": "response", "deleted": True}
    gone = await ask(gateway, path, headers=A)
    assert (gone.status, gone.json["error"]["code"]) == (404, "response_not_found")


async def test_a_gateway_that_keeps_none_says_so() -> None:
    gateway, _, _ = served(most_kept_bytes=0)
    made = await ask(gateway, RESPONSES, {"model": "duet", "input": "hi"}, headers=A)
    assert (made.status, made.json["store"], len(gateway.kept)) == (200, False, 0)
    with pytest.raises(ConfigError, match="most_kept_bytes"):
        GatewayPolicy(most_kept_bytes=-1)


def test_a_response_that_was_not_used_for_a_day_is_forgotten() -> None:
    now = [0.0]
    kept = Kept(1 << 20, seconds=lambda: now[0])
    for tenant, name in (("a", "old"), ("b", "old"), ("a", "used")):
        kept.keep(tenant, response(name), [])
    now[0] = KEPT_S - 1
    assert kept.response("a", "resp_used") is not None
    now[0] = KEPT_S + 1
    assert kept.response("a", "resp_old") is None
    kept.keep("a", response("new"), [])
    assert len(kept) == 2  # b's went, too, though nobody asked for it
    assert kept.items("a", "resp_used") == {"msg_used": {"id": "msg_used", "text": ""}}


def test_a_conversation_whose_middle_is_gone_is_not_known() -> None:
    kept = Kept(1 << 20)
    kept.keep("a", response("1"), ["first"])
    kept.keep("a", response("2", previous="resp_1"), ["second"])
    kept.keep("a", response("3", previous="resp_2"), ["third"])
    items = kept.chain("a", "resp_3")
    assert items is not None
    assert items[::2] == ["first", "second", "third"]
    assert kept.forget("a", "resp_2")
    assert kept.chain("a", "resp_3") is None
    assert kept.chain("b", "resp_1") is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 40), st.integers(0, 900)), max_size=60))
def test_no_tenant_and_not_all_together_take_more_than_they_may(made: list[tuple[str | None, int, int]]) -> None:
    kept = Kept(2000)
    for tenant, name, length in made:
        kept.keep(tenant, response(str(name), "x" * length), [])
        assert kept.size <= 2000
        for known in kept._tenants:
            size = sum(one.size for one in kept._tenants[known].values())
            assert size == kept._sizes[known] <= (2000 if known is None else 500)
