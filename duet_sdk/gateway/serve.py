"""Runs a gateway by uvicorn, with the loop and the parser that measured best, in one process or in several."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Final

from duet_sdk.errors import ConfigError
from duet_sdk.gateway.making import Address, Making, Source, uvicorn_config
from duet_sdk.gateway.reloading import Reloading

if TYPE_CHECKING:
    from duet_sdk.gateway.routing import Gateway

HEEDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""What a server takes in hand itself."""
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted; uvicorn's own number."""
_FILES: Final = 65_536
"""Open files that are asked for: more streams than a process can serve."""


def serve(
    source: Source,
    address: Address,
    *,
    ready: Callable[[Gateway], None] | None = None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> int:
    """Serve until the process is told to end; then let running requests end, and close the client.

    SIGTERM and SIGINT end it: no new connections, then no requests after the policy's ``drain_s``; a second one ends
    the requests at once. SIGHUP has the settings read anew.

    Args:
        source: of the settings.
        address: where it is reached, and by how many processes.
        ready: called once the address is bound, with the gateway; requests are answered soon after.
        around: entered by each process that answers requests, around that, such as an export of traces.

    Returns:
        the exit code.

    Raises:
        DuetError: the settings cannot be used.
        ConfigError: an address that others can reach, and no keys; or one that cannot be bound.
        MissingExtra: the server is not installed.
    """
    settings = source.read()
    first = Making(source, address, settings)(None)
    config = uvicorn_config(first, host=address.host, port=address.port)
    allow_many_files()
    bound = _bound(address.host, address.port)
    _wait_with_signals()
    if ready is not None:
        ready(first)
    if address.workers > 1:
        from duet_sdk.gateway.workers import Workers

        return Workers(source, address, settings, bound, around).run()
    from duet_sdk.gateway.server import DrainingServer

    making = Making(source, address)
    app = Reloading(lambda before: first if before is None else making(before))
    config.app = app
    with around():
        DrainingServer(config, app).run(sockets=[bound])
    return 0


def _wait_with_signals() -> None:
    """Keep signals that come before the server heeds them: SIGHUP would end the process, for one."""
    if threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)


def allow_many_files() -> None:
    """Raise the limit of open files as far as it may be: 1,024 on most systems; a stream takes two or three."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft < wanted:
        with suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Without what socket.create_server adds to the system's words.
        reason = str(error.strerror or error).partition(" (while")[0]
        raise ConfigError(
            f"{host} port {port} cannot be served ({reason}); is another program there? Choose another --port or --host"
        ) from None
