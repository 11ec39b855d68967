"""The plan of a run: batches, memory by part against figures worked out by hand, launch lines, what does not fit."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from duet_sdk.cli.app import app
from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.files import load_config
from duet_sdk.trainer.plan import Hardware, Plan, find_shape, plan, print_plan

RECIPES = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml") if path.stem != "fsdp2"
)


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "output": "runs/x",
        "reasoner": {"model": "Qwen/Qwen3-4B"},
        "generator": {"model": "Qwen/Qwen3-0.6B"},
        "data": {"train": "q.jsonl"},
    }
    for place, value in changes.items():
        section, _, key = place.partition("__")
        values[section] = {**values.get(section, {}), key: value} if key else value
    return TrainConfig.model_validate(values)


def gb(made: Plan, stage: str, *names: str) -> float:
    return sum(part.gb for part in made.parts if part.stage == stage and part.name in names)


STATES = ("weights", "adapter", "gradients", "Adam")


@pytest.mark.parametrize(
    ("changes", "reasoner", "generator"),
    [
        ({}, 64.4, 9.5),
        ({"reasoner__optimizer": "adamw_8bit", "generator__optimizer": "adamw_8bit"}, 40.2, 6.0),
        ({"reasoner__lora": {"r": 32}, "reasoner__weights": "bfloat16"}, 9.1, 9.5),
    ],
)
def test_states_of_the_papers_pair_take_what_was_worked_out_by_hand(changes, reasoner, generator):
    made = plan(config(**changes))
    assert gb(made, "reasoner", *STATES) == pytest.approx(reasoner, abs=0.06)
    assert gb(made, "generator", *STATES) == pytest.approx(generator, abs=0.06)


def test_the_plan_of_the_recipe_on_one_gpu_is_what_was_measured_there():
    # benchmarks/training_gpu.py on an H200 (docs/reference/training-data.md): 57.3 GB in use on the card after two rounds.
    recipe = next(path for path in RECIPES if path.stem == "one_h100_lora")
    made = plan(load_config(recipe))
    assert made.peak_gb == pytest.approx(57.3, rel=0.05)


def test_logits_are_never_held_whole():
    made = plan(config(reasoner__gradient_accumulation=32))
    whole = made.batches.reasoner.per_device * 8192 * 151_936 * 2 / 1e9
    assert 0 < gb(made, "reasoner", "logits") < whole


def test_shards_share_states_and_nothing_else():
    given = config(reasoner__gradient_accumulation=32)
    whole = plan(given, Hardware(gpus=4))
    shared = plan(given, Hardware(gpus=4, sharded=True))
    assert gb(shared, "reasoner", *STATES) == pytest.approx(gb(whole, "reasoner", *STATES) / 4)
    assert gb(shared, "reasoner", "logits") == gb(whole, "reasoner", "logits")


def test_a_round_of_the_paper_in_numbers():
    made = plan(
        config(reasoner__gradient_accumulation=32, generator__gradient_accumulation=64), Hardware(gpus=4)
    ).batches
    assert (made.reasoner.samples, made.generator.samples, made.graded) == (256, 1024, 1024)
    assert (made.reasoner.samples_per_process, made.reasoner.per_device, made.generator.per_device) == (64, 1, 2)
    assert (made.reasoner.updates, made.rounds) == (2, None)


@pytest.mark.parametrize(("questions", "rounds"), [(6400, 300), (100, 3), (64, 3)])
def test_rounds_follow_from_epochs_where_the_data_is_known(questions, rounds):
    assert plan(config(), questions=questions).batches.rounds == rounds


@pytest.mark.parametrize(
    ("changes", "hardware", "words"),
    [
        ({}, Hardware(gpus=3), "rollout.questions .64. is not a multiple of 3 processes"),
        ({"reasoner__gradient_accumulation": 7}, Hardware(), "reasoner's 256 samples do not divide .* 7 passes"),
        (
            {},
            Hardware(),
            r"a GPU has 80 GB and the run needs about 85 \(reasoner's Adam 32.2, reasoner's weights 16.1, reasoner's "
            r"gradients 16.1\); it fits with 'reasoner.lora=\{r: 32\}' reasoner.weights=bfloat16",
        ),
        ({"reasoner__vllm": {"mode": "server"}}, Hardware(), "vLLM servers need 1 GPUs of their own and have 0"),
        (
            {"reasoner__vllm": {"gpu_memory_utilization": 0.1, "max_model_length": 8704}},
            Hardware(),
            "reasoner's vLLM has 8.0 GB and needs 8.0 for weights and 1.3 for one sequence of 8704 tokens; set "
            "reasoner.vllm.gpu_memory_utilization=0.12",
        ),
        (
            {"reasoner__max_new_tokens": 8192, "generator__vllm": {"max_model_length": 4096}},
            Hardware(),
            r"generator.vllm.max_model_length is 4096, and prompt and output can have 9728 \(.*\); set "
            "generator.vllm.max_model_length=9728",
        ),
        (
            {"reasoner__max_new_tokens": 50_000},
            Hardware(),
            r"reasoner's window holds 40960 tokens, and prompt and output can have 50512 \(data.max_prompt_tokens 512 "
            r"\+ reasoner.max_new_tokens 50000\); set reasoner.max_new_tokens=39424, or",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_its_numbers(changes, hardware, words):
    import re

    made = plan(config(**changes), hardware)
    assert not made.fits
    assert any(re.search(words, problem) for problem in made.problems), made.problems


SMALL = {"reasoner__model": "Qwen/Qwen3-0.6B"}
"""Two small models, and nothing else set."""


def test_two_small_models_fit_an_ordinary_card_with_nothing_else_set():
    for size in (24, 80):
        made = plan(config(**SMALL), Hardware(gpu_gb=size))
        assert made.problems == ()
        assert made.peak_gb is not None
        assert made.peak_gb < size


def test_batches_left_to_auto_grow_with_the_card():
    small, large = (plan(config(**SMALL), Hardware(gpu_gb=size)).batches for size in (24, 80))
    for one, two in ((small.reasoner, large.reasoner), (small.generator, large.generator)):
        assert one.per_device < two.per_device
        assert one.sampled_at_once < two.sampled_at_once
        assert one.per_device * one.passes * one.updates == one.samples


def test_what_is_given_is_kept_where_the_rest_is_fitted():
    made = plan(config(**SMALL, reasoner__gradient_accumulation=64, generator__sampled_at_once=10)).batches
    assert (made.reasoner.passes, made.reasoner.per_device, made.generator.sampled_at_once) == (64, 2, 10)


@pytest.mark.parametrize(
    ("values", "size", "change"),
    [
        ({"gradient_accumulation": 1}, 24, r"reasoner.gradient_accumulation=\d+ \(\d+ sequences? a pass\)"),
        (
            {"gradient_accumulation": 2, "gradient_checkpointing": False},
            24,
            r"reasoner.gradient_checkpointing=true reasoner.gradient_accumulation=\d+ \(\d+ sequences? a pass\)",
        ),
        ({"sampled_at_once": 256}, 24, r"reasoner.sampled_at_once=\d+"),
        ({"max_new_tokens": 8192}, 12, r"reasoner.max_new_tokens=\d+"),
        (
            {"vllm": {"gpu_memory_utilization": 0.8, "max_model_length": 2560}},
            24,
            "reasoner.vllm.gpu_memory_utilization=",
        ),
    ],
)
def test_a_plan_that_does_not_fit_names_a_value_that_does(values, size, change, tmp_path):
    import re

    lora = {"lora": {"r": 32}, "weights": "bfloat16"}
    given = {
        "reasoner": {"model": "Qwen/Qwen3-1.7B", **lora, **values},
        "generator": {"model": "Qwen/Qwen3-1.7B", **lora},
    }
    card = Hardware(gpu_gb=size)
    (problem,) = plan(config(**given), card).problems
    found = re.search(f"it fits with (?:.* with )?({change}[^,;]*)", problem)
    assert found, problem
    file = tmp_path / "run.yaml"
    file.write_text(config(**given).model_dump_json(exclude_unset=True))
    assert plan(load_config(file, shlex.split(found[1].partition(" (")[0])), card).problems == ()


def test_where_nothing_makes_it_fit_that_is_said():
    (problem,) = plan(config(reasoner__model="Qwen/Qwen3-8B"), Hardware(gpu_gb=8)).problems
    assert "take FSDP2 over several GPUs (--gpus N --fsdp2), a larger card or smaller models" in problem


def test_where_one_value_does_not_do_several_are_named_together():
    (problem,) = plan(config(reasoner__model="Qwen/Qwen3-1.7B"), Hardware(gpu_gb=16)).problems
    together = problem.partition("it fits with all of ")[2]
    assert "'reasoner.lora={r: 32}' reasoner.weights=bfloat16" in together


def test_too_few_questions_do_not_fit():
    told = "there are 10 questions and a round takes 64; set rollout.questions=10, or give more"
    assert told in plan(config(), questions=10).problems


@pytest.mark.parametrize(
    ("hardware", "line"),
    [
        (Hardware(), "duet train run r.yaml"),
        (Hardware(gpus=2), "torchrun --nproc-per-node 2 -m duet_sdk train run r.yaml"),
        (
            Hardware(gpus=8, nodes=2),
            "torchrun --nproc-per-node 8 --nnodes 2 --node-rank $RANK_OF_MACHINE --master-addr $FIRST_MACHINE "
            "--master-port 29500 -m duet_sdk train run r.yaml",
        ),
        (
            Hardware(gpus=4, sharded=True),
            "accelerate launch --config_file recipes/fsdp2.yaml --num_processes 4 -m duet_sdk train run r.yaml",
        ),
    ],
)
def test_the_launch_line_is_the_hardwares(hardware, line):
    assert plan(config(), hardware, file=Path("r.yaml")).launch == (line,)


def test_servers_are_started_first_on_gpus_of_their_own():
    server = {"mode": "server", "server_base_url": "http://127.0.0.1:8123", "max_model_length": 8704}
    made = plan(config(reasoner__vllm=server), Hardware(gpus=4, server_gpus=1))
    assert made.launch[0] == (
        "CUDA_VISIBLE_DEVICES=3 trl vllm-serve --model Qwen/Qwen3-4B --port 8123 --tensor_parallel_size 1 "
        "--max_model_len 8704"
    )
    assert made.launch[1].startswith("torchrun --nproc-per-node 3 ")


def test_a_server_has_the_revision_that_is_trained():
    server = {"mode": "server", "max_model_length": 8704}
    changes = {"reasoner__vllm": server, "reasoner__revision": "v1"}
    made = plan(config(**changes), Hardware(gpus=2, server_gpus=1))
    assert "trl vllm-serve --model Qwen/Qwen3-4B --revision v1 --port 8000 " in made.launch[0]


def test_servers_on_several_machines_are_a_problem():
    made = plan(config(reasoner__vllm={"mode": "server"}), Hardware(gpus=8, nodes=2, server_gpus=1))
    assert any("vLLM servers are planned for one machine only" in problem for problem in made.problems)


def test_the_launch_line_can_be_pasted_and_has_what_goes_over_the_file():
    made = plan(config(), file=Path("my runs/r.yaml"), overrides=["data.leak_against=[a.jsonl]", "seed=1"])
    assert made.launch == ("duet train run 'my runs/r.yaml' 'data.leak_against=[a.jsonl]' seed=1",)


def test_a_model_that_is_not_here_leaves_memory_out_and_says_so():
    made = plan(config(reasoner={"model": "owner/unknown"}))
    assert (made.parts, made.peak_gb) == ((), None)
    assert any("owner/unknown is not here" in note for note in made.notes)


TOY = Path(__file__).resolve().parents[2] / "examples" / "toy_pair" / "pair"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./nowhere", r"reasoner.model: there is no folder .*/nowhere; a model of the hub is named owner/model"),
        ("Qwen3-0.6B", "reasoner.model: 'Qwen3-0.6B' has no owner, as models of the hub have; write 'Qwen/Qwen3-0.6B'"),
        ("a/b/c", "reasoner.model: 'a/b/c' is not a hub id"),
        (str(TOY), r"reasoner.model: .* holds no readable config.json"),
    ],
)
def test_a_model_that_cannot_be_is_a_problem(name, told):
    import re

    assert any(re.match(told, problem) for problem in plan(config(reasoner__model=name)).problems)


def test_the_embedded_model_cannot_be_trained_whether_it_is_here_or_not(tmp_path, monkeypatch):
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path))
    told = "the reasoner cannot be trained: its chat template drops the thinking of an assistant's turn"
    assert any(problem.startswith(told) for problem in plan(config(reasoner__model="embedded")).problems)


@pytest.mark.model
def test_a_template_without_thinking_is_a_problem():
    from duet_sdk import models

    made = plan(config(generator__model=str(models.embedded())))
    assert any(problem.startswith("the generator cannot be trained: its chat template") for problem in made.problems)


def test_models_that_are_here_are_planned_for_the_machine():
    given = {
        "reasoner": {"model": str(TOY / "reasoner"), "max_new_tokens": 128},
        "generator": {"model": str(TOY / "generator"), "max_new_tokens": 8},
        "data": {"train": "q.jsonl", "max_prompt_tokens": 64},
    }
    made = plan(config(**given, training__use_cpu=True))
    assert made.problems == ()
    assert made.peak_gb is not None
    assert made.peak_gb < made.hardware.gpu_gb


def test_a_small_window_is_shared_out_where_no_signal_would_be_left():
    given = {"reasoner": {"model": str(TOY / "reasoner")}, "generator": {"model": str(TOY / "generator")}}
    problem = next(one for one in plan(config(**given)).problems if one.startswith("the generator's window"))
    assert "set data.max_prompt_tokens=128 reasoner.max_new_tokens=256 generator.max_new_tokens=128" in problem


@pytest.mark.parametrize(
    ("rows", "override", "rounds", "told"),
    [
        (200, "data.prompt_column=question", 6, None),
        (
            200,
            "data.prompt_column=prompt",
            None,
            "q.jsonl, line 1 has no column 'prompt', it has 'question', 'answer'; ",
        ),
        (None, "data.prompt_column=question", None, "q.jsonl cannot be read: No such file"),
        (70, "data.prompt_column=question", 0, "there are 6 questions and a round takes 64"),
        (200, "data.train=owner/set", None, None),
        (200, "data.validation=owner/set", None, None),
    ],
)
def test_a_dry_run_reads_the_questions_that_are_here(rows, override, rounds, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        lines = (json.dumps({"question": f"What is {n} times 3?", "answer": 3 * n}) for n in range(rows))
        Path("q.jsonl").write_text("\n".join(lines))
    Path("run.yaml").write_text(config(**SMALL, data__prompt_column="question").model_dump_json(exclude_unset=True))
    words = ["train", "run", "run.yaml", override, "--dry-run", "--json"]
    made = json.loads(CliRunner().invoke(app, words).stdout)
    if override != "data.validation=owner/set":
        assert made["batches"]["rounds"] == rounds
    assert [told in problem for problem in made["problems"]] == ([True] if told else [])


def test_a_plan_of_models_that_are_not_here_does_not_say_that_all_is_well():
    screen = io.StringIO()
    print_plan(plan(config(reasoner={"model": "owner/unknown"})), Console(file=screen, width=200))
    assert "no problem found" not in screen.getvalue()
    assert "not checked: whether it fits" in screen.getvalue()


def test_a_models_folder_tells_its_shape(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 10}'
    )
    shape = find_shape(str(tmp_path))
    # Two layers of four 8×8 matrices, three 8×16, two norms; two embeddings of 10×8; a norm.
    assert shape is not None
    assert shape.parameters == 2 * (4 * 64 + 3 * 128 + 16) + 2 * 80 + 8
    assert shape.kv_bytes == 2 * 2 * 2 * 4 * 2


@pytest.mark.parametrize(
    "text", ["{}", '{"hidden_size": "8"}', '{"num_attention_heads": 0, "hidden_size": 8}', "[", "[]"]
)
def test_a_folder_that_is_no_decoder_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainingError, match="config.json"):
        find_shape(str(tmp_path))


@pytest.mark.model
def test_the_shape_of_a_real_model_counts_its_weights():
    from safetensors import safe_open

    from duet_sdk import models

    folder = models.embedded()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        weights = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    shape = find_shape(str(folder))
    assert shape is not None
    assert shape.parameters == pytest.approx(weights, rel=1e-3)


@pytest.mark.parametrize("values", [{"gpus": -1}, {"nodes": 0}, {"gpu_gb": 0}, {"gpus": 2, "server_gpus": 2}])
def test_hardware_that_cannot_be_is_refused(values):
    with pytest.raises(ConfigError):
        Hardware(**values)


def test_a_plan_is_json_and_a_table():
    made = plan(config(), questions=128)
    values = json.loads(json.dumps(made.to_dict()))
    assert values["peak_gb"] == pytest.approx(made.peak_gb)
    assert (values["fits"], values["batches"]["generator"]["samples"]) == (False, 1024)
    screen = io.StringIO()
    print_plan(made, Console(file=screen, width=200))
    for words in ("64 × 4 × 4", "4.02 B × 4 bytes", "duet train run run.yaml", "problem: a GPU has 80 GB"):
        assert words in screen.getvalue()


def test_on_the_cpu_no_gpu_is_asked_for():
    made = plan(config(training__use_cpu=True))
    assert made.hardware.gpus == 0
    assert not any("GPU" in problem for problem in made.problems)
    assert not any("packed" in note for note in made.notes)
    sampled = plan(config(training__use_cpu=True, reasoner__vllm={"max_model_length": 128}))
    assert any("packed" in note for note in sampled.notes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_its_plan_fits_its_hardware(path, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    text = path.read_text(encoding="utf-8")
    assert "# Status: not run" in text
    (line,) = (line for line in text.splitlines() if line.startswith("# hardware: "))
    hardware = Hardware(**yaml.safe_load(line.removeprefix("# hardware: ")))
    made = plan(load_config(path), hardware, file=path, questions=40_000)
    command = next(line for line in text.splitlines() if line.startswith("# `duet "))
    words = shlex.split(command.strip("#` ."))
    done = CliRunner().invoke(app, [*words[1:], "--json"])
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    assert {name: shown["hardware"][name] for name in ("gpus", "nodes", "server_gpus", "sharded")} == {
        "gpus": hardware.gpus,
        "nodes": hardware.nodes,
        "server_gpus": hardware.server_gpus,
        "sharded": hardware.sharded,
    }
    recipe = load_config(path)
    if recipe.data.validation is None:
        assert recipe.training.validation_questions == recipe.data.holdout
    assert made.problems == ()
    assert made.peak_gb is not None
    assert hardware.gpu_gb / 4 < made.peak_gb < hardware.gpu_gb


def test_there_are_the_recipes_that_the_documentation_names():
    assert [path.stem for path in RECIPES] == [
        "four_h100_colocate",
        "four_h100_servers",
        "one_24gb_lora",
        "one_h100_lora",
        "paper",
        "two_nodes",
    ]


def test_the_papers_recipe_has_the_papers_numbers():
    paper = load_config(next(path for path in RECIPES if path.stem == "paper"))
    objective, rollout = paper.objective, paper.rollout
    assert (objective.reward, objective.schedule, objective.marginal) == ("additive", "dual", "paper")
    assert (objective.budget_tokens, objective.lam, objective.eta, objective.lam_max) == (1000, 0, 0.01, 1)
    assert (rollout.questions, rollout.signals, rollout.answers, rollout.unguided, rollout.mini_batches) == (
        64,
        4,
        4,
        4,
        2,
    )
    assert (paper.reasoner.learning_rate, paper.generator.learning_rate) == (1e-6, 1e-6)
    assert (paper.reasoner.max_new_tokens, paper.generator.max_new_tokens, paper.data.max_prompt_tokens) == (
        8192,
        1024,
        512,
    )
    assert (paper.training.epochs, paper.training.clip, paper.training.save_every) == (3, 0.2, 50)


def test_accelerates_file_is_one_that_accelerate_reads():
    pytest.importorskip("accelerate", reason="needs the extra train")
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(RECIPES[0].with_name("fsdp2.yaml")))
    assert read.fsdp_config["fsdp_version"] == 2


def test_a_card_that_is_filled_to_the_brim_is_noted_with_values_that_leave_room():
    made = plan(config(**SMALL), Hardware(gpu_gb=23))
    assert made.fits
    (note,) = (one for one in made.notes if "of a GPU's 23 GB" in one)
    assert "above nine tenths (20.7) it may run out, as this is an estimate; it fits with " in note
    roomy = plan(config(**SMALL), Hardware(gpu_gb=80))
    assert not any("nine tenths" in one for one in roomy.notes)


def test_problems_that_are_found_together_do_not_contradict_each_other():
    made = plan(config(rollout__questions=66, rollout__signals=3), Hardware(gpus=4), questions=20)
    shares = [one for one in made.problems if "rollout.questions" in one]
    assert len(shares) == 2
    assert all("set rollout.questions=16" in one for one in shares)
    assert not any("gradient_accumulation to auto" in one for one in made.problems)


def test_batches_that_are_auto_are_not_told_to_be_auto():
    made = plan(config(rollout__questions=6, rollout__signals=3), Hardware(gpus=2))
    told = "rollout.questions (6) is not a multiple of 2 processes × 2 mini-batches"
    (problem,) = (one for one in made.problems if "rollout.questions" in one)
    assert told in problem
    assert "set rollout.questions=8" in problem
    assert not any("gradient_accumulation to auto" in one for one in made.problems)


def test_windows_that_are_both_too_short_name_one_limit_that_both_hold():
    given = config(**SMALL, data__max_prompt_tokens=500, generator__vllm={"max_model_length": 60_000})
    given = given.model_copy(update={"reasoner": given.reasoner.model_copy(update={"max_new_tokens": 50_000})})
    problems = [one for one in plan(given, Hardware(gpu_gb=400)).problems if "window" in one]
    assert len(problems) == 2
    assert all("set reasoner.max_new_tokens=39436, or lower" in one for one in problems)
    assert not any("max_model_length=" in one for one in plan(given, Hardware(gpu_gb=400)).problems)
    told = given.model_copy(update={"reasoner": given.reasoner.model_copy(update={"max_new_tokens": 39_436})})
    assert plan(told, Hardware(gpu_gb=400)).problems == ()
