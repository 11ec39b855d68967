"""A joint run whose policies are both sampled by vLLM in the training process, and its pair served by vLLM.

Runs in the environment that has vLLM (`make test-vllm`), from the command line, so that vLLM's engines and the process
group that they need are another process's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from duet_sdk import AsyncDuetClient, Pair
from duet_sdk.endpoints import Endpoint

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]  # vLLM's own

ROUNDS, SIGNAL_TOKENS, ANSWER_TOKENS = 3, 8, 4
ENGINE = {"gpu_memory_utilization": 0.2, "max_model_length": 128}
GRADER = '''
import zlib

def varied(prompts, completions, **columns):
    """Grades by the letters of an answer, so that random models have groups with variance."""
    return [float(zlib.crc32(one[0]["content"].encode()) % 2) for one in completions]
'''


# Where a CPU has kernels for it, vLLM 0.32 computes from a packed copy of the weights and takes no new ones.
UNPACKED = """
import torch
from vllm.model_executor.layers import utils

def plain(layer, remove_weight):
    layer.cpu_linear = torch.nn.functional.linear

utils.dispatch_cpu_unquantized_gemm = plain

from duet_sdk.cli.app import main

main()
"""


def duet(*arguments: str, folder: Path) -> None:
    """Run the command line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *_given_path()])}
    command = [sys.executable, "-c", UNPACKED, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def _given_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: an adapter on the reasoner, all weights of the generator."""
    from toy_pair import family, models

    folder = tmp_path_factory.mktemp("training")
    # Heads of 32, the least that vLLM has a CPU kernel for.
    for seed, stage in enumerate(("reasoner", "generator")):
        models.save(folder / stage, hidden=128, layers=1, seed=seed)
    questions = [chain.question() for chain in family.chains(3, 32, lengths=[0, 1])]
    lines = [json.dumps({"prompt": one.text, "answer": one.answer}) for one in questions]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    (folder / "grading.py").write_text(GRADER)
    values = {
        "output": str(folder / "run"),
        "reasoner": {
            "model": str(folder / "reasoner"), "learning_rate": 1e-2, "max_new_tokens": SIGNAL_TOKENS,
            "lora": {"r": 4, "alpha": 8}, "vllm": ENGINE,
        },
        "generator": {
            "model": str(folder / "generator"), "learning_rate": 1e-2, "max_new_tokens": ANSWER_TOKENS, "vllm": ENGINE,
        },
        "data": {
            "train": str(folder / "questions.jsonl"), "holdout": 8, "deduplicate": False, "max_prompt_tokens": 64,
            "grading": {"grader": "grading:varied"},
        },
        "rollout": {"questions": 4, "signals": 4, "answers": 2, "mini_batches": 1},
        "training": {
            "rounds": ROUNDS, "precision": "float32", "use_cpu": True, "save_every": 0, "validate_every": ROUNDS,
        },
        "guard": {"enabled": False},
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(values))
    duet("train", "run", "run.yaml", folder=folder)
    return folder


def logged(run: Path, stage: str, name: str) -> list[float]:
    """A measure of TRL's, round by round."""
    state = json.loads((run / "run" / stage / f"checkpoint-{ROUNDS}" / "trainer_state.json").read_text())
    return [row[f"{stage}/{name}"] for row in state["log_history"] if f"{stage}/{name}" in row]


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
def test_the_engines_sample_from_the_weights_that_are_trained(run, stage):
    moved = logged(run, stage, "grad_norm")
    assert len(moved) == ROUNDS
    assert min(moved) > 0
    # vLLM computes in bfloat16, training in float32: 0.002. Engines that keep the first weights are 0.4 apart by then.
    apart = logged(run, stage, "sampling/sampling_logp_difference/mean")
    assert len(apart) == ROUNDS
    assert max(apart) < 0.02


def test_both_policies_are_trained_and_the_pair_is_whole(run):
    lines = (run / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["round"] for row in rows if row["phase"] == "train"] == [1, 2, 3]
    assert [row["round"] for row in rows if row["phase"] == "validation"] == [0, 3]
    pair = Pair.load(run / "run" / "pair")
    assert pair.adapter_folder("reasoner") is not None
    assert pair.model_folder("generator") is not None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(run: Path) -> Iterator[AsyncDuetClient]:
    """The pair, its adapter merged, by two of vLLM's engines."""
    duet("pair", "merge", "run/pair", "merged", folder=run)
    pair = Pair.load(run / "merged")
    options = {"engine_args": {"enforce_eager": True, "max_num_seqs": 4}}
    reasoner, generator = (
        Endpoint(model=f"vllm-engine/{pair.model_folder(stage)}", context_tokens=128, options=options)
        for stage in ("reasoner", "generator")
    )
    async with AsyncDuetClient.from_pair(pair, reasoner=reasoner, generator=generator, strict=True) as client:
        yield client


@pytest.mark.asyncio(loop_scope="module")
async def test_the_merged_pair_answers_from_vllm_within_the_limits_of_its_training(served, run):
    from toy_pair import family

    question = family.chains(4, 1, lengths=[1])[0].question().text
    reply = await served.chat(question, seed=1)
    assert reply.handoff == "think"
    assert 0 < reply.signal.tokens <= SIGNAL_TOKENS
    assert reply.signal.tokens == reply.usage.reasoner.output_tokens
    assert 0 < reply.usage.generator.output_tokens <= ANSWER_TOKENS
