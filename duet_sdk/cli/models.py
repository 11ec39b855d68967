"""The commands ``duet models …``: the local models in the cache."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column, Table

from duet_sdk import models
from duet_sdk.cli.terminal import AsJson, Screen, print_json, progress_bar, reporting, write_exactly

models_app = typer.Typer(no_args_is_help=False, rich_markup_mode=None, help="Local models in the cache.")

Name = Annotated[str, typer.Argument(help="Hub id, or 'embedded'.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]


@models_app.callback(invoke_without_command=True, epilog="Example: duet models --json")
def every_command(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models in the cache: where they are, and their size."""
    if context.invoked_subcommand is None:
        models_list(as_json=as_json)


@models_app.command("list", epilog="Example: duet models list --json")
def models_list(as_json: AsJson = False) -> None:
    """List the models in the cache, as `duet models` alone does."""
    with reporting():
        found = models.listing()
        if as_json:
            rows = [asdict(model) | {"path": str(model.path)} for model in found]
            print_json(rows)
            return
        table = Table(Column("model", overflow="fold"), "MB", "source", Column("path", overflow="fold"))
        table.caption = str(models.cache_folder())
        for model in found:
            table.add_row(model.name, f"{model.size_bytes / 1e6:.0f}", model.source, str(model.path))
        Screen().print(table)


@models_app.command("pull", epilog="Example: duet models pull embedded")
def models_pull(name: Name, revision: Revision = None) -> None:
    """Fetch a model into the cache, and print its folder."""
    with reporting(), progress_bar() as tell:
        path = (
            models.embedded(progress=tell)
            if name == "embedded"
            else models.pull(name, revision=revision, progress=tell)
        )
    sys.stdout.write(f"{path}\n")


@models_app.command("remove", epilog="Example: duet models remove embedded")
def models_remove(name: Annotated[str, typer.Argument(help="As `duet models` lists it, or 'embedded'.")]) -> None:
    """Remove a model from the cache."""
    with reporting():
        models.remove(models.EMBEDDED if name == "embedded" else name)


@models_app.command("template", epilog="Example: duet models template Qwen/Qwen3-0.6B > duet.jinja")
def models_template(
    name: Annotated[str, typer.Argument(help="Hub id, folder, or 'embedded'.")], revision: Revision = None
) -> None:
    """Print a model's chat template made to take a signal, for `vllm serve --chat-template`."""
    from duet_sdk.rendering import TokenizerFiles, signal_template

    with reporting():
        write_exactly(signal_template(TokenizerFiles.from_folder(models.locate(name, revision=revision))) + "\n")
