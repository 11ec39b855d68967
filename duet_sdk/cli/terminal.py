"""What the commands of ``duet`` share: how errors end them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from duet_sdk.errors import ConfigError, DuetError, InvalidRequest

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@contextmanager
def reporting() -> Iterator[None]:
    """Turn an error of ours into a line on standard error and an exit code."""
    try:
        yield
    except DuetError as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, ConfigError | InvalidRequest) else 1) from error


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error that appears with the first report."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, visible=False)

        def tell(text: str, share: float) -> None:
            bar.update(task, description=text, completed=share, visible=True)

        yield tell
