"""`duet serve` as a process: it ends without cutting answers off, and takes new settings without dropping streams."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.asgi import Conversation, ask
from support.duet_serve import duet_serve
from support.fault_server import Answer, FaultServer
from support.gateway_server import Socket

from duet_sdk import AsyncDuetClient, ConfigError
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import connect_ledger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.making import Address, Making, Source
from duet_sdk.gateway.reloading import Reloading
from duet_sdk.gateway.serve import serve
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.settings import Settings

CHAT = "/v1/chat/completions"
WORDS = "one two three four five six"
HELD = b'"content":"one'


def question(text: str = "How many?", model: str = "duet", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def upstream(hold: asyncio.Event) -> FaultServer:
    """Both models; an answer to "wait" is held back."""

    def answer(body: dict[str, Any]) -> Answer:
        waits = body["model"] == "g" and "wait" in str(body["messages"])
        return Answer(WORDS, hold=hold if waits else None)

    return FaultServer(answer, models=["r", "g"])


def settings(server: FaultServer, gateway: str = "", ledger: str = "") -> str:
    return f'reasoner = "vllm/r@{server.url}"\ngenerator = "vllm/g@{server.url}"\n{ledger}\n[gateway]\n{gateway}\n'


async def held(port: int) -> Socket:
    """A stream that has begun."""
    talk = await Socket.ask(port, CHAT, question("wait", stream=True))
    await talk.until(HELD)
    return talk


async def test_sigterm_lets_a_stream_end(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with upstream(hold) as server, duet_serve(tmp_path, settings(server)) as duet:
        talk = await held(duet.port)
        duet.tell(signal.SIGTERM)
        await duet.refuses()
        hold.set()
        assert b"[DONE]" in await talk.rest()
        assert await duet.ended() == 0
        assert (server.open, server.aborted) == (0, 0)
    assert len(duet.log.splitlines()) == 1, duet.log


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_does_not_end_in_time_is_ended_with_an_error_and_booked(tmp_path: Path, signals: int) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    drain_s = "drain_s = 0.2" if signals == 1 else "drain_s = 600"
    async with (
        upstream(asyncio.Event()) as server,
        duet_serve(tmp_path, settings(server, drain_s, f'ledger = "{url}"')) as duet,
    ):
        talk = await held(duet.port)
        for _ in range(signals):
            duet.tell(signal.SIGTERM)
            await duet.refuses()
        body = await talk.rest()
        assert b'"code":"shutting_down"' in body
        assert b"[DONE]" not in body
        assert await duet.ended() == 0
        await server.until_idle()
        assert server.aborted == 1
    async with connect_ledger(url) as ledger:
        booked = {entry.facts.stage: (entry.status, entry.facts.output_tokens) for entry in await ledger.entries()}
    assert booked == {"reasoner": ("settled", 6), "generator": ("settled", 2)}


async def test_a_client_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    endless = Answer(" ".join(["one", *["x" * 8000] * 9]), fault="endless")
    async with FaultServer(endless, models=["r", "g"], context_tokens=1 << 24) as server:
        text = settings(server, "drain_s = 0.2\nanswer_tokens = 5_000_000")
        async with duet_serve(tmp_path, text) as duet:
            talk = await Socket.ask(
                duet.port, CHAT, question(model="duet/generator", stream=True, max_tokens=5_000_000)
            )
            await talk.until(HELD)
            duet.tell(signal.SIGTERM)
            assert await duet.ended() == 0
            await server.until_idle()
            await talk.close()


async def test_sighup_takes_new_settings_and_drops_no_stream(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with upstream(hold) as server, duet_serve(tmp_path, settings(server)) as duet:
        talk = await held(duet.port)
        (tmp_path / "duet.toml").write_text(settings(server, 'aliases = { "new" = "duet" }'))
        assert b"404" in await (await Socket.ask(duet.port, CHAT, question(model="new"), connection="close")).rest()
        duet.tell(signal.SIGHUP)
        await duet.says("the settings were reloaded; host, port and workers stay")
        answer = await Socket.ask(duet.port, CHAT, question(model="new"), connection="close")
        assert b"one two three" in await answer.rest()
        hold.set()
        await talk.until(b"[DONE]")
        await talk.close()
        duet.tell(signal.SIGTERM)
        assert await duet.ended() == 0


async def test_wrong_settings_are_refused_whole_and_the_old_ones_go_on(tmp_path: Path) -> None:
    async with upstream(asyncio.Event()) as server, duet_serve(tmp_path, settings(server)) as duet:
        (tmp_path / "duet.toml").write_text(settings(server, 'aliases = { "new" = "nothing" }\nquiet_s = 1'))
        duet.tell(signal.SIGHUP)
        await duet.says("not reloaded, the ones before still hold: the gateway's alias 'new' stands for 'nothing'")
        assert b"one two" in await (await Socket.ask(duet.port, CHAT, question(), connection="close")).rest()
        duet.tell(signal.SIGTERM)
        assert await duet.ended() == 0


async def test_ready_is_503_from_the_signal_on() -> None:
    served = app(AsyncDuetClient("scripted/17", "scripted/There are 17."))
    assert (await ask(served, "/ready")).status == 200
    served.drain()
    assert (await ask(served, "/ready")).status == 503
    assert (await ask(served, "/health")).status == 200


async def test_an_old_client_is_closed_after_its_last_request() -> None:
    stalled = Scripted(Script("a b c d", stall_after=2))
    clients = [AsyncDuetClient("scripted/17", stalled), AsyncDuetClient("scripted/17", "scripted/There are 17.")]
    making = iter(clients)

    def make(before: Gateway | None) -> Gateway:
        client = next(making)
        return Gateway({"duet": client}, GatewayPolicy(), owned=(client,), before=before)

    served = Reloading(make)
    talk = Conversation(served, CHAT, question(stream=True))
    await talk.until(b'"content":"a')
    old = served.gateway
    served.reload()
    while served.gateway is old:
        await asyncio.sleep(0.01)
    assert "There are 17." in (await ask(served, CHAT, question())).body.decode()
    assert stalled.open_calls == 1
    talk.leave()
    await asyncio.wait_for(talk.task, 20)
    while served.has_old:
        await asyncio.sleep(0.01)
    with pytest.raises(ConfigError, match="this client is closed"):
        await clients[0].chat("again")
    assert 'status="499"} 1' in served.gateway.metrics.text()  # one count, before and after
    await served.aclose()


def source(policy: GatewayPolicy, **more: Any) -> Source:
    read = Settings(reasoner="scripted/17", generator="scripted/There are 17.", gateway=policy, **more)
    return Source(lambda: read, lambda given: AsyncDuetClient(settings=given))


def test_no_reload_opens_a_gateway_to_everybody() -> None:
    making = Making(source(GatewayPolicy()), Address("0.0.0.0", 1))
    with pytest.raises(ConfigError, match="binds to loopback only, and 0.0.0.0 is reached by others"):
        making(None)


def test_several_workers_refuse_a_ledger_in_memory() -> None:
    with pytest.raises(ConfigError, match="2 workers cannot share a ledger in memory: .*redis://host"):
        serve(source(GatewayPolicy(), ledger="memory:"), Address("127.0.0.1", 1, workers=2))


async def test_a_killed_worker_is_replaced_also_where_the_file_is_wrong_by_then(tmp_path: Path) -> None:
    async with upstream(asyncio.Event()) as server, duet_serve(tmp_path, settings(server), "--workers", "2") as duet:
        (tmp_path / "duet.toml").write_text("nonsense = 1")
        duet.tell(signal.SIGHUP)
        await duet.says("the settings were not reloaded")
        for times, victim in enumerate(duet.workers(), 1):
            os.kill(victim, signal.SIGKILL)
            await duet.says("was killed by signal 9; another one takes its place", times=times)
        answer = await Socket.ask(duet.port, CHAT, question(), connection="close")
        assert b"one two three" in await answer.rest()
        duet.tell(signal.SIGTERM)
        assert await duet.ended() == 0
    assert duet.log.count("the settings were not reloaded") == 1


async def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    async with upstream(asyncio.Event()) as server, duet_serve(tmp_path, settings(server), "--workers", "2") as duet:
        assert b"one two" in await (await Socket.ask(duet.port, CHAT, question(), connection="close")).rest()
        duet.tell(signal.SIGKILL)
        await duet.refuses()
