"""Who may ask for what: keys, names, hosts, pages, bodies; each refusal in the form that clients read."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.asgi import ask

from duet_sdk import AsyncDuetClient, Budget, ConfigError
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.errors import refused
from duet_sdk.gateway.limits import EFFORTS, limits
from duet_sdk.gateway.making import Address, Source
from duet_sdk.gateway.names import Choice
from duet_sdk.gateway.serve import serve
from duet_sdk.gateway.wires.chat_in import PASSED_ON
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy
from duet_sdk.settings import Settings, load_settings

CHAT = "/v1/chat/completions"
QUESTION = {"model": "duet", "messages": [{"role": "user", "content": "How many?"}]}
KEY = GatewayKey("a", sha256=hashlib.sha256(b"secret").hexdigest())


def gateway(policy: GatewayPolicy | None = None, **options: Any) -> Gateway:
    return app(AsyncDuetClient(Scripted("17."), Scripted("There are 17."), **options), policy=policy)


async def names(served: Gateway, **headers: str) -> list[str]:
    reply = await ask(served, "/v1/models", headers=headers)
    return [card["id"] for card in reply.json["data"]]


async def test_models_are_what_is_configured() -> None:
    assert await names(gateway()) == ["duet", "duet:128", "duet:256", "duet:512", "duet/generator", "duet/reasoner"]
    few = GatewayPolicy(modes=("duet",), signal_tokens=(64,), aliases={"gpt-4o": "duet:64", "claude-*": "duet"})
    assert await names(gateway(few)) == ["duet", "duet:64", "gpt-4o"]


async def test_several_pairs_are_told_apart_by_name() -> None:
    one, two = (AsyncDuetClient(Scripted("s"), Scripted(text)) for text in ("one", "two"))
    served = app({"small": one, "large": two})
    reply = await ask(served, CHAT, QUESTION | {"model": "large:128"})
    assert reply.json["choices"][0]["message"]["content"] == "two"


async def test_a_name_selects_mode_and_limit() -> None:
    reasoner, generator = Scripted("17."), Scripted("There are 17.")
    served = app(AsyncDuetClient(reasoner, generator))
    await ask(served, CHAT, QUESTION | {"model": "duet/generator"})
    assert (len(reasoner.calls), len(generator.calls)) == (0, 1)
    await ask(served, CHAT, QUESTION | {"model": "duet:128"})
    assert reasoner.calls[0].max_tokens == 128
    await ask(served, CHAT, QUESTION | {"model": "duet/reasoner"})
    assert (len(reasoner.calls), len(generator.calls)) == (2, 2)


@pytest.mark.parametrize(
    "name", ["gpt-4", "duet:100000", "duet/signal", "vllm/m@http://evil.example", "../etc", 7, None]
)
async def test_an_unknown_name_is_refused_with_the_names_that_there_are(name: object) -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"model": name})
    assert reply.status == (404 if isinstance(name, str) else 400)
    assert reply.json["error"]["param"] == "model"
    if isinstance(name, str):
        assert reply.json["error"]["code"] == "model_not_found"
        assert "duet:512" in reply.json["error"]["message"]


async def test_an_alias_with_a_pattern_stands_for_a_name() -> None:
    served = gateway(GatewayPolicy(aliases={"claude-*": "duet/generator"}))
    reply = await ask(served, CHAT, QUESTION | {"model": "claude-opus-5-5"})
    assert reply.json["model"] == "claude-opus-5-5"
    assert reply.json["duet"]["mode"] == "generator"


def test_an_alias_of_no_name_is_refused_before_anything_is_served() -> None:
    with pytest.raises(ConfigError, match="stands for 'duet:7', which it does not serve: duet, duet:128"):
        gateway(GatewayPolicy(aliases={"gpt-*": "duet:7"}))


CHOICE = Choice("duet", AsyncDuetClient(Scripted(""), Scripted("")), "duet", 512, 1024, 4096)


@pytest.mark.parametrize(
    ("asked", "mode", "budget"),
    [
        ({}, "duet", Budget(signal_tokens=512, answer_tokens=1024)),
        ({"effort": "low"}, "duet", Budget(signal_tokens=128, answer_tokens=1024)),
        ({"effort": "medium"}, "duet", Budget(signal_tokens=256, answer_tokens=1024)),
        ({"effort": "none"}, "generator", Budget(answer_tokens=1024)),
        ({"effort": "text"}, "duet", Budget(signal_tokens=512, answer_tokens=1024)),
        ({"answer": 32000}, "duet", Budget(signal_tokens=512, answer_tokens=4096)),
        ({"answer": 2000}, "duet", Budget(signal_tokens=512, answer_tokens=2000)),
        ({"both": 2000}, "duet", Budget(signal_tokens=512, answer_tokens=1488)),
        ({"both": 100}, "duet", Budget(signal_tokens=50, answer_tokens=50)),
        ({"both": 1}, "generator", Budget(answer_tokens=1)),
        ({"both": 2000, "answer": 10}, "duet", Budget(signal_tokens=512, answer_tokens=10)),
    ],
)
def test_limits_of_clients_become_limits_of_both_stages(asked: dict[str, Any], mode: str, budget: Budget) -> None:
    assert limits(CHOICE, **asked) == (mode, budget)


@pytest.mark.parametrize("headers", [{"authorization": "Bearer secret"}, {"x-api-key": "secret"}])
async def test_a_key_is_taken_from_either_header(headers: dict[str, str]) -> None:
    assert (await ask(gateway(GatewayPolicy(keys=(KEY,))), CHAT, QUESTION, headers=headers)).status == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}])
async def test_without_a_known_key_nothing_is_read(headers: dict[str, str]) -> None:
    reply = await ask(gateway(GatewayPolicy(keys=(KEY,))), CHAT, b"no json", headers=headers)
    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
    assert "wrong" not in reply.body.decode()


async def test_a_key_may_use_the_models_that_it_lists() -> None:
    key = GatewayKey("a", sha256=KEY.sha256, models=("duet/*",))
    served = gateway(GatewayPolicy(keys=(key,)))
    assert await names(served, authorization="Bearer secret") == ["duet/generator", "duet/reasoner"]
    assert (await ask(served, CHAT, QUESTION, headers={"x-api-key": "secret"})).status == 404


def test_a_key_from_a_variable_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = GatewayPolicy(keys=(GatewayKey("a", key_env="TEAM_A_KEY"),))
    with pytest.raises(ConfigError, match="TEAM_A_KEY, which is not set"):
        gateway(policy)
    monkeypatch.setenv("TEAM_A_KEY", "secret")
    gateway(policy)


def test_a_key_in_the_place_of_its_digest_is_not_shown() -> None:
    for wrong in ({"sha256": "sk-my-key"}, {"key_env": "sk-my-key"}):
        with pytest.raises(ConfigError) as error:
            GatewayKey("a", **wrong)
        assert "sk-my-key" not in str(error.value)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
async def test_a_rebound_name_does_not_reach_a_gateway_without_keys(host: str) -> None:
    assert (await ask(gateway(), CHAT, QUESTION, headers={"host": host})).status == 421


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
async def test_loopback_names_reach_it(host: str) -> None:
    assert (await ask(gateway(), CHAT, QUESTION, headers={"host": host})).status == 200


async def test_a_web_page_is_refused_unless_it_is_listed() -> None:
    served = gateway(GatewayPolicy(origins=("https://chat.example",)))
    assert (await ask(served, CHAT, QUESTION, headers={"origin": "https://evil.example"})).status == 403
    assert (await ask(served, CHAT, QUESTION, headers={"origin": "https://chat.example"})).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_form_can_send_is_refused(kind: str) -> None:
    assert (await ask(gateway(), CHAT, QUESTION, headers={"content-type": kind})).status == 415


async def test_a_long_body_is_refused() -> None:
    served = gateway(GatewayPolicy(most_body_bytes=100))
    asked = {"model": "duet", "messages": [{"role": "user", "content": "x" * 200}]}
    assert (await ask(served, CHAT, asked)).status == 413
    assert (await ask(served, CHAT, b"", headers={"content-length": "9" * 30})).status == 413


async def test_other_paths_and_methods_say_what_there_is() -> None:
    assert (await ask(gateway(), "/v1/embeddings", {})).status == 404
    assert (await ask(gateway(), CHAT, method="GET")).status == 405
    assert (await ask(gateway(), "/health")).json == {"status": "ok"}
    assert (await ask(gateway(), "/ready", headers={"host": "10.0.0.1"})).status == 200
    assert (await ask(gateway(), "/v1/models/duet:512")).json["id"] == "duet:512"


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duet_sdk.gateway.exchange.BODY_S", 0.05)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    await gateway()({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
    assert sent[0]["status"] == 408


async def test_a_server_that_ends_closes_the_client_that_the_app_made() -> None:
    served = app(Settings(reasoner="scripted/17", generator="scripted/There are 17."))
    events = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
    sent: list[str] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await served({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (await ask(served, "/ready")).status == 503
    assert (await ask(served, CHAT, QUESTION)).json["error"]["code"] == "misconfigured"


async def test_the_description_names_every_path_and_every_field() -> None:
    served = gateway()
    found = (await ask(served, "/openapi.json")).json
    kept = (await ask(served, "/v1/responses", {"model": "duet", "input": "How many?"})).json["id"]
    for path in found["paths"]:
        named = path.replace("{name}", "duet").replace("{id}", kept)
        assert (await ask(served, named)).status in (200, 405), path
    fields = found["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(fields) >= {*PASSED_ON, "model", "messages", "max_tokens", "max_completion_tokens", "reasoning_effort"}
    assert fields["reasoning_effort"]["enum"] == [*EFFORTS, None]


async def test_it_can_be_mounted_below_a_path() -> None:
    reply = await ask(gateway(), "/llm/v1/models", root_path="/llm")
    assert reply.json["object"] == "list"


async def test_metrics_tell_sums_and_no_names() -> None:
    served = gateway(GatewayPolicy(keys=(KEY,)))
    await ask(served, CHAT, QUESTION, headers={"x-api-key": "secret"})
    text = (await ask(served, "/metrics", headers={"x-api-key": "secret"})).body.decode()
    assert 'duet_gateway_requests_total{wire="chat",model="duet",status="200"} 1' in text
    assert 'duet_gateway_tokens_total{stage="reasoner",kind="output"} 1' in text
    assert 'duet_gateway_first_answer_seconds_bucket{le="+Inf"} 1' in text


def test_the_page_has_every_key_of_the_table_and_every_effort() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/gateway.md").read_text(encoding="utf-8")
    for field in (*fields(GatewayPolicy), *fields(GatewayKey)):
        assert f"`{field.name}`" in page or f"\n{field.name} = " in page or f"`{field.name} = " in page, field.name
    for word in (*EFFORTS, *PASSED_ON):
        assert f"`{word}`" in page, word


def test_without_keys_it_binds_to_loopback_only() -> None:
    read = Settings(reasoner="scripted/17", generator="scripted/There are 17.")
    source = Source(lambda: read, lambda given: AsyncDuetClient(settings=given))
    with pytest.raises(ConfigError, match="without keys a gateway binds to loopback only"):
        serve(source, Address("0.0.0.0", 8080))


def test_the_table_of_a_settings_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[gateway]\nsignal_field = "both"\nsignal_tokens = [64]\naliases = {{ "claude-*" = "duet" }}\n'
        f'[[gateway.keys]]\ntenant = "a"\nsha256 = "{KEY.sha256}"\n'
    )
    read = load_settings(file).gateway
    assert (read.signal_field, read.signal_tokens, read.keys) == ("both", (64,), (KEY,))
    file.write_text("[gateway]\nport = 1\n")
    with pytest.raises(ConfigError, match="port"):
        load_settings(file)


@pytest.mark.parametrize("tool", [7, "look_up", None, []])
async def test_a_tool_that_is_no_object_is_refused(tool: object) -> None:
    choice = {"type": "function", "function": {"name": "look_up"}}
    reply = await ask(gateway(), CHAT, QUESTION | {"tools": [tool], "tool_choice": choice})
    assert (reply.status, reply.json["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("streamed", [True, False])
async def test_more_answers_than_there_may_be_are_refused_before_room_is_made_for_them(streamed: bool) -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"n": 1_253_663_477, "stream": streamed})
    assert (reply.status, reply.json["error"]["param"]) == (400, "n")


async def test_an_error_quotes_little_of_a_long_value() -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"top_k": "x" * 100_000})
    assert reply.status == 400
    assert len(reply.json["error"]["message"]) == 1001


@pytest.mark.parametrize("value", [[{}] * 400_000, [0] * 100_000, {"a": [[0] * 60_000] * 2}, "," * 1_000_001])
async def test_a_body_of_many_small_values_is_refused(value: object) -> None:
    reply = await ask(gateway(), CHAT, QUESTION | {"metadata": value})
    assert (reply.status, reply.json["error"]["code"]) == (413, "request_too_large")


def test_values_that_lie_too_deep_for_a_reader_are_a_fault_of_the_body() -> None:
    assert (refused(RecursionError()).status, refused(RecursionError()).code) == (400, "too_deep")


async def test_a_long_text_may_have_many_commas() -> None:
    text = "one, two, [three], {four}; " * 100_000
    asked = {"model": "duet", "messages": [{"role": "user", "content": text}]}
    assert (await ask(gateway(), CHAT, asked)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"a":"\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1e999",
        b'{"model":"duet","messages":[{"role":"user","content":"\\ud800"}]}',
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(body: bytes) -> None:
    reply = await ask(gateway(), CHAT, body)
    assert reply.status == 400
    assert reply.json["error"]["type"] == "invalid_request_error"
