"""A gateway whose ledger's Redis goes and comes back: no request is answered unpaid, none hangs, and nothing stays held."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk import AsyncDuetClient, Limit
from duet_sdk.backends.base import Call
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import RedisLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason=WHY_NOT),
    pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning"),
]
CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "duet", "messages": [{"role": "user", "content": "How many?"}]}
BEARER = {"authorization": "Bearer secret"}
POLICY = GatewayPolicy(keys=(GatewayKey("a", sha256=hashlib.sha256(b"secret").hexdigest()),))
PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always")
EXPIRED_S = 700
"""After which a hold is over."""
LIMIT = Limit(reasoner_tokens=10**6, generator_tokens=10**6)


@asynccontextmanager
async def served(
    redis: RedisServer, reasoner: Any = "17.", generator: Any = "There are 17."
) -> AsyncIterator[tuple[Gateway, RedisLedger]]:
    ledger = RedisLedger(redis.url)
    async with AsyncDuetClient(Scripted(reasoner), Scripted(generator), ledger=ledger) as duet:
        yield app(duet, policy=POLICY), ledger
    await ledger.aclose()


def stopping(redis: RedisServer) -> Callable[[Call], Script]:
    """A model's line, which ends Redis first."""

    def line(call: Call) -> Script:
        redis.stop()
        return Script("There are 17.")

    return line


def is_refused(reply: Conversation) -> bool:
    """Whether a request was refused for the ledger, in the wire's form."""
    if reply.status == 200:
        return False
    assert (reply.status, reply.json["error"]["code"]) == (503, "ledger_unreachable")
    assert int(reply.headers["retry-after"]) >= 1
    return True


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_redis_that_is_gone_at_the_start_refuses_and_is_found_when_it_comes(
    tmp_path: Path, streamed: bool
) -> None:
    redis = RedisServer(tmp_path, *PERSISTENT)
    async with served(redis) as (gateway, ledger):
        for _ in range(2):
            assert is_refused(await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER))
        with redis:
            await ledger.set_limit("tenant:a", LIMIT)
            assert not is_refused(await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER))
            assert (await ledger.balance("tenant:a")).held.generator_tokens == 0
            redis.stop()
            assert is_refused(await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER))
            redis.start()
            assert not is_refused(await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER))
            assert gateway.metrics.running == 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_redis_that_goes_while_the_answer_is_written_charges_the_hold_in_the_end(
    tmp_path: Path, streamed: bool
) -> None:
    with RedisServer(tmp_path, *PERSISTENT) as redis:
        async with served(redis, generator=stopping(redis)) as (gateway, ledger):
            await ledger.set_limit("tenant:a", LIMIT)
            reply = await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER)
            assert reply.status == 200
            assert not streamed or reply.events[-1] == "[DONE]"
            assert gateway.metrics.running == 0
            redis.start()
            held = (await ledger.balance("tenant:a")).held.generator_tokens
            assert held > 0
        later = RedisLedger(redis.url, clock=lambda: time.time() + EXPIRED_S)
        balance = await later.balance("tenant:a")
        await later.aclose()
        assert (balance.held.generator_tokens, balance.spent.generator_tokens) == (0, held)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_redis_that_goes_while_the_signal_is_written_ends_the_request(tmp_path: Path, streamed: bool) -> None:
    with RedisServer(tmp_path, *PERSISTENT) as redis:
        async with served(redis, reasoner=stopping(redis)) as (gateway, ledger):
            await ledger.set_limit("tenant:a", LIMIT)
            reply = await ask(gateway, CHAT, QUESTION | {"stream": streamed}, headers=BEARER)
            assert is_refused(reply)  # the answer could not be paid, and nothing of it was shown
            assert gateway.metrics.running == 0


async def test_a_redis_that_answers_nothing_is_given_up_and_heard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duet_sdk.budget.redis_client._SILENCE_S", 0.2)
    with RedisServer(tmp_path, *PERSISTENT) as redis:
        async with served(redis) as (gateway, ledger):
            await ledger.set_limit("tenant:a", LIMIT)
            redis.pause()
            assert is_refused(await ask(gateway, CHAT, QUESTION, headers=BEARER))
            redis.go_on()
            assert not is_refused(await ask(gateway, CHAT, QUESTION, headers=BEARER))
