"""Every run that documentation and recipes show passes its own dry-run on the card that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from duet_sdk.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CARD = re.compile(r"\bcard of (\d+) GB")


def runs_shown() -> list[tuple[str, str]]:
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        blocks = [text for text in _BLOCK.findall(page.read_text("utf-8")) if "\nreasoner:" in text]
        found += [(f"{page.relative_to(ROOT)}:{at}", text) for at, text in enumerate(blocks, start=1)]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in runs_shown()])
def test_a_run_that_a_page_shows_fits_the_card_that_it_names(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    rows = ({"question": f"What is {n} times 3?", "answer": str(3 * n)} for n in range(300))
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = _CARD.search(text)
    assert card, "its first line names the card, as in '# One card of 24 GB.'"
    done = CliRunner().invoke(app, ["train", "run", "run.yaml", "--dry-run", "--gpu-gb", card[1], "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["problems"] == []
    assert made["peak_gb"] < float(card[1])


def test_the_guide_shows_a_run_for_a_card_of_24_gb_and_one_of_80():
    sizes = {card[1] for _, text in runs_shown() if (card := _CARD.search(text))}
    assert {"24", "80"} <= sizes


def test_every_recipe_is_a_run_or_named_as_something_else():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert "reasoner" in yaml.safe_load(path.read_text("utf-8")) or path.stem == "fsdp2"
