"""The command ``duet serve``: a pair behind OpenAI's protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from duet_sdk.cli.terminal import Screen, reporting
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.client import AsyncDuetClient


def serve(
    reasoner: Annotated[
        str | None, typer.Option("--reasoner", "-r", help="Model that writes the signal, as backend/model.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", "-g", help="Model that writes the answer, as backend/model.")
    ] = None,
    pair: Annotated[str | None, typer.Option("--pair", "-p", help="Folder or hub id of a pair.")] = None,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to.", min=1, max=65535)] = 8080,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Bind to more than loopback although anybody may ask.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Serve a pair by OpenAI's chat completions, as the table [gateway] of the settings says."""
    from duet_sdk.gateway.serve import serve as run  # the gateway is not needed by any other command

    with reporting():
        read = settings(config)
        if pair is None:
            client = AsyncDuetClient(reasoner, generator, settings=read)
        else:
            client = AsyncDuetClient.from_pair(pair, reasoner=reasoner, generator=generator, settings=read)
        shown = f"[{host}]" if ":" in host else host
        keys = read.gateway.key_file or len(read.gateway.keys) or "none"
        served = f"{client.models['reasoner']} and {client.models['generator']}"
        what = f"http://{shown}:{port}/v1 serves {served}, keys: {keys}"

        def say() -> None:
            Screen(stderr=True).print(what, soft_wrap=True)

        run(client, read.gateway, host=host, port=port, without_keys=without_keys, ready=say)
