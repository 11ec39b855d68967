"""This working tree beside an older commit, pair by pair: what a request costs, and what the package looks like.

    python benchmarks/against_before.py [--before 789debb] [--after COMMIT] [--rounds 21] [--only ROW ...]

Each commit is unpacked into $DUET_CI_CACHE (by default ~/.cache/duet-ci), and its own `.ci/environment bench` makes the
environment that it runs in, so each has its own dependencies; without `--after` the working tree itself is measured.
The benchmarks are those of the working tree for both, and use only what is public in both.

CPU rows: a process for each of *by hand* (callers.py), *before* and *after*, which take turns against one server
(instant_server.py); the way round changes with the round. A ratio is the median of those that the rounds gave. The
other rows are those of calls.py, many.py and structure.py. Each row says whether the value that is wanted is reached.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant_server import serve
from many import in_turn, over_by_hand
from turns import ROOT, Case, Installed, clients, ratio_of_cpu, take_turns, were_apart

BEFORE = "789debb"
CACHE = Path(os.environ.get("DUET_CI_CACHE") or Path.home() / ".cache" / "duet-ci")
STREAMS = 1000
MOST_ROUNDS_OF_MANY = 5  # some ten seconds each
MARKS = {True: "pass", False: "MISS", None: "    "}


@dataclass(frozen=True)
class CpuRow:
    """CPU of a request over by hand.

    Attributes:
        most: What after may take over by hand.
        most_of_before: What after may take over before.
    """

    title: str
    case: Case
    most: float
    most_of_before: float | None = None


CPU_ROWS = {
    "chat-16-joined": CpuRow("chat(), 16 at once, joined", Case("whole", 16), 1.7, 0.62),
    "chat-16-apart": CpuRow("chat(), 16 at once, apart", Case("whole", 16, apart=True), 1.35),
    "chat-1-joined": CpuRow("chat(), one at a time, joined", Case("whole", 1), 1.5),
    "stream-16-joined": CpuRow("stream(), 16 at once, joined", Case("streamed", 16), 1.7),
    "stream-16-apart": CpuRow("stream(), 16 at once, apart", Case("streamed", 16, apart=True), 1.2),
}


@dataclass(frozen=True)
class Both:
    """The two commits, ready to run."""

    before: Installed
    after: Installed
    names: tuple[str, str]

    def figures(self, script: str, *arguments: str) -> tuple[Any, Any]:
        return self.before.figures(script, *arguments), self.after.figures(script, *arguments)


def unpacked(commit: str) -> Path:
    """The tree of a commit, in the cache."""
    name = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    tree = CACHE / "commits" / name
    if not tree.is_dir():
        begun = tree.with_name(f"{name}.{os.getpid()}")
        with tempfile.TemporaryFile() as packed:
            subprocess.run(["git", "-C", str(ROOT), "archive", name], stdout=packed, check=True)
            packed.seek(0)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(begun, filter="data")
        begun.rename(tree)
    return tree


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def environment(tree: Path, name: str) -> str:
    """The Python of the environment that the tree asks for by that name, made if there is none."""
    command = [sys.executable, str(tree / ".ci" / "environment"), name]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def installed(tree: Path) -> Installed:
    return Installed(environment(tree, "bench"), tree)


def libraries(one: Installed) -> dict[str, str]:
    """What is installed in its environment."""
    done = subprocess.run([one.python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
    return {found["name"]: found["version"] for found in json.loads(done.stdout)}


def say(title: str, before: str, after: str, verdict: bool | None, wanted: str = "") -> None:
    print(f"{MARKS[verdict]}  {title:62}{before:>16}{after:>16}   {wanted}", flush=True)


def cpu(both: Both, rows: dict[str, CpuRow], rounds: int, cpu_s: float) -> None:
    """The rows of CPU time, against one server and with the same three processes."""
    ways = {"by hand": ("by hand", both.after), "before": ("duet", both.before), "after": ("duet", both.after)}
    with serve() as url, clients(ways) as started:
        for row in rows.values():
            taken = take_turns(url, row.case, started, rounds, cpu_s)
            ms = {name: statistics.median(turn.cpu_ms for turn in turns) for name, turns in taken.items()}
            before, after = (ratio_of_cpu(taken[name], taken["by hand"]) for name in ("before", "after"))
            over_before = ratio_of_cpu(taken["after"], taken["before"])
            say(
                f"{row.title}: over by hand", f"{before:.2f} x", f"{after:.2f} x", after <= row.most, f"<= {row.most} x"
            )
            most = row.most_of_before
            say(
                "    after over before",
                "",
                f"{over_before:.2f} x",
                None if most is None else over_before <= most,
                "" if most is None else f"<= {most} x",
            )
            say(
                f"    CPU ms a request (by hand {ms['by hand']:.3f})", f"{ms['before']:.3f}", f"{ms['after']:.3f}", None
            )
            if apart := were_apart(row.case, taken):
                print(f"{MARKS[apart[0]]}      {apart[1]}")


def calls(both: Both) -> None:
    """The rows of calls.py."""
    before, after = both.figures("calls.py", "--json")
    of_chat = (before["chat"], after["chat"])
    for title, key, most in (
        ("Python calls of a chat() beyond those by hand", "beyond", 900),
        ("calls of duet_sdk's functions in it", "of_duet_sdk", 400),
        ("    different functions of duet_sdk in it", "functions_of_duet_sdk", None),
    ):
        was, now = (chat[key] for chat in of_chat)
        say(title, f"{was:,.0f}", f"{now:,.0f}", None if most is None else now <= most, f"<= {most}" if most else "")
    for key, most in (("frames", 6), ("functions", None), ("calls", None)):
        was, now = ([chunk[key] for chunk in one["chunk"].values()] for one in (before, after))
        say(
            f"{'' if most else '    '}a chunk's way, {key}: signal, answer, signal in chat()",
            ", ".join(f"{value:.0f}" for value in was),
            ", ".join(f"{value:.0f}" for value in now),
            None if most is None else max(now) <= most,
            f"<= {most}" if most else "",
        )


def many(both: Both, rounds: int) -> None:
    """The rows of many.py."""
    ways = {"by hand": ("by hand", both.after), "before": ("duet", both.before), "after": ("duet", both.after)}
    with serve() as url:
        found = in_turn(url, ways, STREAMS, rounds)
    kib = {name: statistics.median(row["KiB"] for row in rows) for name, rows in found.items()}
    say(
        f"KiB of an open stream, {STREAMS} at once (by hand {kib['by hand']:.1f})",
        f"{kib['before']:.1f}",
        f"{kib['after']:.1f}",
        kib["after"] <= 30,
        "<= 30",
    )
    for title, key, most in (
        (f"first chunk, p99, {STREAMS} at once: over by hand", "signal_p99_s", 1.8),
        ("    the same of CPU time", "signal_p99_cpu_s", None),
        ("    first chunk of the answer", "answer_p99_s", None),
    ):
        before, after = (over_by_hand(found[name], found["by hand"], key) for name in ("before", "after"))
        wanted = f"<= {most} x" if most else ""
        say(title, f"{before:.2f} x", f"{after:.2f} x", None if most is None else after <= most, wanted)
    lost = {name: sum(row["failures"] for row in rows) for name, rows in found.items()}
    say(
        f"    streams that failed, of {STREAMS * rounds}",
        f"{lost['before']:.0f}",
        f"{lost['after']:.0f}",
        not lost["after"],
        "0",
    )


def structure(both: Both) -> None:
    """The rows of structure.py."""
    python = environment(ROOT, "lint")
    before, after = (
        Installed(python, one.tree).figures("structure.py", str(one.tree), "--json")
        for one in (both.before, both.after)
    )

    def files(one: dict[str, Any]) -> str:
        return " + ".join(str(len(circle)) for circle in one["circles"]) or "0"

    def complexity(one: dict[str, Any]) -> int:
        return len(one["complex"]) + len(one["complex_stream"])

    def lines(one: dict[str, Any]) -> int:
        return one["lines"] - one["toy"]

    none_left = not after["circles"] and not after["circles_by_hand"]
    say("files in import circles, TYPE_CHECKING counted", files(before), files(after), none_left, "0")
    say("uses of aclosing in pipeline/", str(before["aclosing"]), str(after["aclosing"]), after["aclosing"] == 0, "0")
    say(
        "functions above complexity 9 in pipeline/ and the stream",
        str(complexity(before)),
        str(complexity(after)),
        complexity(after) <= 1,
        "<= 1",
    )
    say(
        "lines of the package, toy not counted",
        f"{lines(before):,}",
        f"{lines(after):,}",
        lines(after) <= 29_500,
        "<= 29,500",
    )


def main() -> None:
    named = [*CPU_ROWS, "calls", "many", "structure"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--after", metavar="COMMIT", help="instead of the working tree")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--cpu-s", type=float, default=0.1, help="CPU seconds of each turn: many short ones even out what else runs"
    )
    parser.add_argument("--only", nargs="+", choices=named, default=named, metavar="ROW", help=", ".join(named))
    given = parser.parse_args()
    both = Both(
        installed(unpacked(given.before)),
        installed(unpacked(given.after) if given.after else ROOT),
        (given.before, given.after or "the working tree"),
    )
    start = time.monotonic()
    title(both, given.rounds)
    if rows := {name: row for name, row in CPU_ROWS.items() if name in given.only}:
        cpu(both, rows, given.rounds, given.cpu_s)
    if "calls" in given.only:
        calls(both)
    if "many" in given.only:
        many(both, min(given.rounds, MOST_ROUNDS_OF_MANY))
    if "structure" in given.only:
        structure(both)
    print(f"{time.monotonic() - start:.0f} s")


def title(both: Both, rounds: int) -> None:
    """What is compared, and on what."""
    before, after = libraries(both.before), libraries(both.after)
    print(f"before: {both.names[0]}; after: {both.names[1]} (at {_git('describe', '--always', '--dirty')})")
    print(f"Python {platform.python_version()} on {platform.machine()}, aiohttp {after['aiohttp']}")
    print(f"{rounds} interleaved rounds; {min(rounds, MOST_ROUNDS_OF_MANY)} of {STREAMS} streams at once")
    other = {name: (before.get(name), after.get(name)) for name in sorted(before | after)}
    differing = [f"{name} {was} / {now}" for name, (was, now) in other.items() if was != now]
    print(f"libraries that differ, before / after: {', '.join(differing) or 'none'}")
    print(f"      {'':62}{'before':>16}{'after':>16}   wanted")


if __name__ == "__main__":
    main()
