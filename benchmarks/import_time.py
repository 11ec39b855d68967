"""How long `import duet_sdk; duet_sdk.DuetClient` takes, against the libraries it stands on.

Both statements are timed inside fresh interpreters, in turn, so that a busy machine slows both alike.
Needs nothing but the installed SDK:

    python benchmarks/import_time.py [--runs 21]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys

STATEMENTS = {
    "duet_sdk": "import duet_sdk; duet_sdk.DuetClient",
    "floor": "import aiohttp, pydantic",
}
LEAST_RUNS = 15


def import_ms(statement: str) -> float:
    """Milliseconds that the statement takes in a fresh interpreter, its start not counted."""
    code = f"from time import perf_counter as t; a = t(); {statement}; print((t() - a) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description="Import time of duet_sdk against aiohttp and pydantic.")
    parser.add_argument("--runs", type=int, default=21, help=f"runs of each, at least {LEAST_RUNS}")
    runs = parser.parse_args().runs
    if runs < LEAST_RUNS:
        parser.error(f"--runs must be at least {LEAST_RUNS}, got {runs}")

    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        import_ms(statement)  # the first run writes the bytecode
    for _ in range(runs):
        for name, statement in STATEMENTS.items():
            times[name].append(import_ms(statement))

    print(f"Python {platform.python_version()} on {platform.machine()}, median of {runs} interleaved runs")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, statement in STATEMENTS.items():
        print(f"{medians[name]:8.1f} ms  (least {min(times[name]):.1f})  {statement}")
    print(f"{medians['duet_sdk'] / medians['floor']:8.2f} x   ratio of the medians")


if __name__ == "__main__":
    main()
