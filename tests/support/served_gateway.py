"""A gateway of scripted models, in process and behind its server on a socket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.making import uvicorn_config
from duet_sdk.gateway_policy import GatewayKey, GatewayPolicy

KEY = GatewayKey("a", sha256=hashlib.sha256(b"secret").hexdigest(), sees_signal=True)
POLICY = GatewayPolicy(keys=(KEY,), signal_field="both")


def gateway(
    reasoner: Any = "17 of them.",
    generator: Any = "There are 17 primes.",
    policy: GatewayPolicy | None = None,
    **options: Any,
) -> Gateway:
    """The app; models are given as scripts, or as they are."""
    models = [one if isinstance(one, Scripted) else Scripted(one) for one in (reasoner, generator)]
    return app(AsyncDuetClient(*models, **options), policy=policy)


@asynccontextmanager
async def at_a_port(generator: Any, reasoner: Any = "17, by sieve.", **options: Any) -> AsyncIterator[int]:
    """The port of a server whose only key is "secret"."""
    models = [one if isinstance(one, Scripted) else Scripted(one) for one in (reasoner, generator)]
    async with AsyncDuetClient(*models, **options) as duet:
        server = uvicorn.Server(uvicorn_config(app(duet, policy=POLICY), host="127.0.0.1", port=0))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        await serving
