"""`duet serve` says that it serves once it does."""

from __future__ import annotations

import socket

import pytest

from duet_sdk import AsyncDuetClient, ConfigError
from duet_sdk.gateway.serve import serve
from duet_sdk.gateway_policy import GatewayPolicy


def test_a_port_that_is_taken_is_refused_before_anything_is_said() -> None:
    said: list[str] = []
    client = AsyncDuetClient("scripted/17", "scripted/There are 17.")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} cannot be served .*another program"):
            serve(client, GatewayPolicy(), host="127.0.0.1", port=port, ready=lambda: said.append("serves"))
    assert said == []


def test_a_host_that_is_none_is_refused() -> None:
    client = AsyncDuetClient("scripted/17", "scripted/There are 17.")
    with pytest.raises(ConfigError, match="cannot be served"):
        serve(client, GatewayPolicy(hosts=("*",)), host="no-such-host.invalid", port=1, without_keys=True)
