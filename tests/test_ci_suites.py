"""`.ci/suites`: a slow suite runs again when what its tests import changes, so a stale glob would stop it silently."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import duet_sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

# What the tests import of this repository, by the first part of the module's name.
FOLDERS = {
    "duet_sdk": "duet_sdk",
    "support": "tests/support",
    "contracts": "tests/contracts",
    "toy_pair": "examples/toy_pair",
}

pytestmark = pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="needs git, and a checkout"
)


def suites() -> dict[str, list[str]]:
    """The globs of each suite, by its name."""
    lines = (ROOT / ".ci" / "suites").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {name: globs for name, _target, *globs in words}


def tracked(*globs: str) -> set[str]:
    """The files that git matches, as `.ci/slow` asks for them."""
    done = subprocess.run(["git", "ls-files", "--", *globs], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also of those inside functions; name is "" where a module is imported whole."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((module, alias.name) for alias in names)
            case ast.Import(names=names):
                yield from ((alias.name, "") for alias in names)


def file_of(module: str, name: str) -> str | None:
    """The file of ours that an import reads; None for other libraries."""
    if module == "duet_sdk" and name in duet_sdk._HOME:
        module, name = f"duet_sdk.{duet_sdk._HOME[name]}", ""
    first, *rest = module.split(".")
    if first not in FOLDERS:
        return None
    path = ROOT.joinpath(FOLDERS[first], *rest)
    for found in (path / f"{name or '__init__'}.py", path / name / "__init__.py", path.with_suffix(".py")):
        if found.is_file():
            return str(found.relative_to(ROOT))
    return str((path / "__init__.py").relative_to(ROOT))


def missing(globs: list[str]) -> dict[str, str]:
    """Files that a suite's tests and scripts import and that are not its inputs, each with one file that does so."""
    inputs = tracked(*globs)
    found = {}
    for test in sorted(inputs):
        if test.startswith(("benchmarks/", "integrations/", "tests/")) and test.endswith(".py"):
            for module, name in imported((ROOT / test).read_text(encoding="utf-8")):
                file = file_of(module, name)
                if file is not None and file != "duet_sdk/__init__.py" and file not in inputs:
                    found[file] = test
    return found


@pytest.mark.parametrize("name", suites())
def test_every_glob_of_a_suite_matches_a_file(name: str) -> None:
    assert [glob for glob in suites()[name] if not tracked(glob)] == []


@pytest.mark.parametrize("name", suites())
def test_what_the_tests_of_a_suite_import_is_among_its_inputs(name: str) -> None:
    assert missing(suites()[name]) == {}


def test_an_import_is_found_in_the_file_that_it_reads() -> None:
    assert file_of("duet_sdk", "Retry") == "duet_sdk/policies.py"
    assert file_of("duet_sdk", "errors") == "duet_sdk/errors.py"
    assert file_of("duet_sdk.budget", "MemoryLedger") == "duet_sdk/budget/__init__.py"
    assert file_of("duet_sdk.budget.memory", "MemoryLedger") == "duet_sdk/budget/memory.py"
    assert file_of("support.traffic", "send") == "tests/support/traffic.py"
    assert file_of("pathlib", "Path") is None


def test_a_folder_that_is_left_out_is_missed() -> None:
    globs = [glob for glob in suites()["stores"] if glob != "duet_sdk/budget"]
    assert any(file.startswith("duet_sdk/budget/") for file in missing(globs))
