"""What a run leaves: a pair that serving loads, and commands that make it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from duet_sdk import DuetClient, Pair
from duet_sdk.cli import app
from duet_sdk.trainer import stages
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.joint import JointTrainer
from duet_sdk.trainer.toy import family


@pytest.fixture
def file(configure: Callable[..., TrainConfig], tmp_path: Path) -> Path:
    """A run's YAML with questions on disk."""
    rows = [one.question() for one in family.chains(3, 64, lengths=[0, 1])]
    lines = [json.dumps({"prompt": row.text, "answer": row.answer}) for row in rows]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    config = configure(
        data={
            "train": str(tmp_path / "questions.jsonl"),
            "holdout": 8,
            "deduplicate": False,
            "grading": {"grader": "exact"},
        },
        training={"rounds": 2, "validate_every": 1},
    )
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)))
    return path


def test_the_command_trains_a_pair_that_is_served(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run", str(file), "objective.alpha=0.2", "--json"])
    assert done.exit_code == 0, done.output
    run = tmp_path / "run"
    pair = Pair.load(run / "pair")
    assert pair.manifest.trained
    assert pair.manifest.handoff == "think"
    assert pair.manifest.training["objective"]["alpha"] == 0.2  # type: ignore[index, call-overload]
    assert pair.manifest.data["train"] + pair.manifest.data["validation"] == 64  # type: ignore[index, call-overload, operator]
    with DuetClient.from_pair(run / "pair") as duet:
        reply = duet.chat("dial at four . now ?")
    assert reply.usage.generator.output_tokens > 0
    report = CliRunner().invoke(app, ["train", "report", str(run)])
    assert Path(report.output.strip()).read_text().startswith("<!")


def test_the_pairs_tokenizer_is_the_starting_models_byte_for_byte(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer], pair: Path
) -> None:
    config = configure(training={"rounds": 1})
    trained = trainer(config).train()
    assert trained.pair is not None
    for stage in ("reasoner", "generator"):
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
            assert (config.output / "pair" / stage / name).read_bytes() == (pair / stage / name).read_bytes()
        saved = load_file(config.output / "pair" / stage / "model.safetensors")
        model = trained.reasoner if stage == "reasoner" else trained.generator
        assert all(value.equal(model.state_dict()[key]) for key, value in saved.items())


def test_adapters_are_trained_and_saved_as_adapters(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer]
) -> None:
    config = configure(reasoner={"lora": {"r": 4, "alpha": 8}}, training={"rounds": 2})
    trained = trainer(config).train()
    assert trained.pair is not None
    assert trained.pair.manifest.reasoner.adapter == "reasoner-adapter"
    weights = load_file(config.output / "pair" / "reasoner-adapter" / "adapter_model.safetensors")
    assert any(bool(value.any()) for key, value in weights.items() if "lora_B" in key)


def test_a_dry_run_loads_nothing_and_says_what_the_run_takes(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run", str(file), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["fits"]
    assert not (tmp_path / "run").exists()


def test_wrong_values_are_told_and_exit_with_2(file: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run", str(file), "objective.alpha=7"])
    assert done.exit_code == 2
    assert "objective.alpha" in done.output


def test_a_run_that_sigterm_ended_exits_as_shells_tell_of_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(stopped="signal", rounds=3, pair=None)
    monkeypatch.setattr(stages, "run_training", lambda *_given, **_named: ended)
    done = CliRunner().invoke(app, ["train", "run", str(file)])
    assert done.exit_code == 143
    assert "saved after round 3; go on with --resume" in done.stderr
