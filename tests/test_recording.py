"""README's picture shows what the program prints today, but for numbers that vary."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "assets" / "duet-ask.svg"
PART = re.compile(r'<text class="duet-r\d+" x="[\d.]+" y="(?P<y>[\d.]+)"[^>]*>(?P<text>[^<]*)</text>')


def lines(picture: Path) -> list[str]:
    """The lines of the terminal, numbers as 0, and frames and spaces of any width as one."""
    found: dict[float, str] = {}
    for part in PART.finditer(picture.read_text(encoding="utf-8")):
        found[float(part["y"])] = found.get(float(part["y"]), "") + html.unescape(part["text"])
    return [re.sub(r"\s+|[━─]+", " ", re.sub(r"\d+(\.\d+)?", "0", found[y])).strip() for y in sorted(found)]


@pytest.mark.model
def test_readmes_picture_shows_what_its_commands_print(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.svg"
    subprocess.run([sys.executable, ROOT / ".ci" / "recording", fresh], timeout=300, check=True)
    assert lines(PICTURE) == lines(fresh), "look at both, then `make recording`"


def test_readmes_picture_shows_a_question_and_fetches_nothing() -> None:
    shown = lines(PICTURE)
    assert shown.count("answer four") == 1
    assert "signal monday seven tuesday four" in shown
    links = re.findall(r"(?:href|src|url)\W+(https?://[^\"')\s]+)", PICTURE.read_text(encoding="utf-8"))
    assert links == []
