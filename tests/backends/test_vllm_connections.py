"""Connections to vLLM: one client's backends share them, two clients do not, and none outlives its client."""

from __future__ import annotations

import asyncio
import gc

import pytest
from support.fault_server import Answer, FaultServer, running
from support.served import BY_HAND

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.endpoints import Endpoint


def endpoint(server, model="m", **options):
    return Endpoint(model=f"vllm/{model}", base_url=server.url, **options)


async def test_both_stages_of_a_client_use_the_same_connections():
    async with FaultServer(Answer("17."), models=("r", "g")) as server:
        async with AsyncDuetClient(endpoint(server, "r"), endpoint(server, "g")) as duet:
            await duet.chat("How many?")
            connected = server.connections
            for _ in range(3):
                await duet.chat("How many?")
                async with duet.stream("How many?") as run:
                    async for _ in run:
                        pass
        assert connected <= 2  # the probes run side by side
        assert server.connections == connected


async def test_a_shared_connection_carries_the_headers_of_each_backend_only():
    async with FaultServer(Answer("17."), models=("r", "g")) as server:
        reasoner = endpoint(server, "r", api_key="first", options={"headers": {"X-Team": "a"}})
        generator = endpoint(server, "g", api_key="second")
        async with AsyncDuetClient(reasoner, generator) as duet:
            await duet.chat("How many?")
        calls = [seen for seen in server.seen if seen.path == "/v1/chat/completions" and seen.body["model"] in "rg"]
    headers = {(seen.body["model"], seen.headers["Authorization"], seen.headers.get("X-Team")) for seen in calls}
    assert headers == {("r", "Bearer first", "a"), ("g", "Bearer second", None)}


async def test_two_clients_share_no_connection_and_closing_one_leaves_the_other_open():
    async with FaultServer(Answer("17.")) as server:
        async with AsyncDuetClient(endpoint(server), endpoint(server)) as duet:
            await duet.chat("How many?")
            connected = server.connections
            async with AsyncDuetClient(endpoint(server), endpoint(server)) as other:
                await other.chat("How many?")
            assert server.connections > connected
            both = server.connections
            await duet.chat("How many?")
            assert server.connections == both


async def test_backends_made_by_themselves_share_no_connection():
    async with FaultServer(Answer("17.")) as server:
        first, second = (VllmBackend("m", base_url=server.url, capabilities=BY_HAND) for _ in range(2))
        await first.connect()
        connected = server.connections
        await second.connect()
        assert server.connections > connected
        await first.aclose()
        await second.aclose()


async def open_connections(server):
    """How many the server still holds, once it has heard of those that were closed."""
    async with asyncio.timeout(5):
        while server.held:
            gc.collect()
            await asyncio.sleep(0.01)
    return server.held


async def test_a_client_that_is_closed_closes_its_connections():
    async with FaultServer(Answer("17.")) as server:
        duet = AsyncDuetClient(endpoint(server), endpoint(server))
        await duet.chat("How many?")
        assert server.held
        await duet.aclose()
        assert await open_connections(server) == 0


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # aiohttp says so of what was not closed by hand
async def test_a_client_that_is_forgotten_closes_its_connections():
    async with FaultServer(Answer("17.")) as server:
        duet = AsyncDuetClient(endpoint(server), endpoint(server))
        await duet.chat("How many?")
        assert server.held
        del duet
        assert await open_connections(server) == 0


def test_each_event_loop_of_a_client_has_connections_of_its_own():
    with running(Answer("17.")) as server:

        async def chat(duet: AsyncDuetClient) -> None:
            assert (await duet.chat("How many?")).text == "17."

        async def in_two_loops() -> None:
            async with AsyncDuetClient(endpoint(server), endpoint(server)) as duet:
                await chat(duet)
                connected = server.connections
                await asyncio.to_thread(asyncio.run, chat(duet))
                assert server.connections > connected
                both = server.connections
                await chat(duet)
                assert server.connections == both

        asyncio.run(in_two_loops())
