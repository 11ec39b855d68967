"""CPU time of a two-stage request: DUET's, and that of the same call written by hand on each library.

    python benchmarks/wire.py [--rounds 11] [--cpu-s 0.4]

The server answers at once (instant_server.py), in a process of its own; so is each client, and they take turns
(turns.py). What is printed is process time per request, kernel time included: the median over the rounds, and the
median of the ratios that each round gave. Run it by `make bench`, which has the libraries.
"""

import argparse
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from instant_server import serve
from turns import Case, Installed, Taken, clients, ratio_of_cpu, take_turns, were_apart

OURS = ("duet", "by hand")
ALL = ("duet", "by hand", "aiohttp", "httpx", "openai", "langchain-openai", "litellm")
STREAMING = tuple(name for name in ALL if name != "aiohttp")  # which streams as "by hand" does


@dataclass(frozen=True)
class Row:
    """A table.

    Attributes:
        targets: (library, least or most, what its ratio must reach): "most" is ours over its, "least" its over ours.
    """

    name: str
    case: Case
    callers: Sequence[str]
    targets: tuple[tuple[str, str, float], ...]


ROWS = (
    Row(
        "stream(), both stages streamed, 16 at once, joined",
        Case("streamed", 16),
        STREAMING,
        (("by hand", "most", 1.7), ("openai", "least", 4.0), ("litellm", "least", 12.0)),
    ),
    Row(
        "stream(), both stages streamed, 16 at once, apart",
        Case("streamed", 16, apart=True),
        OURS,
        (("by hand", "most", 1.2),),
    ),
    Row(
        "chat(), the libraries with two whole calls, one at a time, joined",
        Case("whole", 1),
        ALL,
        (("by hand", "most", 1.5), ("openai", "least", 2.0), ("litellm", "least", 4.0)),
    ),
    Row(
        "chat(), the libraries with two whole calls, 16 at once, joined",
        Case("whole", 16),
        ALL,
        (("by hand", "most", 1.7), ("openai", "least", 2.0), ("litellm", "least", 4.0)),
    ),
    Row(
        "chat(), 16 at once, apart",
        Case("whole", 16, apart=True),
        OURS,
        (("by hand", "most", 1.35),),
    ),
)


def report(row: Row, taken: dict[str, list[Taken]]) -> None:
    """Print one table and what became of its targets."""
    print(f"\n{row.name}")
    print(f"{'':20}{'ms/request':>12}{'least':>8}{'over by hand':>14}{'over DUET':>11}")
    for name, turns in taken.items():
        each = [turn.cpu_ms for turn in turns]
        over = [ratio_of_cpu(turns, taken[base]) for base in ("by hand", "duet")]
        print(f"{name:20}{statistics.median(each):12.3f}{min(each):8.3f}{over[0]:13.2f}x{over[1]:10.2f}x")
    for name, kind, bound in row.targets:
        if kind == "most":
            found = ratio_of_cpu(taken["duet"], taken[name])
            print(f"  {'pass' if found <= bound else 'MISS'}: DUET is {found:.2f} x {name}, at most {bound:g} wanted")
        else:
            found = ratio_of_cpu(taken[name], taken["duet"])
            print(f"  {'pass' if found >= bound else 'MISS'}: {name} is {found:.2f} x DUET, at least {bound:g} wanted")
    if apart := were_apart(row.case, taken):
        print(f"  {'pass' if apart[0] else 'MISS'}: {apart[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cpu-s", type=float, default=0.4, help="CPU seconds of each client's turn")
    given = parser.parse_args()
    here = Installed()
    with serve() as url, clients({name: (name, here) for name in ALL}) as started:
        about = started["duet"].about
        libraries = ", ".join(f"{name} {about[name]}" for name in ALL if name in about)
        print(f"Python {about['python']} on {platform.machine()}, {libraries}")
        print(f"CPU time of the client's process, median of {given.rounds} interleaved rounds; 16 chunks a stage")
        for row in ROWS:
            those = {name: started[name] for name in row.callers}
            report(row, take_turns(url, row.case, those, given.rounds, given.cpu_s))


if __name__ == "__main__":
    main()
