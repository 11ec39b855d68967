"""What a request costs in instructions, this working tree beside an older commit: the same figure on a busy machine.

    python benchmarks/instructions.py [--before c32ebce] [--only ROW ...]

Valgrind's callgrind counts what the client's process executes; the server (instant_server.py) is a process of its own
and not counted. A process makes 64 requests, another 256, 16 at once, and the difference is that of 192 warm ones. Both
trees run in the environment that this script runs in. A minute or two a row; needs `valgrind`.

Instructions are not seconds: caches and branches are left out. Seconds are against_before.py's.
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callers import CALLERS
from instant_server import serve, switched

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 16
FEW, MANY = 64, 256
ROWS = {
    "chat-joined": ("whole", False),
    "stream-joined": ("streamed", False),
    "stream-apart": ("streamed", True),
}
"""Row → how callers.py asks, and whether the pieces of a stream come apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="c32ebce", help="the commit beside the working tree")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--ask", nargs=4, metavar=("URL", "CALLER", "METHOD", "REQUESTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        url, caller, method, requests = given.ask
        asyncio.run(ask(url, caller, method, int(requests)))
        return
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not there; on Debian: apt-get install valgrind")
    print(f"{'thousand instructions a request':32}{'by hand':>10}{given.before:>10}{'now':>10}{'now/before':>12}")
    with tree_of(given.before) as before, serve() as url:
        for row in given.only:
            method, apart = ROWS[row]
            place = switched(url, apart=apart)
            hand = instructions(ROOT, place, "by hand", method)
            old = instructions(before, place, "duet", method)
            new = instructions(ROOT, place, "duet", method)
            print(f"{row:32}{hand:10.0f}{old:10.0f}{new:10.0f}{new / old:12.3f}", flush=True)


async def ask(url: str, caller: str, method: str, requests: int) -> None:
    """Make that many requests, so many at once."""
    async with CALLERS[caller](url) as made:
        call = getattr(made, method)

        async def worker() -> None:
            for _ in range(requests // AT_ONCE):
                await call()

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def instructions(tree: Path, url: str, caller: str, method: str) -> float:
    """Thousand instructions of one warm request."""
    few, many = (counted(tree, url, caller, method, requests) for requests in (FEW, MANY))
    return (many - few) / (MANY - FEW) / 1000


def counted(tree: Path, url: str, caller: str, method: str, requests: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, __file__),
            *("--ask", url, caller, method, str(requests)),
        ]
        # One seed of hashes: sets and dictionaries then have the same order, and the count is the same each time.
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(found[1])


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The package as it was at a commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed.tar"
        subprocess.run(["git", "archive", "-o", packed, commit, "duet_sdk"], cwd=ROOT, check=True)
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


if __name__ == "__main__":
    main()
