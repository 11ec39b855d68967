"""What clients of Messages send, and what the models get of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.asgi import ask

from duet_sdk import AsyncDuetClient, ImagePart, Message, TextPart, ToolCall
from duet_sdk.backends.base import Call
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

MESSAGES = "/v1/messages"
USER = {"role": "user", "content": "How many?"}
USE = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"town": "Bern"}}
TOOL = {"name": "look_up", "description": "of towns", "input_schema": {"type": "object"}}
FUNCTION = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object"}, "description": "of towns"},
}


async def got(policy: GatewayPolicy | None = None, /, **fields: Any) -> Call:
    """What the generator alone gets of a body."""
    generator = Scripted("17.")
    served = app(AsyncDuetClient(Scripted("think"), generator), policy=policy)
    body = {"model": "duet/generator", "max_tokens": 100, "messages": [USER], **fields}
    reply = await ask(served, MESSAGES, body)
    assert reply.status == 200, reply.body
    return generator.calls[-1]


async def refused(**fields: Any) -> str:
    """The message of a 400."""
    served = app(AsyncDuetClient(Scripted("think"), Scripted("17.")))
    reply = await ask(served, MESSAGES, {"model": "duet", "max_tokens": 100, "messages": [USER], **fields})
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error"), reply.body
    assert reply.headers["x-should-retry"] == "false"
    return str(reply.json["error"]["message"])


async def read(*messages: dict[str, Any], **fields: Any) -> list[Message]:
    """The messages that the generator gets, without what is not the wire's."""
    call = await got(messages=[*messages], **fields)
    return [
        Message(m.role, m.content, m.tool_calls, m.tool_call_id, signal=m.signal, failed=m.failed)
        for m in call.messages
    ]


async def test_system_may_be_a_string_or_blocks_and_stand_anywhere() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    blocks = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **mark}]
    assert (await read(USER, system="Be brief."))[0] == Message("system", "Be brief.")
    assert (await read(USER, system=blocks))[0] == Message("system", "Be brief.\nBe kind.")
    middle = await read(USER, {"role": "developer", "content": blocks}, {"role": "assistant", "content": "17."}, USER)
    assert middle[1] == Message("system", "Be brief.\nBe kind.")
    assert (await read(USER, {"role": "system", "content": "Be brief."}))[-1] == Message("user", "Be brief.")


async def test_a_turn_with_tools_becomes_calls_and_results() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": [{"type": "text", "text": "no"}]}
    told = {"type": "text", "text": "Go on."}
    turns = await read(
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "Wait."}, USE]},
        {"role": "user", "content": [told, result]},
        tools=[TOOL],
    )
    assert turns[1] == Message("assistant", "Wait.", (ToolCall("t1", "look_up", '{"town": "Bern"}'),))
    assert turns[2:] == [Message("tool", "no", tool_call_id="t1", failed=True), Message("user", "Go on.")]


@pytest.mark.parametrize("content", [None, "", [], [{"type": "tool_reference", "tool_name": "x"}]])
async def test_a_tool_may_say_nothing(content: object) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content}
    turns = await read(USER, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [result]})
    assert turns[-1] == Message("tool", "", tool_call_id="t1")


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "hmm", "signature": "b3BhcXVl"},
        {"type": "thinking", "thinking": "hmm", "signature": ""},
        {"type": "thinking", "thinking": "hmm", "signature": None},
        {"type": "thinking", "thinking": "hmm"},
        {"type": "redacted_thinking", "data": "hmm"},
        {"type": "server_tool_use", "id": "s1", "name": "look_up", "input": {"a": "hmm"}},
        {"type": "advisor_tool_result", "tool_use_id": "s1", "content": {"type": "advisor_result", "text": "hmm"}},
        {"type": "what_comes_next_year", "text": "hmm"},
        {"text": "hmm"},
    ],
)
async def test_thoughts_orphans_and_unknown_blocks_are_left_out(block: dict[str, Any]) -> None:
    said = {"role": "assistant", "content": [block, {"type": "text", "text": "17."}]}
    alone = {"role": "assistant", "content": [block]}
    assert await read(USER, said, alone, USER) == [
        Message("user", "How many?"),
        Message("assistant", "17."),
        Message("user", "How many?"),
    ]
    assert len(await read({"role": "user", "content": [block]}, USER)) == 1


