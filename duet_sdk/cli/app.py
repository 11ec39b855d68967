"""The command ``duet``: answers on standard output, everything else on standard error.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from duet_sdk.cli.ask import ask
from duet_sdk.cli.chat import chat
from duet_sdk.cli.keys import keys_app
from duet_sdk.cli.ledger import ledger_app
from duet_sdk.cli.models import models_app
from duet_sdk.cli.notices import notices
from duet_sdk.cli.pair import pair_app
from duet_sdk.cli.serve import serve
from duet_sdk.cli.terminal import safe_streams
from duet_sdk.cli.train import train_app
from duet_sdk.cli.trust import trust

app = typer.Typer(
    name="duet",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,  # they may hold keys
)
app.command(epilog='Example: duet ask "How many primes are below 60?" --signal-tokens 128')(ask)
app.command(epilog="Example: duet chat --system 'Answer in French.'")(chat)
app.add_typer(pair_app, name="pair")
app.add_typer(models_app, name="models")
app.add_typer(ledger_app, name="ledger")
app.add_typer(train_app, name="train")
app.add_typer(keys_app, name="keys")
app.command(epilog="Example: duet serve --config duet.toml")(serve)
app.command(epilog="Example: duet trust .")(trust)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"duet {version('duet-sdk')}\n")
        raise typer.Exit


@app.callback()
def every_command(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A large reasoner writes a short signal, a light generator writes the answer."""
    if context.invoked_subcommand != "train":  # its libraries draw bars, and write nothing of servers
        context.with_resource(safe_streams())
        context.with_resource(notices())
