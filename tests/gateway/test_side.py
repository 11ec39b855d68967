"""Side requests go to the generator alone, whatever wire they come by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import ask

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gateway import app
from duet_sdk.gateway.side import is_side_request
from duet_sdk.gateway_policy import GatewayPolicy

FIXTURES = Path(__file__).parent / "fixtures"
SYSTEM = "You are a title generator. You output ONLY a thread title. Nothing else."
TITLE: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Generate a title for this conversation:"},
        {"role": "user", "content": "How many primes are below 60?"},
    ]
}


def fixture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("switched_on", [True, False])
async def test_claude_codes_title_goes_to_the_generator_alone_unless_that_is_switched_off(switched_on: bool) -> None:
    reasoner, generator = Scripted("think"), Scripted('{"title": "Primes"}')
    served = app(AsyncDuetClient(reasoner, generator), policy=GatewayPolicy(side_requests=switched_on))
    reply = await ask(served, "/v1/messages", fixture("claude-code-terminal-title")["body"])
    assert reply.status == 200
    assert len(reasoner.calls) == (0 if switched_on else 1)
    schema = generator.calls[0].response_format["json_schema"]["schema"]  # type: ignore[index]
    assert schema["required"] == ["title"]


@pytest.mark.parametrize("name", ["claude-code-terminal-turn", "opencode-compaction", "opencode-first"])
async def test_turns_and_summaries_ask_the_reasoner(name: str) -> None:
    reasoner, given = Scripted("think"), fixture(name)
    served = app(AsyncDuetClient(reasoner, Scripted("There are 17.")))
    reply = await ask(served, given["path"].partition("?")[0], given["body"])
    assert reply.status == 200
    assert len(reasoner.calls) == 1


async def test_a_title_prompt_of_chat_goes_to_the_generator_alone() -> None:
    """In the shape of opencode-title, with its own first sentence in place of the fixture's placeholder."""
    assert [turn["role"] for turn in TITLE["messages"]] == [
        turn["role"] for turn in fixture("opencode-title")["body"]["messages"]
    ]
    reasoner = Scripted("think")
    served = app(AsyncDuetClient(reasoner, Scripted("Primes below 60")))
    reply = await ask(served, "/v1/chat/completions", {**TITLE, "model": "duet"})
    assert reply.json["duet"]["mode"] == "generator"
    assert reasoner.calls == []


@pytest.mark.parametrize(
    "told",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {
            "messages": [
                *TITLE["messages"],
                {"role": "assistant", "content": "Primes"},
                {"role": "user", "content": "go"},
            ]
        },
        {"messages": TITLE["messages"][1:]},
        {"messages": [{"role": "system", "content": SYSTEM + "long" * 2000}, *TITLE["messages"][1:]]},
        {"messages": [{"role": "system", "content": "You answer questions."}, *TITLE["messages"][1:]]},
        {"messages": "Generate a title"},
    ],
)
def test_what_has_tools_turns_or_other_instructions_is_none(told: dict[str, Any]) -> None:
    assert is_side_request(TITLE)
    assert not is_side_request({**TITLE, **told})
