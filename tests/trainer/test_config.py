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
        ("objective.alpha=2", r"objective.alpha must be at most 1 \(got 2\)"),
        ("rollout.signals=1", "advantages compare the signals of a question"),
        ("objective.marginal=baseline", "needs answers without a signal; set rollout.unguided"),
        ("rollout.alone=4", "rollout: 'alone' is now called 'unguided', with the same meaning; rename the key"),
        ("data.provider_answers=yes", "rights must say why"),
        ("reasoner.weights=bfloat16", "updates would be lost to rounding"),
        ("rollout.mini_batches=3", "must be a multiple of mini_batches"),
        ("training.save_every=2", r"reach 4 rounds back at worst, and a collapse is certain after 5"),
        ("training.keep=1", "training.keep must be at least 2"),
        ("nonsense", "write section.key=value"),
        ("seed.inner=1", "'seed' is a value, not a section"),
    ],
)
def test_what_cannot_work_is_refused(file: Path, override: str, told: str) -> None:
    overrides = [override] if not override.startswith("seed") else ["seed=1", override]
    with pytest.raises(ConfigError, match=told):
        load_config(file, overrides)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective.alfa=1", "did you mean 'alpha'"),
        ("reasner={model: big}", "unknown key 'reasner': did you mean 'reasoner'"),
        ("learning_rate=1e-5", "belongs to another section: reasoner.learning_rate"),
        ("reasoner.prompt_column=q", "belongs to another section: data.prompt_column"),
        ("data.grader=math", r"belongs to another section: data\.grading\.grader"),
        ("reasoner.lr=1e-5", "write the model's learning_rate"),
        ("reasoner.num_generations=4", r"write rollout: \{signals"),
        ("reasoner.gradient_accumulation_steps=4", "write the model's gradient_accumulation: …, or auto"),
        ("reasoner.use_vllm=true", r"write the model's vllm: \{\}"),
        ("reasoner.lora.rank=8", r"write the model's lora: \{r: …\}"),
        ("training.bf16=true", r"write training: \{precision: bf16\}"),
        ("batch_size=4", r"write rollout: \{questions: …\}"),
        ("training.zzz=1", "known here: rounds, epochs"),
        ("rollout.questions=four", r"rollout.questions must be a whole number \(got 'four'\)"),
        ("rollout.questions=1.5", "must be a whole number"),
        ("rollout.temperature=hot", "must be a number"),
        ("reasoner.gradient_accumulation=half", "must be a whole number, or auto"),
        ("reasoner.gradient_accumulation=0", "must be at least 1"),
        ("objective.budget_tokens=0", "must be more than 0"),
        ("training.use_cpu=perhaps", "must be true or false"),
        ("data.tasks=maths", "must be a list, in square brackets"),
        ("reasoner.model=5", "reasoner.model must be a text"),
        ("data.train=", r"data.train must be a text \(it is empty\)"),
        ("output=", "output must be a path"),
        ("reasoner=Qwen/Qwen3-4B", r"reasoner is a section \(got 'Qwen/Qwen3-4B'\); write reasoner: \{model: "),
        ("data=q.jsonl", r"data is a section .*; write data: \{train: questions.jsonl\}"),
        ("reasoner.vllm=true", r"reasoner.vllm is a section \(got True\); write vllm: \{"),
        ("reasoner.lora=32", r"write lora: \{r: 32\}"),
        ("guard=off", r"guard is a section \(got False\); write guard: \{enabled: …\}"),
        ("objective.reward=gate", "must be 'gated' or 'additive' .*; did you mean 'gated'"),
        ("objective.reward=accuracy", r"objective.reward must be 'gated' or 'additive' \(got 'accuracy'\)"),
        ("training.precision=bf32", "must be 'float32', 'bf16' or 'fp16'"),
        (
            "data.grading.grader=maths",
            "a grader is 'math', 'exact', 'choice' or 'module:function' .* did you mean 'math'",
        ),
        ("data.grading.grader=llm", "a grader is 'math'"),
        ("reasoner.model=transformers/embedded", "named without its backend; write 'embedded'"),
        ("reasoner.model=vllm/Qwen/Qwen3-4B@http://gpu/v1", r"write 'Qwen/Qwen3-4B', and vllm: \{\} for rollouts"),
        ("reasoner.model=litellm/openai/gpt-4o", "training needs the model's weights"),
        ("reasoner.model=''", "it is empty; write a folder or a hub id"),
    ],
)
def test_a_natural_mistake_is_told_with_what_to_write(file: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        load_config(file, [override])
    assert "Input should" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reasoner: {model:big}\n", "unknown key 'reasoner.model:big': write a space after the colon"),
        (LEAST + "seed: 1\nseed: 2\n", r"'seed' stands twice \(line 7, column 1\)"),
        ("output: x\nreasoner:\n\tmodel: big\n", "line 3, column 1.*; indent with spaces, not tabs"),
        ("output: runs: x\n", r"\(line 1, column 13\); a text with a colon needs quotes"),
        ("output x", "must hold sections .*, it holds a text"),
        ("", "it holds nothing"),
        ("output: x\n", r"reasoner is missing; write reasoner: \{model: .*data is missing; write data: \{train: "),
        (
            "reasoner: {}\noutput: x\ndata: {train: q}\ngenerator: {model: m}",
            "reasoner.model is missing; write a hub id",
        ),
    ],
)
def test_a_slip_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(path)


def test_a_number_may_be_left_to_auto(file: Path) -> None:
    assert load_config(file).reasoner.gradient_accumulation is None
    config = load_config(file, ["reasoner.gradient_accumulation=auto", "generator.sampled_at_once=8"])
    assert (config.reasoner.gradient_accumulation, config.generator.sampled_at_once) == (None, 8)


def test_every_place_that_errors_send_to_exists() -> None:
    from duet_sdk.trainer.flaws import _EXAMPLES, _places

    known = {place for _, place in _places()} | {"output", "reasoner", "generator", "data"}
    names = {place.rpartition(".")[2] for place in known} | {"lora", "vllm", "grading"}
    assert {place.rpartition(".")[2] for place in _EXAMPLES} <= names


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
