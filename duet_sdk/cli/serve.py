"""The command ``duet serve``: a pair behind OpenAI's protocol."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from duet_sdk.cli.exporting import exporting
from duet_sdk.cli.terminal import Screen, reporting
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.client import AsyncDuetClient
from duet_sdk.settings import load_settings

if TYPE_CHECKING:
    from duet_sdk.gateway import Gateway
    from duet_sdk.settings import Settings


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
    workers: Annotated[
        int, typer.Option(help="Processes that serve; they need a ledger that they can share.", min=1)
    ] = 1,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Bind to more than loopback although anybody may ask.")
    ] = False,
    config: ConfigFile = None,
    otlp: Annotated[
        str | None, typer.Option(help="Collector that gets traces and metrics, such as http://127.0.0.1:4318.")
    ] = None,
) -> None:
    """Serve a pair by OpenAI's chat completions, as the table [gateway] of the settings says.

    SIGTERM lets running requests end, SIGHUP has the settings read anew.
    """
    from duet_sdk.gateway.making import Address, Source  # the gateway is not needed by any other command
    from duet_sdk.gateway.serve import serve as run

    def connect(read: Settings) -> AsyncDuetClient:
        if pair is None:
            return AsyncDuetClient(reasoner, generator, settings=read)
        return AsyncDuetClient.from_pair(pair, reasoner=reasoner, generator=generator, settings=read)

    def say(gateway: Gateway) -> None:
        models, policy = gateway.pairs["duet"].models, gateway.policy
        shown = f"[{host}]" if ":" in host else host
        served = f"{models['reasoner']} and {models['generator']}"
        keys = policy.key_file or len(policy.keys) or "none"
        many = f", workers: {workers}" if workers > 1 else ""
        what = f"http://{shown}:{port}/v1 serves {served}, keys: {keys}{many}"
        Screen(stderr=True).print(what, soft_wrap=True)

    with reporting():
        settings(config)  # here a terminal may be asked for consent, and no later
        _log_to_stderr()
        source = Source(lambda: load_settings(config), connect)
        address = Address(host, port, workers=workers, without_keys=without_keys)
        code = run(source, address, ready=say, around=lambda: exporting(otlp))
    raise typer.Exit(code)


def _log_to_stderr() -> None:
    """What the gateway tells its operator, a line each; the access log's are JSON and have nothing before them."""
    bare = logging.StreamHandler()
    bare.setFormatter(logging.Formatter("%(message)s"))
    told = logging.getLogger("duet_sdk.gateway")
    told.setLevel(logging.INFO)
    told.addHandler(bare)
    told.propagate = False
