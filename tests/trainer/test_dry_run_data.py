"""What a dry run finds out about questions and their grader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duet_sdk.cli.app import app

TOY = Path(__file__).resolve().parents[2] / "examples" / "toy_pair" / "pair"


def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, models: bool = True) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rows = ({"prompt": f"What is {n} times 3?", "answer": 3 * n} for n in range(200))
    Path("q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("q.csv").write_text("prompt,answer\n1 + 1?,2\n")
    Path("own.py").write_text("def grade(prompts, completions, **columns):\n    return [1.0] * len(prompts)\n")
    names = (f"{TOY}/reasoner", f"{TOY}/generator") if models else ("owner/one", "owner/two")
    Path("run.yaml").write_text(
        f"output: out\nreasoner: {{model: {names[0]}, max_new_tokens: 128}}\n"
        f"generator: {{model: {names[1]}, max_new_tokens: 8}}\n"
        "data: {train: q.jsonl, max_prompt_tokens: 64, grading: {grader: exact}}\n"
    )
    done = CliRunner().invoke(app, ["train", "run", "run.yaml", *overrides, "--dry-run", "--json"])
    assert not Path("out").exists()
    found: list[str] = json.loads(done.stdout)["problems"]
    return found


def test_a_grader_that_can_be_imported_is_no_problem(tmp_path, monkeypatch):
    assert problems(tmp_path, monkeypatch, "data.grading.grader=own:grade") == []


@pytest.mark.parametrize(
    ("name", "told"), [("nowhere:grade", "No module named 'nowhere'"), ("own:gradd", "no attribute 'gradd'")]
)
def test_a_grader_that_cannot_be_imported_is_a_problem_in_plain_words(name, told, tmp_path, monkeypatch):
    (problem,) = problems(tmp_path, monkeypatch, f"data.grading.grader={name}")
    assert problem.startswith(f"data.grading.grader: the grader '{name}' cannot be started: ")
    assert told in problem
    assert "Error" not in problem


def test_a_file_of_another_kind_is_told_what_it_must_be(tmp_path, monkeypatch):
    (problem,) = problems(tmp_path, monkeypatch, "data.train=q.csv")
    assert problem.startswith("q.csv is a file, and a file of questions must be .jsonl")


@pytest.mark.parametrize("models", [True, False])
def test_a_limit_that_no_question_keeps_is_a_problem(models, tmp_path, monkeypatch):
    (problem,) = problems(tmp_path, monkeypatch, "data.max_prompt_tokens=2", models=models)
    assert problem.startswith("data.max_prompt_tokens is 2, and the shortest question of q.jsonl makes a prompt of ")
    assert "none would be left" in problem
