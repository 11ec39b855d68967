"""The guide, the README, the docstrings and the examples run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import langchain_duet
import pytest
from support.code_blocks import NOT_RUN, blocks

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent


def test_the_blocks_of_the_guide_run() -> None:
    page = ROOT / "docs" / "langchain.md"
    namespace: dict[str, object] = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        exec(block.compile(page), namespace)


def test_the_block_of_the_projects_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "README.md"
    [block] = [block for block in blocks(page.read_text(encoding="utf-8")) if "langchain_duet" in block.source]
    exec(block.compile(page), {})
    assert capsys.readouterr().out == "There are 17 of them.\n"


def test_the_blocks_of_the_readme_are_python() -> None:
    page = HERE / "README.md"
    found = list(blocks(page.read_text(encoding="utf-8")))
    assert found
    for block in found:
        block.compile(page)


def test_every_block_of_the_guide_is_left_to_this_test() -> None:
    lines = (ROOT / "docs" / "langchain.md").read_text(encoding="utf-8").splitlines()
    opened = [at for at, line in enumerate(lines) if line.startswith("```python")]
    assert opened
    assert all(NOT_RUN.fullmatch(lines[at - 1]) for at in opened), "the SDK's own tests have no LangChain"


@pytest.mark.parametrize("path", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_runs(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, path],
        env={"PYTHONPATH": f"{ROOT}:{HERE}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


MODULES = [found.name for found in pkgutil.walk_packages(langchain_duet.__path__, "langchain_duet.")]


@pytest.mark.parametrize("name", ["langchain_duet", *MODULES])
def test_the_examples_in_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
