"""A run that samples with vLLM, where it is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from duet_sdk.cli.app import app
from duet_sdk.trainer import engine

TOY = Path(__file__).resolve().parents[2] / "examples" / "toy_pair" / "pair"


@pytest.fixture(autouse=True)
def without_vllm(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text("".join(f'{{"prompt": "What is {n} + 1?", "answer": {n + 1}}}\n' for n in range(200)))
    Path("run.yaml").write_text(
        f"output: out\nreasoner: {{model: {TOY}/reasoner, max_new_tokens: 128}}\n"
        f"generator: {{model: {TOY}/generator, max_new_tokens: 8}}\n"
        "data: {train: q.jsonl, max_prompt_tokens: 64, grading: {grader: exact}}\n"
    )


def test_a_run_says_what_to_install_before_it_loads_anything(monkeypatch):
    monkeypatch.setattr("duet_sdk.cli.train._needs_extra", lambda: None)
    done = CliRunner().invoke(app, ["train", "run", "run.yaml", "reasoner.vllm={}"])
    told = " ".join((done.stdout + done.stderr).split())
    assert done.exit_code == 2
    assert (
        "vLLM is not installed here, and reasoner.vllm needs it: `pip install 'vllm>=0.22,<0.32'`, or leave it" in told
    )
    assert not Path("out").exists()


def test_a_dry_run_notes_it():
    done = CliRunner().invoke(app, ["train", "run", "run.yaml", "reasoner.vllm={}", "generator.vllm={}", "--dry-run"])
    assert "note: vLLM is not installed here, and reasoner.vllm and generator.vllm need it" in done.stdout
    assert "vLLM is not installed" not in CliRunner().invoke(app, ["train", "run", "run.yaml", "--dry-run"]).stdout
