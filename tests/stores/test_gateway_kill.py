"""`duet serve --workers 2` under load, one worker killed (-9) after the other: the ledger is exact afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.duet_serve import DuetServe, duet_serve
from support.fault_server import Answer, FaultServer
from support.gateway_server import Socket
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk.budget import Amount, BaseLedger, Limit, connect_ledger
from duet_sdk.budget.report import read

CHAT = "/v1/chat/completions"
KILLS = 4
SCOPE = "session:anybody/s"
LIMIT = 40_000
"""Tokens of the generator: what is asked for is more, so that the end of the load is refused."""
DEADLINE_S = 2
"""Of a request: holds of a killed worker expire a minute after it."""


def question() -> dict[str, Any]:
    messages = [{"role": "user", "content": "How many primes are below sixty?"}]
    return {"model": "duet", "messages": messages, "stream": True, "max_tokens": 16, "prompt_cache_key": "s"}


async def load(port: int, told: Counter[str], ends: asyncio.Event) -> None:
    """Ask one request after the other, and count how they ended, and what they say that they spent."""
    while not ends.is_set():
        try:
            talk = await Socket.ask(port, CHAT, question(), connection="close")
            body = await talk.rest()
        except OSError:
            told["broken"] += 1
            continue
        if b"data: [DONE]" in body:
            told["complete"] += 1
            receipt = json.loads(body.decode().split("data: ")[-2])["duet"]["usage"]
            for stage in ("reasoner", "generator"):
                told[stage] += receipt[stage]["input_tokens"] + receipt[stage]["output_tokens"]
        elif b"insufficient_quota" in body:
            told["refused"] += 1
        else:
            told["broken"] += 1


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read(), "utf-8")


async def kill_one(duet: DuetServe, number: int) -> None:
    """Kill a worker, and wait until another one has taken its place."""
    workers = duet.workers()
    victim = workers[number % len(workers)]
    os.kill(victim, signal.SIGKILL)
    await duet.says("was killed by signal 9; another one takes its place", times=number + 1)
    async with asyncio.timeout(30):
        while len(duet.workers()) < len(workers):
            await asyncio.sleep(0.05)


async def exact(ledger: BaseLedger, told: Counter[str], server: FaultServer) -> None:
    """Nothing overspent, no acknowledged spending missing, and the sum of the entries is the balance."""
    balance = await ledger.balance(SCOPE)
    sums: Counter[str] = Counter()
    async for entry in read(ledger):
        sums["reasoner"] += entry.reasoner_tokens
        sums["generator"] += entry.generator_tokens
    assert balance.spent.generator_tokens <= LIMIT
    assert (balance.spent.reasoner_tokens, balance.spent.generator_tokens) == (sums["reasoner"], sums["generator"])
    assert sums["generator"] >= told["generator"]
    assert sums["reasoner"] >= told["reasoner"]
    await server.until_idle()


@pytest.mark.parametrize("store", ["redis", "sqlite"])
async def test_workers_are_killed_under_load(store: str, tmp_path: Path) -> None:
    if store == "redis" and BINARY is None:
        pytest.skip(WHY_NOT)
    redis = RedisServer(tmp_path)
    url = redis.url if store == "redis" else f"sqlite:///{tmp_path}/ledger.db"
    if store == "redis":
        redis.start()
    try:
        async with FaultServer(Answer("one two three four five six"), models=["r", "g"]) as server:
            await _killed(server, url, tmp_path)
    finally:
        redis.stop()


async def _killed(server: FaultServer, url: str, folder: Path) -> None:
    settings = f'''
reasoner = "vllm/r@{server.url}"
generator = "vllm/g@{server.url}"
ledger = "{url}"
[budget]
deadline_s = {DEADLINE_S}
'''
    told: Counter[str] = Counter()
    ends = asyncio.Event()
    async with connect_ledger(url) as ledger:
        await ledger.set_limit(SCOPE, Limit(generator_tokens=LIMIT))
        async with duet_serve(folder, settings, "--workers", "2") as duet:
            callers = [asyncio.create_task(load(duet.port, told, ends)) for _ in range(8)]
            for number in range(KILLS):
                before = told["complete"]
                while told["complete"] < before + 40 and not told["refused"]:
                    await asyncio.sleep(0.05)
                await kill_one(duet, number)
            ends.set()
            await asyncio.gather(*callers)
            await exact(ledger, told, server)
            assert told["complete"] >= 40
            metrics = await asyncio.to_thread(page, f"http://127.0.0.1:{duet.port}/metrics")
            for worker in (0, 1):
                assert f'requests_running{{worker="{worker}"}}' in metrics
            duet.tell(signal.SIGTERM)
            assert await duet.ended() == 0
        # What the killed ones held becomes spendable once it expires.
        async with asyncio.timeout(120):
            while (await ledger.balance(SCOPE)).held != Amount():
                await asyncio.sleep(0.5)
        await exact(ledger, told, server)
        statuses = Counter([entry.status async for entry in read(ledger)])
        assert set(statuses) <= {"settled", "expired"}
