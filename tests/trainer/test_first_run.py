"""`duet train init`: the YAML of a first run, which passes its own dry-run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duet_sdk.cli.app import app
from duet_sdk.trainer.files import load_config

TOY = Path(__file__).resolve().parents[2] / "examples" / "toy_pair" / "pair"
TOYS = ["--reasoner", str(TOY / "reasoner"), "--generator", str(TOY / "generator"), "--cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def questions(*rows: dict[str, object], name: str = "questions.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def many(number: int = 200, **columns: object) -> list[dict[str, object]]:
    return [{"question": f"What is {n} times 3?", "answer": str(3 * n), **columns} for n in range(number)]


def duet(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["train", *words])
    return done.exit_code, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("size", "adapters"),
    [("16", (True, True)), ("24", (True, True)), ("80", (False, False))],
)
def test_what_it_writes_passes_its_own_dry_run(size, adapters):
    questions(*many())
    code, told = duet("init", "run.yaml", "--gpu-gb", size)
    assert code == 0, told
    assert f"wrote run.yaml; next: duet train run run.yaml --dry-run --gpu-gb {size}" in told
    code, told = duet("run", "run.yaml", "--dry-run", "--gpu-gb", size)
    assert code == 0, told
    config = load_config("run.yaml")
    assert (config.reasoner.lora is not None, config.generator.lora is not None) == adapters
    assert (config.data.prompt_column, config.data.answer_column, config.data.holdout) == ("question", "answer", 40)


def test_models_with_a_small_window_get_limits_that_it_holds():
    questions(*many())
    assert duet("init", "run.yaml", *TOYS)[0] == 0
    config = load_config("run.yaml")
    assert (config.data.max_prompt_tokens, config.reasoner.max_new_tokens, config.generator.max_new_tokens) == (
        128,
        256,
        128,
    )
    assert config.training.use_cpu
    assert duet("run", "run.yaml", "--dry-run")[0] == 0


@pytest.mark.parametrize("size", ["16", "24", "80"])
def test_the_engines_that_its_comments_offer_fit_as_well(size):
    questions(*many())
    assert duet("init", "run.yaml", "--gpu-gb", size)[0] == 0
    text = Path("run.yaml").read_text()
    offered = text.count("  # vllm: {")
    assert offered in (0, 2)
    if size != "16":
        assert offered == 2
    Path("run.yaml").write_text(text.replace("  # vllm: {", "  vllm: {"))
    code, told = duet("run", "run.yaml", "--dry-run", "--gpu-gb", size)
    assert code == 0, told


def test_it_writes_over_nothing():
    Path("run.yaml").write_text("mine")
    code, told = duet("init", "run.yaml")
    assert (code, Path("run.yaml").read_text()) == (2, "mine")
    assert "run.yaml exists, and is not written over" in told


@pytest.mark.parametrize(
    ("rows", "grader"),
    [
        ([{"problem": "Which?", "solution": "B"}] * 3 + [{"problem": "What?", "solution": "C"}] * 3, "choice"),
        ([{"problem": f"What is {n}?", "solution": n} for n in range(9)], "exact"),
    ],
)
def test_columns_and_grader_are_told_by_the_first_row(rows, grader):
    questions(*rows, *({"problem": f"And {n}?", "solution": n} for n in range(20)))
    assert duet("init", "run.yaml", *TOYS)[0] == 0
    config = load_config("run.yaml")
    assert (config.data.prompt_column, config.data.answer_column) == ("problem", "solution")
    assert config.data.grading.grader == grader


@pytest.mark.parametrize(
    ("rows", "words", "told"),
    [
        ([{"q": "?", "answer": "1"}], [], "has the columns 'q', 'answer'; say which with --prompt-column"),
        (many(), ["--answer-column", "a"], "has the columns 'question', 'answer'; say which with --answer-column"),
        (many(), ["--grader", "maths"], "did you mean 'math'"),
        (many(), ["--reasoner", "embedded"], "the reasoner cannot be trained"),
        (many(), ["--reasoner", "transformers/Qwen/Qwen3-4B"], "write 'Qwen/Qwen3-4B'"),
        (many(), ["--gpu-gb", "8"], "no first run for a card of 8 GB: a GPU has 8 GB and the run needs about"),
        (many(1), [], "there are 1 questions and a round takes 2; give more"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(rows, words, told):
    questions(*rows)
    code, output = duet("init", "run.yaml", *words)
    assert code == 2
    assert told in " ".join(output.split())
    assert not Path("run.yaml").exists()


def test_a_file_of_questions_may_come_later():
    code, told = duet("init", "run.yaml", *TOYS)
    assert code == 0
    assert 'questions.jsonl is not here yet; a line of it is {"question": "…", "answer": "…"}' in told
    assert load_config("run.yaml").data.prompt_column == "question"


def test_a_model_that_is_not_here_is_said_not_to_have_been_looked_at():
    questions(*many())
    code, told = duet("init", "run.yaml", "--reasoner", "owner/new")
    assert code == 0
    assert "owner/new is not here, so whether it fits and can be trained was not looked at" in told


def test_names_that_yaml_would_read_otherwise_are_quoted():
    Path("my: questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many()))
    assert duet("init", "run.yaml", *TOYS, "--data", "my: questions.jsonl")[0] == 0
    assert load_config("run.yaml").data.train == "my: questions.jsonl"


def test_two_first_runs_have_folders_of_their_own():
    questions(*many())
    for name in ("one.yaml", "my two.yaml"):
        assert duet("init", name, *TOYS)[0] == 0
    assert [str(load_config(name).output) for name in ("one.yaml", "my two.yaml")] == ["runs/one", "runs/my two"]


@pytest.mark.parametrize("command", [["init", "new.yaml"], ["run", "run.yaml", "--dry-run"]])
@pytest.mark.parametrize("size", ["24GB", "-3", "0", "nan"])
def test_a_size_of_a_card_that_cannot_be_is_told_what_to_write(command, size):
    questions(*many())
    assert duet("init", "run.yaml")[0] == 0
    code, told = duet(*command, f"--gpu-gb={size}")
    assert code == 2
    plain = " ".join(told.replace("│", " ").split())
    assert f"{size} is no size of a card; write its gigabytes as a number, such as 24" in plain
    assert not Path("new.yaml").exists()


def test_a_dry_run_says_which_card_it_assumed():
    questions(*many())
    assert duet("init", "run.yaml")[0] == 0
    told = "note: a GPU of 80 GB was assumed; name yours with --gpu-gb"
    assert told in duet("run", "run.yaml", "--dry-run")[1]
    assert "was assumed" not in duet("run", "run.yaml", "--dry-run", "--gpu-gb", "24")[1]
    assert "was assumed" not in duet("run", "run.yaml", "--dry-run", "--gpus", "0")[1]
