"""The program of the documentation, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools import Tool

ROOT = Path(__file__).resolve().parents[2]


def run_example(tool: Tool) -> list[str]:
    """What it prints, line by line, when it exports to that tool."""
    headers = [f"{name}={value}" for name, value in tool.headers.items()]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "tracing.py", tool.traces_url.removesuffix("/v1/traces"), *headers],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OTEL_METRICS_EXPORTER": "none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def trace_of(printed: list[str]) -> str:
    """The trace's id in what it printed."""
    return printed[2].rpartition(" ")[2]
