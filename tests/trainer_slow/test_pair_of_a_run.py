"""What a run leaves: a pair that serving loads, and commands that make it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from toy_pair import family
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from duet_sdk import DuetClient, Pair, models
from duet_sdk.cli.app import app
from duet_sdk.errors import TrainingError
from duet_sdk.pair import merge_adapters
from duet_sdk.trainer import stages
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.joint import JointTrainer
from duet_sdk.trainer.journal import read_lines


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
            "licence": "CC-BY-4.0",
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
    assert pair.manifest.licences["data"] == "CC-BY-4.0"  # type: ignore[index, call-overload]
    assert str(tmp_path) not in (run / "pair" / "pair.json").read_text()
    validated = [row for row in read_lines(run / "metrics.jsonl") if row["phase"] == "validation"]
    assert [row["faults"] for row in validated] == [0.0] * len(validated)
    assert all(0 <= row["unread"] <= 1 for row in validated)
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


def test_a_model_that_is_kept_in_bfloat16_is_saved_as_such_and_says_so(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer], pair: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(pair / "reasoner", start)
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(start)
    config = configure(reasoner={"model": str(start)}, training={"rounds": 1})
    trainer(config).train()
    saved = config.output / "pair" / "reasoner"
    assert {value.dtype for value in load_file(saved / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((saved / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.fixture
def pulled(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub model ``some/tiny`` in the cache, as `models.pull` writes it; there is no hub."""
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path / "cache"))
    folder = models.cache_folder() / "some--tiny@v1"
    shutil.copytree(pair / "reasoner", folder)
    files = {
        file.name: {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
    }
    facts = {"format": 1, "name": "some/tiny", "revision": "v1", "source": f"hub some/tiny@{'a' * 40}", "files": files}
    (folder / "duet.json").write_text(json.dumps(facts))
    return folder


def gathered(apart: float) -> Callable[[Accelerator, torch.nn.Module], dict[str, torch.Tensor]]:
    """What accelerate gathers from shards: each name has a tensor of its own, also those that are tied."""

    def get_state_dict(_: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        state["lm_head.weight"] += apart
        return state

    return get_state_dict


def test_tied_weights_that_were_gathered_from_shards_are_saved_once(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Accelerator, "get_state_dict", gathered(0))
    config = configure(training={"rounds": 1, "save_every": 0})
    trained = trainer(config).train()
    assert trained.pair is not None
    saved = load_file(trained.pair.folder / "reasoner" / "model.safetensors")
    assert "model.embed_tokens.weight" in saved
    assert "lm_head.weight" not in saved
    loaded = AutoModelForCausalLM.from_pretrained(trained.pair.folder / "reasoner")
    assert torch.equal(loaded.lm_head.weight, trained.reasoner.lm_head.weight)


def test_tied_weights_that_came_apart_are_no_pair(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Accelerator, "get_state_dict", gathered(1e-3))
    config = configure(training={"rounds": 1, "save_every": 0})
    with pytest.raises(TrainingError, match=r"the reasoner's lm_head.weight and .* have come apart"):
        trainer(config).train()
    assert not (config.output / "pair").exists()


# As in test_merge.py.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_the_pair_names_the_hubs_model_and_its_commit(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    pulled: Path,
    tmp_path: Path,
    lora: dict[str, int] | None,
) -> None:
    config = configure(reasoner={"model": "some/tiny", "revision": "v1", "lora": lora}, training={"rounds": 1})
    trained = trainer(config).train()
    assert trained.pair is not None
    entry = trained.pair.manifest.reasoner
    if lora is None:
        assert (entry.base, entry.base_revision) == ("some/tiny", "a" * 40)
        return
    assert (entry.model, entry.revision) == ("transformers/some/tiny", "a" * 40)
    merged = merge_adapters(trained.pair, tmp_path / "merged")
    assert (merged.manifest.reasoner.base, merged.manifest.reasoner.base_revision) == ("some/tiny", "a" * 40)


def test_an_adapter_on_a_model_of_this_machine_names_its_folder(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer], pair: Path
) -> None:
    trained = trainer(configure(reasoner={"lora": {"r": 4, "alpha": 8}}, training={"rounds": 1})).train()
    assert trained.pair is not None
    assert trained.pair.manifest.reasoner.model == f"transformers/{pair / 'reasoner'}"


def test_a_dry_run_loads_nothing_and_says_what_the_run_takes(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run", str(file), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["fits"]
    assert not (tmp_path / "run").exists()


def test_a_grader_lies_beside_the_runs_file_and_its_process_ends_with_the_training(file: Path, tmp_path: Path) -> None:
    (tmp_path / "beside_the_run.py").write_text(
        "import os, zlib\n\n"
        "def by_letters(completions, **columns):\n"
        f"    open({str(tmp_path / 'process')!r}, 'w').write(str(os.getpid()))\n"
        "    return [zlib.crc32(chat[-1]['content'].encode()) % 2 for chat in completions]\n"
    )
    named = ["data.grading.grader=beside_the_run:by_letters", "training.rounds=1", "training.validate_every=0"]
    done = CliRunner().invoke(app, ["train", "run", str(file), *named])
    assert done.exit_code == 0, done.output
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)


def test_a_grader_that_is_not_there_is_told_before_models_are_looked_for(configure: Callable[..., TrainConfig]) -> None:
    config = configure(
        reasoner={"model": "/no/such/folder"}, data={"train": "unused", "grading": {"grader": "no_such_module:grade"}}
    )
    with pytest.raises(TrainingError, match="the grader 'no_such_module:grade' cannot be started"):
        JointTrainer(config)


def test_wrong_values_are_told_and_exit_with_2(file: Path) -> None:
    done = CliRunner().invoke(app, ["train", "run", str(file), "objective.alpha=7"])
    assert done.exit_code == 2
    assert "objective.alpha" in done.output


def test_a_run_that_sigterm_ended_exits_as_shells_tell_of_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = SimpleNamespace(stopped="signal", rounds=3, pair=None)
    monkeypatch.setattr(stages, "run_training", lambda *_given, **_named: ended)
    done = CliRunner().invoke(app, ["train", "run", str(file)])
    assert done.exit_code == 143
    assert "saved after round 3; continue with --resume" in done.stderr
