"""Every example runs as it stands, from an empty folder and without settings (conftest.py).

The first line of an example's docstring says what it needs: "needs GPU" leaves it out here,
"needs the extra train" too (`make test-training` runs it), "embedded model" gives it the marker `model`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 300.0


def examples() -> Sequence[object]:
    found = []
    for path in sorted(EXAMPLES.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.partition("\n")[0].lower()
        if "needs gpu" in first or "needs a gpu" in first or "needs the extra train" in first:
            continue
        if path.stem == "demo":  # the last test here runs it
            continue
        marks = [pytest.mark.model] if "embedded model" in first else []
        found.append(pytest.param(path, id=path.stem, marks=marks))
    return found


@pytest.mark.parametrize("path", examples())
def test_example_runs(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.model
def test_the_lines_that_the_demo_ends_with_run_as_printed() -> None:
    def run(command: str | list[str]) -> str:
        return subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        ).stdout

    demo = run([sys.executable, "examples/demo.py"])
    ask, program = [line.strip() for line in demo.partition("Try next:")[2].splitlines() if line.strip()]

    assert "Pacific" in run(ask)
    assert run(program).startswith("There are 17 of them.\n")
