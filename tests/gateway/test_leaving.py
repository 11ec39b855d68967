"""A client that leaves: both stages end at the servers, the part is booked, and nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.asgi import Conversation
from support.fault_server import Answer, FaultServer
from support.gateway_server import Socket, behind_socket, pair_at

from duet_sdk import AsyncDuetClient, Limit
from duet_sdk.budget import MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.keys import ANYBODY
from duet_sdk.gateway_policy import GatewayPolicy

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {
    "model": "duet",
    "messages": [{"role": "user", "content": "How many primes are below 60?"}],
    "prompt_cache_key": "s",
}
SCOPE = "session:anybody/s"
LONG = {"answer_tokens": 5_000_000}
"""More than a socket takes while nobody reads it."""
WORDS = "one two three four five six"
ANSWER = Answer(WORDS)


class Held(asyncio.Event):
    """Holds an answer back for ever, and tells when it does."""

    def __init__(self) -> None:
        super().__init__()
        self._held = asyncio.Event()

    async def wait(self) -> bool:  # type: ignore[override]
        self._held.set()
        return await super().wait()  # type: ignore[return-value]

    async def reached(self) -> None:
        """Wait until the words before it were sent, and read by whoever waits for them on this loop."""
        await asyncio.wait_for(self._held.wait(), 20)
        for _ in range(50):
            await asyncio.sleep(0)


@dataclass
class Served:
    """A pair at one server, with a gateway and a ledger."""

    upstream: FaultServer
    gateway: Gateway
    ledger: MemoryLedger

    async def is_left(self, aborted: int) -> dict[str, int]:
        """Once nothing runs any more: output tokens in the ledger by stage.

        What ran at the server was broken off, nothing is held, and all that was charged was settled.
        """
        await self.gateway.running.over()
        await self.upstream.until_idle()
        assert self.upstream.aborted == aborted
        held = (await self.ledger.balance(SCOPE)).held
        assert (held.reasoner_tokens, held.generator_tokens, held.requests) == (0, 0, 0)
        entries = await self.ledger.entries()
        assert {entry.status for entry in entries} == {"settled"}
        assert 'ended_total{how="left"} 1' in self.gateway.metrics.text()
        assert "requests_running 0" in self.gateway.metrics.text()
        return {str(entry.facts.stage): entry.facts.output_tokens for entry in entries}


@asynccontextmanager
async def pair(reasoner: Answer, generator: Answer = ANSWER, **options: Any) -> AsyncIterator[Served]:
    ledger = MemoryLedger()
    await ledger.set_limit(SCOPE, Limit(reasoner_tokens=10**8, generator_tokens=10**8))

    def answer(body: dict[str, Any]) -> Answer:
        return reasoner if body["model"] == "r" else generator

    async with FaultServer(answer, models=["r", "g"], context_tokens=1 << 24) as upstream:
        async with AsyncDuetClient(*pair_at(upstream.url), ledger=ledger, **options) as duet:
            yield Served(upstream, app(duet, policy=GatewayPolicy(signal_field="reasoning_content")), ledger)
        assert upstream.open == 0


@asynccontextmanager
async def client(served: Served, by: str, body: dict[str, Any]) -> AsyncIterator[Any]:
    """A client of the app by hand, or of uvicorn by a socket."""
    if by == "asgi":
        talk = Conversation(served.gateway, CHAT, body)
        yield talk
        await asyncio.wait_for(talk.task, 20)
        return
    async with behind_socket(served.gateway) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        talker = await Socket.ask(port, CHAT, body)
        yield talker
        await talker.close()


async def leave(talk: Any, how: str) -> None:
    if isinstance(talk, Conversation):
        talk.leave()
    else:
        await talk.leave(how)


BY = [("asgi", "fin"), ("socket", "fin"), ("socket", "rst"), ("socket", "half")]


@pytest.mark.parametrize(("by", "how"), BY)
@pytest.mark.parametrize("streamed", [True, False])
async def test_while_the_signal_is_written(by: str, how: str, streamed: bool) -> None:
    hold = Held()
    async with (
        pair(Answer(WORDS, hold=hold)) as served,
        client(served, by, QUESTION | {"stream": streamed}) as talk,
    ):
        await hold.reached()
        await leave(talk, how)
        assert await served.is_left(aborted=1) == {"reasoner": 2}
        assert [call["model"] for call in served.upstream.calls] == ["r"]


@pytest.mark.parametrize(("by", "how"), BY)
async def test_while_the_answer_is_streamed(by: str, how: str) -> None:
    hold = Held()
    async with (
        pair(Answer(WORDS), Answer(WORDS, hold=hold)) as served,
        client(served, by, QUESTION | {"stream": True}) as talk,
    ):
        await talk.until(b'"content":"one')
        await hold.reached()
        await leave(talk, how)
        assert await served.is_left(aborted=1) == {"reasoner": 6, "generator": 2}


@pytest.mark.parametrize(("by", "how"), BY)
@pytest.mark.parametrize("several", [1, 3])
async def test_while_a_whole_answer_is_written(by: str, how: str, several: int) -> None:
    async with (
        pair(Answer(WORDS), Answer(WORDS, fault="stall_mid_stream")) as served,
        client(served, by, QUESTION | {"n": several}) as talk,
    ):
        await served.upstream.until(lambda: [call["model"] for call in served.upstream.calls] == ["r", "g"])
        await served.upstream.until(lambda: served.upstream.open == 1)
        await leave(talk, how)
        assert (await served.is_left(aborted=1))["reasoner"] == 6
        # What a server wrote of an answer in one piece is not known, but for its prompt.
        assert sum(entry.generator_tokens for entry in await served.ledger.entries()) > 0


@pytest.mark.parametrize(("by", "how"), BY)
@pytest.mark.parametrize("streamed", [True, False])
async def test_between_the_stages(by: str, how: str, streamed: bool) -> None:
    async with (
        pair(Answer(WORDS), Answer(fault="stall_before_headers")) as served,
        client(served, by, QUESTION | {"stream": streamed}) as talk,
    ):
        await served.upstream.until(lambda: [call["model"] for call in served.upstream.calls] == ["r", "g"])
        await served.upstream.until(lambda: served.upstream.open == 1)
        await leave(talk, how)
        assert (await served.is_left(aborted=1))["reasoner"] == 6


@pytest.mark.parametrize("streamed", [True, False])
async def test_both_stages_end_where_both_run_at_once(streamed: bool) -> None:
    signal, answer = Held(), Held()
    async with (
        pair(Answer(WORDS, hold=signal), Answer(WORDS, hold=answer), gate="race") as served,
        client(served, "socket", QUESTION | {"stream": streamed}) as talk,
    ):
        await signal.reached()
        await answer.reached()
        assert served.upstream.open == 2
        await leave(talk, "fin")
        assert await served.is_left(aborted=2) == {"reasoner": 2, "generator": 2}


async def test_while_it_reads_nothing() -> None:
    """The gateway waits for room to send, and reads its model no further meanwhile."""
    endless = Answer(" ".join(["one", *["x" * 8000] * 9]), fault="endless")
    async with pair(Answer(WORDS), endless, budget=LONG) as served:
        async with behind_socket(served.gateway) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            talk = await Socket.ask(port, CHAT, QUESTION | {"stream": True, "max_tokens": 5_000_000})
            await talk.until(b'"content":"one')
            (connection,) = server.server_state.connections
            while not connection.flow.write_paused:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            await talk.leave("rst")
            told = await served.is_left(aborted=1)
        assert told["reasoner"] == 6
        assert told["generator"] > 2


async def test_while_comments_are_all_it_gets() -> None:
    hold = Held()
    async with pair(Answer(WORDS, hold=hold)) as served:
        pairs = {"duet": served.gateway.names.find("duet", ANYBODY).client}
        served.gateway = app(pairs, policy=GatewayPolicy(quiet_s=0.05))
        async with client(served, "socket", QUESTION | {"stream": True}) as talk:
            await talk.until(b": waiting")
            await hold.reached()
            await talk.leave("fin")
            assert await served.is_left(aborted=1) == {"reasoner": 2}


async def test_before_its_body_is_complete_costs_nothing() -> None:
    async with pair(Answer(WORDS)) as served, behind_socket(served.gateway) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        talk = await Socket.ask(port, CHAT, QUESTION, **{"content-length": "5000"})
        while not len(served.gateway.running):
            await asyncio.sleep(0.01)
        await talk.leave("fin")
        await served.gateway.running.over()
        assert served.upstream.calls == []
        assert await served.ledger.entries() == []


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_tokens_of_a_part_are_in_the_metrics(streamed: bool) -> None:
    hold = Held()
    async with (
        pair(Answer(WORDS, hold=hold)) as served,
        client(served, "asgi", QUESTION | {"stream": streamed}) as talk,
    ):
        await hold.reached()
        await leave(talk, "fin")
        await served.is_left(aborted=1)
        assert 'tokens_total{stage="reasoner",kind="output"} 2' in served.gateway.metrics.text()
