"""What a request took, as `duet` shows it: a table, one line, or its spans."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.table import Column, Table

from duet_sdk.cli.terminal import in_a_line
from duet_sdk.telemetry.tree import span_tree

if TYPE_CHECKING:
    from decimal import Decimal

    from duet_sdk.cli.terminal import Screen
    from duet_sdk.reply import Attempt, Reply

_LOCAL = "transformers/"


def print_tree(screen: Screen, reply: Reply) -> None:
    """Print the request's spans; their lines are longer than the screen is wide rather than broken."""
    screen.print(span_tree(reply), soft_wrap=True)


def print_table(screen: Screen, reply: Reply) -> None:
    """Print tokens, limit, cost and time by attempt."""
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("input", "output", "limit", "USD", "seconds")]
    table = Table("stage", Column("model", overflow="fold"), *numbers)
    for attempt in reply.receipt.attempts:
        table.add_row(attempt.stage, short_name(attempt.model), *_figures(attempt))
    table.caption = f"served by {reply.served_by} · {spent(reply)}"
    screen.print(table)


def print_line(screen: Screen, reply: Reply) -> None:
    """Print who answered and what it took, in one line."""
    screen.print(f"{reply.served_by} · {spent(reply)}", style="dim", soft_wrap=True)


def spent(reply: Reply) -> str:
    """Tokens, money and time of a request."""
    about = "~" if reply.usage.reasoner.estimated or reply.usage.generator.estimated else ""
    return f"{about}{reply.usage.total_tokens} tokens, {_usd(reply.cost.usd)} USD, {reply.receipt.duration_s:.2f} s"


def short_name(model: str) -> str:
    """A model's name for a table: of a folder, its end.

    >>> short_name("transformers//home/me/checkout/toy/reasoner")
    '…/toy/reasoner'
    """
    path = model.removeprefix(_LOCAL)
    if path == model or not PurePath(path).is_absolute():
        return in_a_line(model)
    parts = PurePath(path).parts
    return in_a_line("/".join(("…", *parts[-2:]) if len(parts) > 3 else (path,)))


def _figures(attempt: Attempt) -> tuple[str, ...]:
    usage, about = attempt.usage, "~" if attempt.usage.estimated else ""
    return (
        f"{about}{usage.input_tokens}",
        f"{about}{usage.output_tokens}",
        str(attempt.limit_tokens or ""),
        _usd(attempt.usd),
        f"{attempt.duration_s:.2f}",
    )


def _usd(usd: Decimal | None) -> str:
    return "unknown" if usd is None else f"{usd:f}"
