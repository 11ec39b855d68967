"""The access log: one line for each request, and nothing in it that was said, or that a terminal obeys."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from support.asgi import Conversation, ask

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.access_log import LOG
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

CHAT = "/v1/chat/completions"
DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
BEARER = {"authorization": "Bearer secret", "x-private": "header-text"}
POLICY = GatewayPolicy(keys=(GatewayKey("a", sha256=DIGEST),), access_log=True)


def gateway(generator: Any = "answer-text of four words", policy: GatewayPolicy = POLICY) -> Gateway:
    return app(AsyncDuetClient(Scripted("signal-text of three"), Scripted(generator)), policy=policy)


def question(model: str = "duet", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "question-text"}], **more}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, LOG)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOG]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_line_has_who_what_and_how_much(lines: Any, streamed: bool) -> None:
    served = gateway()
    reply = await ask(served, CHAT, question(stream=streamed), headers=BEARER, query_string=b"key=query-text")
    (line,) = lines()
    told = json.loads(line)
    assert told["receipt"] == reply.headers["x-duet-receipt"]
    assert (told["wire"], told["path"], told["tenant"], told["model"]) == ("chat", CHAT, "a", "duet")
    assert (told["status"], told["ended"], told["streamed"], told["served_by"]) == (200, "complete", streamed, "pair")
    assert told["reasoner_tokens"][1] == 3
    assert told["generator_tokens"][1] == 4
    assert told["usd"] == "0"
    assert told["seconds"] >= told["first_answer_s"] >= 0
    for content in ("-text", "secret", DIGEST):
        assert content not in line


async def test_no_name_of_a_model_begins_a_line_or_steers_a_terminal(lines: Any) -> None:
    await ask(gateway(), CHAT, question('x\r\n{"forged": 1}\x1b[2J\x7f\x9b\u2028' + "y" * 5000), headers=BEARER)
    (line,) = lines()
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 1000
    assert json.loads(line)["status"] == 404


async def test_a_path_that_is_not_served_and_a_wrong_key_are_not_quoted(lines: Any) -> None:
    await ask(gateway(), "/private/path-text", headers=BEARER)
    await ask(gateway(), CHAT, question(), headers={"authorization": "Bearer wrong-key-text"})
    first, second = map(json.loads, lines())
    assert (first["path"], first["status"], first["ended"]) == ("", 404, "error")
    assert (second["path"], second["status"], second["code"]) == (CHAT, 401, "invalid_api_key")
    assert "text" not in "".join(lines())


async def test_a_client_that_left_is_a_line_with_its_part(lines: Any) -> None:
    talk = Conversation(gateway(Script("a b c d", stall_after=2)), CHAT, question(stream=True), headers=BEARER)
    await talk.until(b'"content":"a')
    talk.leave()
    await talk.task
    (told,) = map(json.loads, lines())
    assert (told["status"], told["ended"], told["generator_tokens"][1]) == (499, "left", 2)


async def test_it_is_off_unless_asked_for(lines: Any) -> None:
    await ask(gateway(policy=GatewayPolicy()), CHAT, question())
    assert lines() == []
