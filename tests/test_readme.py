"""The README is short, and what it says is true: its program, and its figures by the command next to them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.code_blocks import blocks
from toy_pair import family

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUESTIONS = ROOT / "examples" / "toy_pair" / "held-out.jsonl"


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 400


def test_its_first_program_is_the_example() -> None:
    program = (ROOT / "examples" / "first.py").read_text(encoding="utf-8")
    assert program.partition('"""\n\n')[2] == next(blocks(README)).source


def test_the_questions_of_its_figures_were_held_out() -> None:
    asked = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    held_out = family.chains(9100, 200, held_out=True)
    assert asked == [{"prompt": chain.text, "answer": chain.answer} for chain in held_out]


@pytest.mark.model
def test_its_figures_are_what_their_command_prints() -> None:
    [arguments] = re.findall(r"^\$ \.venv/bin/duet (pair check .+)$", README, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "duet_sdk", *arguments.split(), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)

    def interval(share: dict[str, float]) -> str:
        return f"{share['low'] * 100:.0f}–{share['high'] * 100:.0f}"

    alone, guided = found["alone"], found["guided"]
    text = " ".join(README.split())
    assert f"on {found['questions']} questions" in text
    assert f"in {alone['value'] * 100:.0f} % alone (95 % interval {interval(alone)})" in text
    assert f"in {guided['value'] * 100:.0f} % ({interval(guided)})" in text
    assert f"with signals of {found['signal_tokens']:.0f} tokens on average" in text
