"""A recipe's rounds on a GPU, on models of its shapes with random weights: what it takes, beside what was planned.

    export PYTHONPATH=.:examples
    python benchmarks/training_gpu.py [--recipe recipes/one_h100_lora.yaml] [--questions 2] [--rounds 2]

Needs the extra train and a GPU; vLLM where the recipe samples with it. Nothing is downloaded: both models have the
layers of the recipe's and random weights, and so write until their limits, which is the longest that a round can get.
The recipe's lengths, adapters, precision, engines and sequences of a pass are kept, its questions of a round are not:
peak memory does not depend on them, time does. On a larger card the engines get as much as on one of --card-gb, and
PyTorch's allocator no more than that card has. Answers are graded by a checksum, so that groups have variance. Nothing
is said about quality.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duet_sdk.evaluation.question import Question
    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.plan import Plan

STAGES = ("reasoner", "generator")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--recipe", type=Path, default=Path("recipes/one_h100_lora.yaml"))
    options.add_argument("--questions", type=int, default=2, help="of a round")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--card-gb", type=float, default=80.0, help="memory of the recipe's card, 10⁹ bytes")
    options.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further values over the recipe's")
    options.add_argument("--folder", type=Path, help="for models and run, 20 GB; a temporary one by default")
    given = options.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        return run(Path(folder), given)


def run(folder: Path, given: argparse.Namespace) -> int:
    """Make the models, plan, train, and print what was found."""
    import torch

    from duet_sdk.trainer.joint import JointTrainer
    from duet_sdk.trainer.plan import Hardware, plan

    card, whole = given.card_gb * 1e9, torch.cuda.get_device_properties(0).total_memory
    fraction = min(1.0, card / whole)
    began = time.monotonic()
    config = configure(folder, given, fraction)
    print(f"{torch.cuda.get_device_name(0)}, {whole / 1e9:.0f} GB; models made in {time.monotonic() - began:.0f} s")
    torch.cuda.set_per_process_memory_fraction(fraction)
    planned = plan(config, Hardware(gpus=1, gpu_gb=whole / 1e9))
    questions = [question(at, config.data.max_prompt_tokens) for at in range(given.questions * given.rounds)]
    seen = Seen()
    began = time.monotonic()
    trainer = JointTrainer(config, questions=questions, grader=Checksum())
    trainer.train()
    report(seen, planned, config, time.monotonic() - began)
    return 0


def configure(folder: Path, given: argparse.Namespace, fraction: float) -> "TrainConfig":
    """The recipe with models of its shapes and fewer questions."""
    from duet_sdk.trainer.files import checked, load_config
    from duet_sdk.trainer.plan.shape import KNOWN

    recipe = load_config(given.recipe, given.set)
    values = recipe.model_dump(mode="json")
    for stage in STAGES:
        part = values[stage]
        if (passes := part["gradient_accumulation"]) is not None:
            part["gradient_accumulation"] = max(1, passes * given.questions // recipe.rollout.questions)
        part["model"] = str(make_model(folder / stage, KNOWN[part["model"]]))
        if part["vllm"]:
            part["vllm"]["gpu_memory_utilization"] *= fraction
    values["output"] = str(folder / "run")
    values["rollout"]["questions"] = given.questions
    values["training"] |= {"rounds": given.rounds, "save_every": 0, "validate_every": 0, "log_to": []}
    values["guard"]["enabled"] = False
    return checked(values, str(given.recipe))


def make_model(folder: Path, shape: Any) -> Path:
    """A Qwen3 of these sizes with random weights, and a tokenizer in which every one of its tokens is a word."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from toy_pair.models import END, PAD, SPECIAL, TEMPLATE, THINK
    from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config

    from duet_sdk.handoff import THINK_REQUEST

    fixed = ["?unknown", "reason", "assistant", "user", "system"]
    words = [*fixed, *(f"w{at}" for at in range(shape["vocab_size"] - len(fixed) - len(SPECIAL) - len(THINK)))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="?unknown"))
    tokenizer.normalizer = normalizers.Replace(THINK_REQUEST, "reason")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINK])
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "unk_token": "?unknown"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    config = Qwen3Config(**shape, eos_token_id=end, pad_token_id=pad, bos_token_id=None)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def question(seed: int, tokens: int) -> "Question":
    """A question of nearly so many tokens, template included."""
    from duet_sdk.evaluation.question import Question
    from duet_sdk.types import Message

    text = " ".join(f"w{(seed * 7919 + at * 104729) % 100_000}" for at in range(tokens - 16))
    return Question((Message("user", text),), "w1")


