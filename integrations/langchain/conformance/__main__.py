"""Runs the suite for every subject and prints the counts as a table."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest

from conformance.subjects import SUBJECTS

PARTS = {"Unit": "unit", "OnText": "text and grammars", "OnTools": "tools, too"}


class Counts:
    """Counts the outcomes of each class of tests."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = defaultdict(Counter)
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test is over."""
        name = report.nodeid.split("::")[1]
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self.of[name][report.outcome] += 1
            if report.failed:
                self.failed.append("::".join(report.nodeid.split("::")[1:]))


def main() -> int:
    """Print the table; the exit status says whether anything ran at all."""
    # LiteLLM would fetch its price list, tracers would call home.
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    here, counts, said = Path(__file__).parent, Counts(), StringIO()
    options = ["-q", "--tb=no", "-o", "filterwarnings=", "-p", "no:cacheprovider"]
    with redirect_stdout(said):
        pytest.main([str(here / "suite.py"), f"--rootdir={here.parent}", *options], plugins=[counts])
    if not counts.of:
        sys.stdout.write(said.getvalue())
        return 1
    sys.stdout.write(f"langchain-tests {version('langchain-tests')}, langchain-core {version('langchain-core')}\n\n")
    sys.stdout.write("| chat model | " + " | ".join(PARTS.values()) + " |\n")
    sys.stdout.write("| --- |" + " --- |" * len(PARTS) + "\n")
    for subject in SUBJECTS:
        cells = [_cell(counts.of[f"Test{subject.class_name}{part}"]) for part in PARTS]
        sys.stdout.write(f"| {subject.class_name} {_version(subject.package)} | {' | '.join(cells)} |\n")
    if "-v" in sys.argv:
        sys.stdout.write("\nfailed:\n" + "".join(f"  {name}\n" for name in counts.failed))
    return 0


def _cell(outcomes: Counter[str]) -> str:
    total = sum(outcomes.values())
    return f"{outcomes['passed']} of {total} (failed {outcomes['failed']}, skipped {outcomes['skipped']})"


def _version(package: str) -> str:
    if package == "langchain-duet":
        from langchain_duet import __version__

        return __version__
    return version(package)


if __name__ == "__main__":
    sys.exit(main())
