"""A plan on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duet_sdk.trainer.plan.make import Plan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WHILE = {"training": "in training", "sampling": "in sampling", "both": "in both"}


def print_plan(plan: Plan, screen: Console) -> None:
    """Print batches, memory by part, launch lines, notes and what does not fit, on a screen without markup."""
    from rich.text import Text

    screen.print(_batches(plan))
    if plan.parts:
        screen.print(_memory(plan))
    screen.print("start with", style="bold")
    for line in plan.launch:
        # Longer than the screen is wide rather than broken: it is meant to be copied.
        screen.print(f"  {line}", soft_wrap=True)
    for note in plan.notes:
        screen.print(Text.assemble(("note:", "dim"), f" {note}"), soft_wrap=True)
    for problem in plan.problems:
        screen.print(Text.assemble(("problem:", "red"), f" {problem}"), soft_wrap=True)
    if not plan.fits:
        return
    if plan.parts:
        screen.print(Text.assemble(("no problem found", "green"), " (computed, not measured)"))
    else:
        screen.print(
            Text.assemble(("not checked:", "yellow"), " whether it fits, as a model's sizes are not known here")
        )


def _batches(plan: Plan) -> Table:
    from rich.table import Table

    made = plan.batches
    table = Table("a round", "reasoner", "generator", title_justify="left")
    one, two = made.reasoner, made.generator
    table.add_row(
        "samples", f"{made.questions} × {made.signals}", f"{made.questions} × {made.signals} × {made.answers}"
    )
    rows = {
        "of one process": (one.samples_per_process, two.samples_per_process),
        "updates": (one.updates, two.updates),
        "passes of an update": (one.passes, two.passes),
        "sequences of a pass": (one.per_device, two.per_device),
        "sampled at once": (one.sampled_at_once, two.sampled_at_once),
    }
    for name, (reasoner, generator) in rows.items():
        table.add_row(name, str(reasoner), str(generator))
    rounds = "known once the data is fetched" if made.rounds is None else f"{made.rounds}"
    processes = "1 process" if made.processes == 1 else f"{made.processes} processes"
    table.caption = f"{processes} · {made.graded} answers graded a round · rounds: {rounds}"
    return table


def _memory(plan: Plan) -> Table:
    from rich.table import Table

    table = Table("memory of a GPU" if plan.hardware.gpus else "memory", "part", "GB", "how")
    for part in plan.parts:
        while_ = "" if part.when == "always" else f" ({_WHILE[part.when]})"
        table.add_row(part.stage, part.name + while_, f"{part.gb:.1f}", part.how)
    table.caption = (
        f"peak about {plan.peak_gb:.0f} GB of {plan.hardware.gpu_gb:.0f}; of what is temporary, the largest counts"
    )
    return table
