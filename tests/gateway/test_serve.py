"""`duet serve` says that it serves once it does."""

from __future__ import annotations

import asyncio
import socket

import pytest
from uvicorn.server import ServerState

from duet_sdk import AsyncDuetClient, ConfigError
from duet_sdk.gateway import app
from duet_sdk.gateway.connection import Connection
from duet_sdk.gateway.making import Address, Source, uvicorn_config
from duet_sdk.gateway.serve import allow_many_files, serve
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.settings import Settings


def source(policy: GatewayPolicy) -> Source:
    read = Settings(reasoner="scripted/17", generator="scripted/There are 17.", gateway=policy)
    return Source(lambda: read, lambda given: AsyncDuetClient(settings=given))


def test_a_port_that_is_taken_is_refused_before_anything_is_said() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be served .*another program"):
            serve(source(GatewayPolicy()), Address("127.0.0.1", port), ready=lambda _: said.append("serves"))
    assert said == []


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be served"):
        serve(source(GatewayPolicy(hosts=("*",))), Address("no-such-host.invalid", 1, without_keys=True))


async def test_the_first_event_of_a_stream_does_not_wait_for_the_head_to_be_confirmed() -> None:
    """asyncio leaves Nagle's algorithm on where the listening socket was made by `socket.create_server`."""
    config = uvicorn_config(app(AsyncDuetClient("scripted/17", "scripted/There are 17.")), host="127.0.0.1", port=0)
    config.load()
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(config=config, server_state=ServerState(), app_state={}))
        return made[-1]

    bound = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(make, sock=bound)
    async with server:
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        accepted = made[0].transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()


def test_as_many_files_as_the_system_allows_may_be_open() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
