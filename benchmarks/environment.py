"""Make the environment with the libraries that DUET is compared with, once, and print the path of its Python.

    python3 benchmarks/environment.py

It lies in $DUET_CI_CACHE (by default ~/.cache/duet-ci) under a name that holds the hash of what it was installed
from, so checkouts share it. A build that was interrupted lacks its last file and is made anew; other environments of
that kind, which nobody used for a month, are removed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements" / "bench.txt"
CACHE = Path(os.environ.get("DUET_CI_CACHE") or Path.home() / ".cache" / "duet-ci")
KEEP_UNUSED_S = 30 * 24 * 3600


def main() -> None:
    total = hashlib.sha256(repr(sys.version_info[:2]).encode() + REQUIREMENTS.read_bytes())
    environment = CACHE / f"bench-{total.hexdigest()[:12]}"
    whole = environment / "whole"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "bench.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second build waits for the first
        if not whole.is_file():
            build(environment)
        whole.touch()
        for stamp in CACHE.glob("bench-*/whole"):
            if stamp != whole and time.time() - stamp.stat().st_mtime > KEEP_UNUSED_S:
                shutil.rmtree(stamp.parent, ignore_errors=True)
    print(environment / "bin" / "python")


def build(environment: Path) -> None:
    print(f"bench: installing into {environment} (some 2 minutes, once) ...", file=sys.stderr, flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    pip = [environment / "bin" / "python", "-m", "pip", "-qqq", "--no-input", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", environment], [*pip, "install", "-r", REQUIREMENTS]):
        # Standard output is for the path alone.
        code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if code != 0:
            sys.exit(f"{' '.join(map(str, command))} failed ({code})")


if __name__ == "__main__":
    main()