async def test_images_and_documents_of_text_are_read() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    text = {
        "type": "document",
        "title": "Towns",
        "source": {"type": "text", "media_type": "text/plain", "data": "Bern"},
    }
    data = base64.b64encode("Bümpliz".encode()).decode()
    coded = {"type": "document", "source": {"type": "base64", "media_type": "text/markdown", "data": data}}
    listed = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Thun"}]}}
    (turn,) = await read({"role": "user", "content": [image, text]})
    assert turn.content == (ImagePart("data:image/png;base64,AA=="), TextPart("Towns"), TextPart("Bern"))
    (turn,) = await read({"role": "user", "content": [text, coded, listed]})
    assert turn.content == "Towns\nBern\nBümpliz\nThun"


async def test_an_image_by_url_is_refused_unless_its_host_is_listed() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://img.example/a.png"}}
    asked = {"role": "user", "content": [image]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [image]}]}
    assert "by URL" in await refused(messages=[asked])
    assert "by URL" in await refused(messages=[USER, {"role": "assistant", "content": [USE]}, result])
    await got(GatewayPolicy(image_hosts=("img.example",)), messages=[asked])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (
            [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}}],
            "document",
        ),
        ([{"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "?"}}], "document"),
        ([{"type": "document", "source": {"type": "file", "file_id": "f"}}], "document"),
        ([{"type": "image", "source": {"type": "base64", "media_type": "text/html", "data": "AA"}}], "image"),
        ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "image"),
        ([{"type": "image"}], "image"),
        ([{"type": "text"}], "text"),
        ([7], "blocks"),
        (7, "blocks"),
        ("", "question"),
    ],
)
async def test_content_that_cannot_be_read_is_a_400(content: object, word: str) -> None:
    assert word in await refused(messages=[{"role": "user", "content": content}])


async def test_an_answer_that_is_begun_by_the_client_is_a_400() -> None:
    assert "last message" in await refused(messages=[USER, {"role": "assistant", "content": "There are"}])


async def test_own_tools_are_taken_and_a_providers_left_out() -> None:
    tools = [
        {**TOOL, "defer_loading": True, "eager_input_streaming": True, "cache_control": {"type": "ephemeral"}},
        {**TOOL, "name": "other", "type": "custom"},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "bash_20250124", "name": "bash"},
    ]
    call = await got(tools=tools)
    assert call.tools == (FUNCTION, {**FUNCTION, "function": {**FUNCTION["function"], "name": "other"}})
    assert "tool 0" in await refused(tools=[{"name": "look_up"}])
    assert "tools" in await refused(tools={"name": "look_up"})


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")  # a script does not obey it
@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look_up"}, {"type": "function", "function": {"name": "look_up"}}),
        ({"type": "tool", "name": "web_search"}, None),
        ({"type": "sometimes"}, None),
        ("auto", None),
    ],
)
async def test_a_choice_among_tools_is_passed_on(choice: object, wanted: object) -> None:
    assert (await got(tools=[TOOL], tool_choice=choice)).tool_choice == wanted


@pytest.mark.parametrize("streamed", [True, False])
async def test_one_call_at_most_where_the_client_says_so(streamed: bool) -> None:
    calls = tuple(ToolCall(f"c{n}", "look_up", "{}") for n in (1, 2))
    served = app(AsyncDuetClient(Scripted("think"), Scripted(Script("", tool_calls=calls))))
    body = {"model": "duet", "messages": [USER], "tools": [TOOL], "stream": streamed}
    for more, count in (({}, 2), ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, 1)):
        reply = await ask(served, MESSAGES, body | more)
        assert reply.body.count(b'"tool_use","id"') == count


async def test_sampling_and_stops_are_passed_on() -> None:
    call = await got(temperature=0.3, top_p=0.9, top_k=20, stop_sequences=["\n\nHuman:"])
    sampling = call.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.3, 0.9, 20)
    assert sampling.stop == ("\n\nHuman:",)


