"""A run's configuration: defaults, overrides, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")

from duet_sdk.errors import ConfigError
from duet_sdk.trainer.files import differences, load_config

LEAST = """
output: runs/x
reasoner: {model: big, learning_rate: 1e-6}
generator: {model: small}
data: {train: questions.jsonl}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(LEAST)
    return path


def test_defaults_are_gated_with_four_signals_and_four_answers(file: Path) -> None:
    config = load_config(file)
    assert (config.objective.reward, config.objective.alpha) == ("gated", 0.3)
    assert (config.rollout.signals, config.rollout.answers) == (4, 4)
    assert config.objective.schedule == "guarded"


def test_numbers_with_exponents_are_numbers(file: Path) -> None:
    assert load_config(file).reasoner.learning_rate == 1e-6
    assert load_config(file, ["generator.learning_rate=3e-5"]).generator.learning_rate == 3e-5


def test_overrides_reach_into_sections(file: Path) -> None:
    config = load_config(file, ["reasoner.lora.r=8", "data.leak_against=[aime.jsonl]", "guard.enabled=no"])
    assert config.reasoner.lora is not None
    assert config.reasoner.lora.r == 8
    assert config.data.leak_against == ("aime.jsonl",)
    assert not config.guard.enabled


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective.alfa=1", "unknown key 'objective.alfa'"),
        ("objective.alpha=2", r"objective.alpha: .*less than or equal to 1 \(got 2\)"),
        ("rollout.signals=1", "advantages compare the signals of a question"),
        ("objective.marginal=baseline", "needs answers without a signal; set rollout.unguided"),
        ("rollout.alone=4", "rollout: 'alone' is now called 'unguided', with the same meaning; rename the key"),
        ("data.provider_answers=yes", "rights must say why"),
        ("reasoner.weights=bfloat16", "updates would be lost to rounding"),
        ("rollout.mini_batches=3", "must be a multiple of mini_batches"),
        ("training.save_every=2", r"reach 4 rounds back at worst, and a collapse is certain after 5"),
        ("training.keep=1", "greater than or equal to 2"),
        ("nonsense", "write section.key=value"),
        ("seed.inner=1", "'seed' is a value, not a section"),
    ],
)
def test_what_cannot_work_is_refused(file: Path, override: str, told: str) -> None:
    overrides = [override] if not override.startswith("seed") else ["seed=1", override]
    with pytest.raises(ConfigError, match=told):
        load_config(file, overrides)


def test_one_answer_to_a_signal_is_fine_unless_signals_are_groups(file: Path) -> None:
    assert load_config(file, ["rollout.answers=1"]).rollout.answers == 1
    with pytest.raises(ConfigError, match="nothing is compared"):
        load_config(file, ["rollout.answers=1", "objective.generator_group=signal"])


def test_checkpoints_need_not_reach_back_where_the_run_never_goes_back(file: Path) -> None:
    for never in ("guard.retries=0", "guard.enabled=no", "training.keep=4"):
        assert load_config(file, ["training.save_every=2", never]).training.save_every == 2
    assert load_config(file, ["training.save_every=0"]).training.save_every == 0


def test_a_missing_file_and_a_missing_key_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "run.yaml"
    path.write_text("output: x\nreasoner: {model: a}\ngenerator: {model: b}\n")
    with pytest.raises(ConfigError, match="data is missing"):
        load_config(path)
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(path)


def test_differences_are_told_by_place(file: Path) -> None:
    old, new = (load_config(file, [f"seed={seed}"]).model_dump(mode="json") for seed in (1, 2))
    assert differences(old, new) == ["seed: 1 → 2"]


def test_a_byte_order_mark_is_read_over_and_other_encodings_are_refused(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + LEAST.lstrip().replace("\n", "\r\n").encode())
    assert load_config(file).reasoner.model == "big"
    file.write_bytes(LEAST.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 0\)"):
        load_config(file)


@pytest.mark.parametrize("text", ["[" * 5000, "seed: " + "9" * 5000, "seed: 2026-99-99"])
def test_a_file_that_yaml_cannot_read_is_an_error_of_ours(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be read|is not YAML"):
        load_config(file)