class Checksum:
    """Grades by the letters of an answer."""

    def grade(self, questions: Sequence["Question"], answers: Sequence[str]) -> list[float]:
        return [float(zlib.crc32(answer.encode()) % 2) for answer in answers]


class Seen:
    """Seconds, tokens and peaks of sampling and of updates, and TRL's logs, by stage."""

    def __init__(self) -> None:
        from duet_sdk.trainer.policy import Policy

        self.peak = self.reserved = 0
        """Bytes, over all: allocated, and held by PyTorch for more."""
        self.peaks: dict[tuple[str, str], int] = defaultdict(int)
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.logs: dict[str, list[dict[str, float]]] = defaultdict(list)
        self._began = 0.0
        sample, loss, step, log = Policy.sample, Policy.compute_loss, Policy.training_step, Policy.log

        def sampled(policy: Any, prompts: Any, each: int) -> Any:
            self._begin()
            found = sample(policy, prompts, each)
            self._end(policy, "sampling")
            self.tokens[stage_of(policy)].append(sum(len(ids) for ids in found[0]))
            return found

        def lost(policy: Any, *given: Any, **more: Any) -> Any:
            self._begin()  # the rollout, which the first pass of a round waits for, is over here
            return loss(policy, *given, **more)

        def stepped(policy: Any, *given: Any, **more: Any) -> Any:
            found = step(policy, *given, **more)
            self._end(policy, "pass")
            return found

        def logged(policy: Any, logs: Any, start_time: Any = None) -> None:
            log(policy, logs, start_time)
            self.logs[stage_of(policy)].append(policy.state.log_history[-1])

        Policy.sample, Policy.compute_loss = sampled, lost  # type: ignore[method-assign]
        Policy.training_step, Policy.log = stepped, logged  # type: ignore[method-assign]

    def _begin(self) -> None:
        import torch

        torch.cuda.synchronize()
        self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        self._began = time.monotonic()

    def _end(self, policy: Any, what: str) -> None:
        import torch

        torch.cuda.synchronize()
        key = stage_of(policy), what
        self.seconds[key].append(time.monotonic() - self._began)
        self.peaks[key] = max(self.peaks[key], torch.cuda.max_memory_allocated())
        self.peak = max(self.peak, self.peaks[key])
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())


def stage_of(policy: Any) -> str:
    return str(policy.log_prefix.rstrip("/"))


def report(seen: Seen, planned: "Plan", config: "TrainConfig", seconds: float) -> None:
    """Print planned and measured."""
    import torch

    for stage in STAGES:
        took, tokens = seen.seconds[stage, "sampling"], seen.tokens[stage]
        rate = sum(tokens) / sum(took)
        passes = seen.seconds[stage, "pass"]
        print(
            f"{stage}: sampled {tokens} tokens in {[round(one, 1) for one in took]} s ({rate:.0f} a second); "
            f"{len(passes)} passes, median {statistics.median(passes):.2f} s; peak while sampling "
            f"{seen.peaks[stage, 'sampling'] / 1e9:.1f} GB, in a pass {seen.peaks[stage, 'pass'] / 1e9:.1f} GB"
        )
        for line in seen.logs[stage]:
            kept = {key: value for key, value in line.items() if "sampling" in key or "grad_norm" in key}
            print(f"{stage}: {json.dumps(kept)}")
    free, whole = torch.cuda.mem_get_info()
    print(json.dumps([{"stage": part.stage, "part": part.name, "gb": round(part.gb, 1)} for part in planned.parts]))
    print(
        f"planned peak {planned.peak_gb:.1f} GB; allocated at most {seen.peak / 1e9:.1f} GB, held by PyTorch "
        f"{seen.reserved / 1e9:.1f} GB, in use on the card at the end {(whole - free) / 1e9:.1f} GB; "
        f"{config.training.rounds} rounds in {seconds:.0f} s, start of the engines included"
    )


if __name__ == "__main__":
    sys.exit(main())
