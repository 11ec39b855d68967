"""Every Python block of the README and the documentation runs, and so does every example in a docstring.

The blocks of one file share one namespace and run in order, in an empty folder and without settings
(conftest.py); test functions that a block defines are called too. A block that is opened with
```` ```python no-run ```` or follows a line `<!-- not run: reason -->` is only compiled. A page with a line
`<!-- embedded model -->` gets the marker `model`.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from support.code_blocks import Block, blocks

import duet_sdk

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent


def pages() -> Sequence[object]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if any(blocks(text)):
            marks = [pytest.mark.model] if "<!-- embedded model -->" in text else []
            found.append(pytest.param(path, id=str(path.relative_to(ROOT)), marks=marks))
    return found


def modules() -> list[str]:
    return ["duet_sdk", *(found.name for found in pkgutil.walk_packages(duet_sdk.__path__, "duet_sdk."))]


@pytest.mark.parametrize("path", pages())
def test_the_blocks_of_a_page_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    for block in blocks(path.read_text(encoding="utf-8")):
        code = block.compile(path)
        if not block.runs:
            continue
        known = set(vars(script))
        exec(code, vars(script))
        for name, value in list(vars(script).items()):
            if name.startswith("test_") and name not in known and inspect.isfunction(value):
                value()


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    if name.startswith("duet_sdk.trainer."):
        for library in ("datasets", "greenlet", "peft", "trl"):
            pytest.importorskip(library, reason="the extra `train`: make test-training runs these")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0


def test_a_page_yields_its_python_blocks_with_their_lines() -> None:
    text = textwrap.dedent(
        """\
        ```python
        one = 1
        ```
        <!-- not run: needs a server -->
        ```python
        two = 2
        ```
        !!! note

            ````python no-run title="three.py"
            three = 3
            ````
        ```console
        $ four
        ```
        """
    )
    assert list(blocks(text)) == [
        Block(line=2, source="one = 1\n", runs=True),
        Block(line=6, source="two = 2\n", runs=False),
        Block(line=11, source="three = 3\n", runs=False),
    ]
