"""What coding agents send, whole, against what each of them needs of a stream to act on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import app
from duet_sdk.gateway_policy import GatewayPolicy

FIXTURES = Path(__file__).parent / "fixtures"
AGENTS = sorted(
    path for agent in ("aider", "claude-code", "codex", "opencode") for path in FIXTURES.glob(f"**/{agent}-*.json")
)
TEXT, SIGNAL = "There are 17 primes.", "17, by sieve."
POLICY = GatewayPolicy(aliases={"duet-small": "duet/generator", "claude-*": "duet"}, signal_field="reasoning_content")


async def asked(path: Path, generator: Scripted) -> tuple[dict[str, Any], Conversation, Scripted]:
    """The body of a fixture, its answer, and the reasoner."""
    fixture = json.loads(path.read_text(encoding="utf-8"))
    secret = ("authorization", "x-api-key")
    headers = {name: value.replace("…", "") for name, value in fixture["headers"].items() if name not in secret}
    reasoner = Scripted(SIGNAL)
    served = app(AsyncDuetClient(reasoner, generator), policy=POLICY)
    where, _, query = fixture["path"].partition("?")
    return (
        fixture["body"],
        await ask(served, where, fixture["body"], headers=headers, query_string=query.encode()),
        reasoner,
    )


def said(body: dict[str, Any], reply: Conversation) -> tuple[str, list[tuple[str, str]], str]:
    """Text, calls and end of a stream that is in the order that its client demands."""
    if reply.scope["path"] == "/v1/responses":
        return said_by_response(reply)
    return said_by_message(reply) if reply.scope["path"] == "/v1/messages" else said_by_chunks(body, reply)


def said_by_chunks(body: dict[str, Any], reply: Conversation) -> tuple[str, list[tuple[str, str]], str]:
    *chunks, done = reply.events
    assert done == "[DONE]"
    if (body.get("stream_options") or {}).get("include_usage"):
        *chunks, usage = chunks
        assert usage["choices"] == []
        assert usage["usage"]["total_tokens"] > 0
    assert len({(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    ends = [choice["finish_reason"] for choice in choices]
    assert ends[:-1] == [None] * (len(ends) - 1)
    calls: dict[int, list[str]] = {}
    for choice in choices:
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] not in calls:
                assert (call["type"], bool(call["id"])) == ("function", True)
                calls[call["index"]] = [call["function"]["name"], ""]
            calls[call["index"]][1] += call["function"]["arguments"]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, [(name, arguments) for name, arguments in calls.values()], ends[-1]


def said_by_message(reply: Conversation) -> tuple[str, list[tuple[str, str]], str]:
    start, *middle, delta, stop = reply.events
    assert start["type"] == "message_start"
    assert start["message"]["usage"]["input_tokens"] >= 0
    assert (delta["type"], stop["type"]) == ("message_delta", "message_stop")
    assert delta["usage"]["output_tokens"] > 0
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in middle:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "pieces": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                piece = event["delta"]
                blocks[-1]["pieces"] += piece.get("text") or piece.get("partial_json") or ""
            case "content_block_stop":
                assert is_open
                is_open = False
            case kind:
                assert kind == "ping"
    assert not is_open
    assert {block["type"] for block in blocks} <= {"thinking", "text", "tool_use"}
    text = "".join(block["pieces"] for block in blocks if block["type"] == "text")
    calls = [(block["name"], block["pieces"]) for block in blocks if block["type"] == "tool_use"]
    return text, calls, delta["delta"]["stop_reason"]


def said_by_response(reply: Conversation) -> tuple[str, list[tuple[str, str]], str]:
    told = reply.events
    kinds = [event["type"] for event in told]
    assert kinds[0] == "response.created"
    assert told[0]["response"]["created_at"] > 0
    assert told[0]["response"]["model"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    added: list[str] = []
    done: list[dict[str, Any]] = []
    for event in told:
        if event["type"] == "response.output_item.added":
            added.append(event["item"]["id"])
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] in added
            done.append(event["item"])
        elif "item_id" in event:
            assert event["item_id"] in added
    last = told[-1]["response"]
    assert [item["id"] for item in last["output"]] == [item["id"] for item in done]
    assert last["usage"]["total_tokens"] > 0
    messages = [item for item in done if item["type"] == "message"]
    text = "".join(part["text"] for item in messages for part in item["content"])
    calls = [(item["name"], item["arguments"]) for item in done if item["type"] == "function_call"]
    assert {item["type"] for item in done} <= {"reasoning", "message", "function_call"}
    return text, calls, kinds[-1]


def answer_to(path: Path) -> str:
    """An answer in the form that a fixture asks for."""
    body = json.loads(path.read_text(encoding="utf-8"))["body"]
    return '{"title": "Primes"}' if "format" in body.get("output_config", {}) else TEXT


def tool_of(path: Path) -> str | None:
    """The first function that a fixture offers."""
    tools = json.loads(path.read_text(encoding="utf-8"))["body"].get("tools", ())
    functions = [tool.get("function", tool) for tool in tools if tool.get("type", "function") == "function"]
    return functions[0]["name"] if functions else None


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")  # a script does not obey it
@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
async def test_an_agent_gets_its_answer_and_an_end(path: Path) -> None:
    wanted = answer_to(path)
    body, reply, _ = await asked(path, Scripted(wanted))
    assert reply.status == 200, reply.body
    if not body.get("stream"):
        assert wanted in reply.body.decode()
        return
    text, calls, end = said(body, reply)
    assert (text, calls) == (wanted, [])
    assert end in ("stop", "end_turn", "response.completed")


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")
@pytest.mark.parametrize("path", [*filter(tool_of, AGENTS)], ids=lambda path: path.stem)
async def test_an_agent_gets_a_call_that_it_can_run(path: Path) -> None:
    tool = tool_of(path) or ""
    body, reply, _ = await asked(path, Scripted(Script("", tool_calls=(ToolCall("c1", tool, '{"a": "b"}'),))))
    assert reply.status == 200, reply.body
    if not body.get("stream"):
        assert f'"{tool}"' in reply.body.decode()
        return
    text, ((name, arguments),), end = said(body, reply)
    assert (text, name, json.loads(arguments)) == ("", tool, {"a": "b"})
    assert end in ("tool_calls", "tool_use", "response.completed")


@pytest.mark.filterwarnings("ignore:tool_choice cannot be had")
@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
async def test_only_titles_do_without_the_reasoner(path: Path) -> None:
    _, _, reasoner = await asked(path, Scripted(answer_to(path)))
    assert bool(reasoner.calls) is not path.stem.endswith("-title")


def test_there_are_agents_to_look_at() -> None:
    assert {path.stem.partition("-")[0] for path in AGENTS} >= {"aider", "opencode"}