@pytest.mark.parametrize(
    ("fields", "signal", "answer"),
    [
        ({}, 512, 1024),
        ({"max_tokens": 32000, "thinking": {"type": "adaptive"}}, 512, 1024),
        ({"max_tokens": 100}, 512, 100),
        ({"thinking": {"type": "enabled", "budget_tokens": 200}}, 200, 1024),
        ({"thinking": {"type": "enabled", "budget_tokens": 16000}}, 512, 1024),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 128, 1024),
        ({"output_config": {"effort": "medium"}}, 256, 1024),
        ({"output_config": {"effort": "xhigh"}}, 512, 1024),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, None, 1024),
        ({"thinking": "adaptive", "output_config": 7}, 512, 1024),
    ],
)
async def test_limits_are_those_of_the_table(fields: dict[str, Any], signal: int | None, answer: int) -> None:
    reasoner, generator = Scripted("17"), Scripted("17.")
    budget = {"signal_tokens": 512, "answer_tokens": 1024}
    reply = await ask(
        app(AsyncDuetClient(reasoner, generator, budget=budget)),
        MESSAGES,
        {"model": "duet", "messages": [USER], **fields},
    )
    assert reply.status == 200
    assert [call.max_tokens for call in reasoner.calls] == ([] if signal is None else [signal])
    assert generator.calls[0].max_tokens == answer


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"max_tokens": "many"}, {"thinking": {"budget_tokens": -1}}])
async def test_a_limit_that_is_no_number_is_a_400(fields: dict[str, Any]) -> None:
    assert "whole number" in await refused(**fields)


async def test_unknown_fields_are_read_over_and_logged_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    secret = "/home/somebody"
    call = await got(
        safeguards=[{"type": "dangerous_tool_use", "classifier_context": {"home_dir": secret}}],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        cache_control={"type": "ephemeral"},
        service_tier="auto",
        betas=["x"],
    )
    assert secret not in caplog.text
    assert secret not in repr(call)


@pytest.mark.parametrize(
    ("metadata", "headers", "session", "user"),
    [
        ('{"device_id": "d", "account_uuid": "", "session_id": "s"}', {}, "a/s", "a/d"),
        ('{"session_id": "s"}', {"x-claude-code-session-id": "h"}, "a/h", None),
        ("someone", {}, "a/someone", "a/someone"),
        ("{half", {}, None, None),
        (None, {"x-claude-code-session-id": "h", "x-session-id": "x"}, "a/h", None),
        (None, {"x-session-id": "x"}, "a/x", None),
        (7, {}, None, None),
    ],
)
async def test_session_and_user_come_from_header_and_metadata(
    metadata: object, headers: dict[str, str], session: str | None, user: str | None
) -> None:
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    ledger = MemoryLedger()
    served = app(
        AsyncDuetClient(Scripted("think"), Scripted("17."), ledger=ledger),
        policy=GatewayPolicy(keys=(GatewayKey("a", sha256=digest),)),
    )
    body = {"model": "duet/generator", "messages": [USER], "metadata": {"user_id": metadata}}
    reply = await ask(served, MESSAGES, body, headers={"x-api-key": "secret", **headers})
    assert reply.status == 200
    (entry,) = await ledger.entries()
    found = dict(scope.split(":", 1) for scope in entry.scopes)
    if metadata == "{half":  # no JSON after all: any text is a name, in a digest
        assert found["session"] == found["user"]
    else:
        assert (found.get("session"), found.get("user")) == (session, user)


async def test_another_tenants_signature_finds_nothing() -> None:
    digests = {
        "secret": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
        "other": "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa",
    }
    keys = tuple(GatewayKey(name, sha256=digest, sees_signal=True) for name, digest in digests.items())
    reasoner = Scripted("look first", "look again")
    generator = Scripted(Script("", tool_calls=(ToolCall("t1", "look_up", "{}"),)), "17.")
    served = app(AsyncDuetClient(reasoner, generator), policy=GatewayPolicy(keys=keys, signal_field="both"))
    body = {"model": "duet", "messages": [USER], "tools": [TOOL]}
    first = await ask(served, MESSAGES, body, headers={"x-api-key": "secret"})
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "no"}
    talk = [USER, {"role": "assistant", "content": first.json["content"]}, {"role": "user", "content": [result]}]
    for key, count in (("secret", 1), ("other", 2)):
        await ask(served, MESSAGES, {**body, "messages": talk}, headers={"x-api-key": key})
        assert len(reasoner.calls) == count
    forged = [{**first.json["content"][0], "signature": "bm9uZQ=="}, first.json["content"][1]]
    talk = [{"role": "user", "content": "What else?"}, {"role": "assistant", "content": forged}, talk[2]]
    await ask(served, MESSAGES, {**body, "messages": talk}, headers={"x-api-key": "secret"})
    assert len(reasoner.calls) == 3
    assert not any("look first" in message.text for message in generator.calls[-1].messages)
