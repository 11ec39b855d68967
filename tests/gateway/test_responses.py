"""OpenAI's Responses through a pair, whole and streamed, as clients of the protocol send and read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.response_events import events, whole_of
from support.served_gateway import gateway

from duet_sdk import AsyncDuetClient, ConnectFailed, Limit, StreamBroken, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

RESPONSES = "/v1/responses"
USER = {"role": "user", "content": "How many primes are below 60?"}
QUESTION: dict[str, Any] = {"model": "duet", "input": "How many primes are below 60?"}
TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
PATCH = {"type": "custom", "name": "patch", "description": "Edits.", "format": {"type": "text"}}
PNG = "data:image/png;base64,iVBORw0KGgo="
CALLING = Script("", tool_calls=(ToolCall("c1", "look_up", '{"town":"Bern"}'),))
SHOWN = GatewayPolicy(signal_field="both")
WITH_SUMMARY = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
CALL = {"call_id": "call_1", "name": "tool_0", "arguments": "{}"}
DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
BEARER = {"authorization": "Bearer secret"}
FIXTURES = sorted(
    path
    for path in (Path(__file__).parent / "fixtures").glob("*.json")
    if json.loads(path.read_text(encoding="utf-8"))["path"] == RESPONSES
)


def with_key(**rights: Any) -> GatewayPolicy:
    """A policy whose one key is "secret"."""
    return GatewayPolicy(keys=(GatewayKey("a", sha256=DIGEST, **rights),), signal_field="both")


async def response_to(served: Gateway, body: dict[str, Any], *, streamed: bool) -> tuple[Conversation, dict[str, Any]]:
    """An answer that is complete, and its response."""
    reply = await ask(served, RESPONSES, body | {"stream": streamed})
    assert reply.status == 200, reply.body
    return reply, whole_of(events(reply)) if streamed else reply.json


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_response_has_text_usage_and_receipt(streamed: bool) -> None:
    reply, response = await response_to(gateway(), QUESTION | {"metadata": {"a": "b"}}, streamed=streamed)
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "duet")
    assert response["created_at"] > 0
    assert text_of(response) == "There are 17 primes."
    usage = response["usage"]
    assert usage["output_tokens"] == 7
    assert usage["output_tokens_details"] == {"reasoning_tokens": 3}
    assert usage["input_tokens_details"] == {"cached_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + 7
    assert response["metadata"] == {"a": "b"}
    assert response["duet"]["receipt"] == reply.headers["x-duet-receipt"]


async def test_a_streams_events_come_in_the_order_that_clients_demand() -> None:
    reply = await ask(gateway(), RESPONSES, QUESTION | {"stream": True})
    kinds = [event["type"] for event in events(reply) if event["type"] != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_reasoner_is_asked_once_in_a_run_of_tool_turns(streamed: bool) -> None:
    reasoner = Scripted("look first", "another signal")
    served = gateway(reasoner, Scripted(CALLING, "It rains."))
    first = {"model": "duet", "input": [USER], "tools": [TOOL]}
    _, response = await response_to(served, first, streamed=streamed)
    (call,) = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "look_up", '{"town":"Bern"}')
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    _, response = await response_to(served, first | {"input": [USER, call, output]}, streamed=streamed)
    assert text_of(response) == "It rains."
    assert len(reasoner.calls) == 1


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_what_real_clients_send_is_answered(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    headers = {name: value for name, value in fixture["headers"].items() if name != "authorization"}
    served = gateway(policy=SHOWN)
    served.kept.keep(None, {"id": "resp_2", "output": [{"type": "function_call", "id": "fc_2", **CALL}]}, [USER])
    reply = await ask(served, RESPONSES, fixture["body"], headers=headers)
    assert reply.status == 200, reply.body
    response = whole_of(events(reply)) if fixture["body"].get("stream") else reply.json
    assert (response["status"], text_of(response)) == ("completed", "There are 17 primes.")
    assert response["usage"]["total_tokens"] > 0


async def sent(body: dict[str, Any], policy: GatewayPolicy | None = None, **options: Any) -> tuple[Any, Scripted]:
    """The call that reached the generator, and the reasoner."""
    reasoner, generator = Scripted("17 of them."), Scripted(options.pop("says", "ok"))
    reply = await ask(gateway(reasoner, generator, policy), RESPONSES, {"model": "duet", **body})
    assert reply.status == 200, reply.body
    return generator.calls[-1], reasoner


def refused_with(reply: Conversation) -> tuple[int, str | None, str | None]:
    return reply.status, reply.json["error"]["code"], reply.json["error"]["param"]


async def test_items_of_all_kinds_become_one_conversation() -> None:
    items = [
        {
            "type": "message",
            "id": "of-mine",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Rules."}],
        },
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "See:"}, {"type": "input_image", "image_url": PNG}],
        },
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "planted"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "*** Begin"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]},
        {"role": "user", "content": "And now?"},
    ]
    call, _ = await sent({"input": items, "instructions": "Brief."}, says="ok")
    assert "planted" not in repr(call.messages)
    talk = [message for message in call.messages if message.role != "system"]
    assert [message.role for message in talk][:5] == ["user", "assistant", "tool", "tool", "assistant"]
    assert talk[0].images[0].url == PNG
    assert [(one.id, one.name, one.arguments) for one in talk[1].tool_calls] == [
        ("c1", "look_up", "{}"),
        ("c2", "patch", '{"input": "*** Begin"}'),
    ]
    assert (talk[1].text, talk[2].text, talk[3].text, talk[4].text) == ("Let me see.", "rain", "done", "I cannot.")
    told = "".join(message.text for message in call.messages if message.role == "system")
    assert "Brief." in told
    assert "Rules." in told


async def test_tools_are_flattened_and_a_providers_are_left_out() -> None:
    inner = {"type": "function", "name": "inner", "parameters": {"type": "object"}, "defer_loading": True}
    tools = [TOOL, {"type": "namespace", "name": "more", "tools": [inner, TOOL]}, {"type": "web_search"}, PATCH]
    call, _ = await sent({"input": "hi", "tools": tools})
    assert [tool["function"]["name"] for tool in call.tools] == ["look_up", "inner", "patch"]
    assert call.tools[2]["function"]["parameters"]["required"] == ["input"]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "inner"}]}
    call, _ = await sent({"input": "hi", "tools": tools, "tool_choice": allowed})
    assert [tool["function"]["name"] for tool in call.tools] == ["inner"]
    call, _ = await sent({"input": "hi", "tools": tools, "tool_choice": {"type": "web_search"}})
    assert len(call.tools) == 3


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_custom_tool_is_called_with_text_and_an_inner_one_by_its_name(streamed: bool) -> None:
    calls = ToolCall("c1", "patch", '{"input": "*** Begin"}'), ToolCall("c2", "inner", '{"a":1}')
    tools = [PATCH, {"type": "namespace", "name": "more", "tools": [{"type": "function", "name": "inner"}]}]
    served = gateway(generator=Script("First this.", tool_calls=calls))
    _, response = await response_to(served, QUESTION | {"tools": tools}, streamed=streamed)
    message, custom, plain = response["output"]
    assert message["content"][0]["text"] == "First this."
    assert (custom["type"], custom["call_id"], custom["input"]) == ("custom_tool_call", "c1", "*** Begin")
    assert (plain["type"], plain["name"], plain["arguments"]) == ("function_call", "inner", '{"a":1}')
    one = QUESTION | {"tools": tools, "parallel_tool_calls": False}
    _, response = await response_to(served, one, streamed=streamed)
    assert [item["type"] for item in response["output"]] == ["message", "custom_tool_call"]


async def test_limits_effort_form_and_sampling_reach_the_pair() -> None:
    form = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}
    more = {"text": {**form, "verbosity": "low"}, "temperature": 0.3, "top_p": 0.9, "truncation": "auto"}
    call, _ = await sent({"input": "hi", **more}, says='{"n": 17}')
    assert call.response_format["json_schema"] == {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert (call.sampling.temperature, call.sampling.top_p) == (0.3, 0.9)
    _, reasoner = await sent({"input": "hi", "max_output_tokens": 100, "reasoning": {"effort": "high"}})
    whole, _ = await sent({"input": "hi", "max_output_tokens": 100})
    assert len(reasoner.calls) == 1
    assert whole.max_tokens == 50
    _, reasoner = await sent({"input": "hi", "reasoning": {"effort": "none"}})
    assert reasoner.calls == []


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_that_is_cut_is_incomplete(streamed: bool) -> None:
    served = gateway(generator="a b c d e f")
    _, response = await response_to(served, QUESTION | {"max_output_tokens": 4}, streamed=streamed)
    assert (response["status"], text_of(response)) == ("incomplete", "a b")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_signal_is_a_summary_for_whom_may_see_it_and_asks(streamed: bool) -> None:
    for policy, wanted, summaries in (
        (SHOWN, WITH_SUMMARY, ["17 of them."]),
        (SHOWN, {}, []),
        (GatewayPolicy(), WITH_SUMMARY, None),
    ):
        _, response = await response_to(gateway(policy=policy), QUESTION | wanted, streamed=streamed)
        items = [item for item in response["output"] if item["type"] == "reasoning"]
        assert len(items) == (0 if summaries is None else 1)
        for item in items:
            assert [part["text"] for part in item["summary"]] == summaries
            assert ("encrypted_content" in item) == bool(wanted)
            assert "17 of" not in item.get("encrypted_content", "")


@pytest.mark.parametrize("named_by", ["content", "id", "reference"])
async def test_a_signal_is_found_by_its_reasoning_item_within_its_tenant_alone(named_by: str) -> None:
    for second, asked_again in (("secret", False), ("other", True)):
        reasoner = Scripted("look first", "another signal")
        keys = tuple(
            GatewayKey(key, sha256=hashlib.sha256(key.encode()).hexdigest(), sees_signal=True)
            for key in ("secret", "other")
        )
        policy = GatewayPolicy(keys=keys, signal_field="both")
        served = gateway(reasoner, Scripted(CALLING, "It rains."), policy)
        first = {"model": "duet", "input": [USER], "tools": [TOOL], "store": False, **WITH_SUMMARY}
        made = (await ask(served, RESPONSES, first, headers=BEARER)).json["output"]
        # The call has another id, as of a client that makes its own: it is not what the signal is found by.
        call = made[1] | {"call_id": "mine", "id": "fc_mine"}
        output = {"type": "function_call_output", "call_id": "mine", "output": "rain"}
        reasoning = {
            "content": made[0] | {"id": "rs_mine"},
            "id": made[0] | {"encrypted_content": None},
            "reference": {"type": "item_reference", "id": made[0]["id"]},
        }[named_by]
        again = first | {"input": [USER, reasoning, call, output]}
        reply = await ask(served, RESPONSES, again, headers={"authorization": f"Bearer {second}"})
        assert text_of(reply.json) == "It rains."
        assert len(reasoner.calls) == (2 if asked_again else 1)


async def test_a_reference_to_an_item_that_is_kept_stands_for_it() -> None:
    generator = Scripted("17.", "ok")
    served = gateway(generator=generator)
    made = (await ask(served, RESPONSES, QUESTION)).json["output"]
    refer = [USER, {"type": "item_reference", "id": made[0]["id"]}, {"type": "item_reference", "id": "msg_none"}, USER]
    reply = await ask(served, RESPONSES, {"model": "duet", "input": refer})
    assert reply.status == 200
    talk = [(message.role, message.text) for message in generator.calls[-1].messages if message.role != "system"]
    assert talk[:2] == [("user", USER["content"]), ("assistant", "17.")]


@pytest.mark.parametrize("streamed", [True, False])
async def test_logprobs_come_where_they_are_included(streamed: bool) -> None:
    for wanted in ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 1}):
        _, response = await response_to(gateway(), QUESTION | wanted, streamed=streamed)
        logprobs = response["output"][0]["content"][0]["logprobs"]
        assert logprobs[0]["token"] == "There"


async def test_a_stream_that_breaks_ends_as_failed_and_never_as_complete() -> None:
    broken = Script("There are 17 primes.", error=StreamBroken("cut", backend="scripted", model="m"), fail_after=2)
    served = gateway(generator=broken, retry={"attempts": 1})
    _, response = await response_to(served, QUESTION, streamed=True)
    assert (response["status"], response["error"]["code"]) == ("failed", "stream_broken")
    assert response["output"] == []
    assert len(served.kept) == 0


async def test_what_is_refused_says_what_to_send() -> None:
    for body, where in (
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": 17}, "input"),
        ({"input": [17]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]}]}, None),
        ({"tools": "all"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"instructions": 3}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ):
        reply = await ask(gateway(), RESPONSES, QUESTION | body)
        assert reply.status == 400, body
        assert where is None or reply.json["error"]["param"] == where
        assert reply.json["error"]["message"]


async def test_errors_have_the_statuses_that_codex_acts_on() -> None:
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(generator_tokens=1))
    spent = await ask(gateway(policy=with_key(), ledger=ledger), RESPONSES, QUESTION, headers=BEARER)
    assert (spent.status, spent.json["error"]["code"]) == (429, "insufficient_quota")
    assert spent.headers["x-should-retry"] == "false"
    dead = [Scripted(connect_error=ConnectFailed("refused", backend="scripted", model="m")) for _ in "ab"]
    for streamed in (True, False):
        reply = await ask(gateway(*dead, retry={"attempts": 1}), RESPONSES, QUESTION | {"stream": streamed})
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    small = AsyncDuetClient(
        {"model": "scripted/a", "context_tokens": 64}, {"model": "scripted/b", "context_tokens": 64}
    )
    long = await ask(app(small), RESPONSES, {"model": "duet", "input": "word " * 500})
    assert (long.status, long.json["error"]["code"]) == (400, "context_length_exceeded")
    assert "64" in long.json["error"]["message"]
    unknown = await ask(gateway(), RESPONSES, QUESTION | {"model": "gpt-5"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


async def test_fields_that_mean_nothing_here_are_read_over() -> None:
    more = {"service_tier": "auto", "client_metadata": {"a": "b"}, "max_tool_calls": 3, "stream_options": {}}
    assert (await ask(gateway(), RESPONSES, QUESTION | more)).status == 200


async def test_tokens_of_an_input_are_counted() -> None:
    reply = await ask(gateway(), f"{RESPONSES}/input_tokens", QUESTION | {"tools": [TOOL]})
    assert (reply.status, reply.json["object"]) == (200, "response.input_tokens")
    assert reply.json["input_tokens"] > 0
