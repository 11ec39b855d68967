"""Runs a gateway by uvicorn, with the loop and the parser that measured best."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.gateway.guards import is_loopback
from duet_sdk.gateway.routing import Gateway

if TYPE_CHECKING:
    import uvicorn

    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway_policy import GatewayPolicy

DRAIN_S: Final = 30
"""Seconds in which running requests may end after SIGTERM: what Kubernetes waits before it kills."""
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted; uvicorn's own number."""


def serve(
    client: AsyncDuetClient,
    policy: GatewayPolicy,
    *,
    host: str,
    port: int,
    without_keys: bool = False,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until the process is told to end; then let running requests end, and close the client.

    Args:
        client: of the pair.
        policy: what is served and to whom.
        host: the address to bind to.
        port: of that address.
        without_keys: whether to bind to more than loopback although anybody may ask then.
        ready: called once the address is bound.

    Raises:
        ConfigError: an address that others can reach, and no keys; or one that cannot be bound.
        MissingExtra: the server is not installed.
    """
    if not policy.has_keys and not is_loopback(host):
        if not without_keys:
            raise ConfigError(
                f"without keys a gateway binds to loopback only, and {host} is reached by others: make some with "
                "duet keys create, or pass --without-keys"
            )
        policy = policy if policy.hosts else replace(policy, hosts=("*",))
    gateway = Gateway({"duet": client}, policy, owned=(client,))
    config = uvicorn_config(gateway, host=host, port=port)
    import uvicorn

    bound = _bound(host, port)
    if ready is not None:
        ready()
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[
            0
        ]  # what socket.create_server adds to the system's words
        raise ConfigError(
            f"{host} port {port} cannot be served ({reason}); is another program there? Choose another --port or --host"
        ) from None


def uvicorn_config(gateway: Gateway, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves a gateway.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import uvicorn

        from duet_sdk.gateway.connection import Connection
    except ImportError as error:
        raise MissingExtra("duet serve", extra="serve") from error
    return uvicorn.Config(
        gateway,
        host=host,
        port=port,
        loop="asyncio",  # uvloop measured the same, as most of the time is spent in the pipeline
        http=Connection,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
