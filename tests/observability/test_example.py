"""The program of the documentation, run as it stands: what it prints is what the tool has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from tools import Tool, read_back

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_s_figures_are_those_of_the_tool(tool: Tool) -> None:
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
    *stages, together, sent = done.stdout.splitlines()
    assert sent == "all sent: True"
    trace_id = together.rpartition(" ")[2]

    found = read_back(tool, trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)

    said = [re.fullmatch(r"(\w+): (\d+) \+ (\d+) tokens, ([\d.]+) USD", line).groups() for line in stages]
    assert [(stage, int(prompt), int(output), Decimal(usd)) for stage, prompt, output, usd in said] == [
        (span.stage, span.input_tokens, span.output_tokens, span.usd) for span in found.spans[2:]
    ]
    assert together.startswith(f"together: {found.total_tokens} tokens, {found.usd} USD")
