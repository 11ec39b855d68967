"""What training does and does not, arm by arm on the toy: accuracy against the reasoner's tokens, over seeds.

    export PYTHONPATH=.:examples
    python benchmarks/training.py [--seeds 0 1 2] [--arms NAME ...] [--folder build/science] [--workers 2]

Needs the extra train. Every arm starts from the same two taught models of its seed (``terse``: the reasoner has seen
terse traces beside verbose ones; ``verbose``: it has not) and is measured greedily on the same held-out questions. An
arm that is done is not run again, so that the script can be stopped and go on; what is there is printed, means over the
seeds with 95 % intervals (t). "M finishes" lets the reasoner answer from its own signal, in the generator's place;
"extracted" takes the last number of the signal for the answer, without a generator.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toy_pair.family import Chain

    from duet_sdk.trainer.measure import PairModels

ROUNDS, QUESTIONS, HELD = 60, 16, 400
GATED: dict[str, Any] = {"reward": "gated", "alpha": 0.3}
PROPOSE: dict[str, Any] = {
    "cycles": 2, "rules": "tokens", "signals": 3000, "learning_rate": 5e-4, "tune_steps": 600, "back_tracks": 5,
}  # fmt: skip
FROZEN = 1e-12
"""A learning rate that moves nothing."""
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


@dataclass(frozen=True)
class Arm:
    """One way to get a pair."""

    says: str
    start: str = "terse"
    sections: dict[str, Any] = field(default_factory=dict)
    """Of the run's configuration, where it is a joint run."""
    instead: str | None = None
    """A function of this module that makes the pair, where it is none."""


def additive(schedule: str, **more: float) -> dict[str, Any]:
    """The additive reward, B half of what a terse trace of three steps takes."""
    return {"objective": {"reward": "additive", "schedule": schedule, "budget_tokens": 6.0, "eta": 0.02, **more}}


def too_short(schedule: str, *, guard: bool = False) -> dict[str, Any]:
    """The additive reward with less room than any trace of two steps takes."""
    return {**additive(schedule, budget_tokens=2.0, eta=0.01), "guard": {"enabled": guard}}


def marginal(form: str) -> dict[str, Any]:
    return {"objective": {**GATED, "marginal": form}, "rollout": {"alone": 2}}


ARMS = {
    "untrained": Arm("the pair as it was taught", instead="untrained"),
    "gated": Arm("joint, gated reward: ours", sections={"objective": GATED}),
    "constant": Arm("joint, additive, λ = 0.1", sections=additive("constant", lam=0.1)),
    "dual": Arm("joint, additive, dual ascent: the paper's", sections=additive("dual")),
    "guarded": Arm("joint, additive, guarded and capped", sections=additive("guarded")),
    "dual-short": Arm("the paper's, B = 2, without guards", sections=too_short("dual")),
    "dual-short-guards": Arm("the paper's, B = 2, the run's guards on", sections=too_short("dual", guard=True)),
    "guarded-short": Arm("guarded and capped, B = 2, without guards", sections=too_short("guarded")),
    "marginal-paper": Arm("gated, r(m) subtracted", sections=marginal("paper")),
    "marginal-baseline": Arm("gated, r(m) as baseline", sections=marginal("baseline")),
    "marginal-weight": Arm("gated, length weighed by r(m)", sections=marginal("weight")),
    "silence": Arm(
        "silence proposed where m alone is right, then gated",
        sections={"objective": GATED, "propose": {"empty": True}},
    ),
    "propose": Arm("two cycles of propose, then gated", sections={"objective": GATED, "propose": PROPOSE}),
    "reasoner-only": Arm("gated, m is not trained", sections={"objective": GATED, "generator": FROZEN}),
    "generator-only": Arm("M is not trained", sections={"objective": GATED, "reasoner": FROZEN}),
    "sft-terse": Arm("SFT of M on terse traces, no RL", instead="sft_on_terse"),
    "rejection": Arm("M's shortest right signals of 8, SFT", instead="rejection_sampling"),
    "alone": Arm("M alone, gated, answer extracted", instead="alone_with_length_penalty"),
    "prompted": Arm("M untrained, asked to be brief", instead="untrained"),
    "cut": Arm("M untrained, cut at 8 tokens", instead="cut_short"),
    "verbose": Arm("the pair taught without terse traces", start="verbose", instead="untrained"),
    "verbose-gated": Arm("the same, gated", start="verbose", sections={"objective": GATED}),
    "verbose-propose": Arm(
        "the same, two cycles of propose, then gated",
        start="verbose",
        sections={"objective": GATED, "propose": PROPOSE},
    ),
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options.add_argument("--folder", type=Path, default=Path("build/science"))
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--print", action="store_true", help="run nothing, print what there is")
    given = options.parse_args()
    if not given.print:
        starts = sorted({ARMS[name].start for name in given.arms})
        taught = [(given.folder, start, seed) for seed in given.seeds for start in starts]
        names = sorted(given.arms, key=lambda name: "propose" not in name)  # the longest first
        arms = [(given.folder, name, seed) for name in names for seed in given.seeds]
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            for work, parts in ((teach_both, taught), (run, arms)):  # arms only once all is taught
                for line in pool.map(work, *zip(*parts, strict=True)):
                    print(line, file=sys.stderr, flush=True)
    table(given.folder)
    return 0


def teach_both(folder: Path, start: str, seed: int) -> str:
    """Teach the two models of a seed, where that is not done."""
    import torch
    from toy_pair.teach import Lesson, teach

    torch.set_num_threads(1)
    target, began = folder / f"{start}-{seed}", time.monotonic()
    if not (target / "taught").exists():
        lesson = (
            Lesson(seed=seed)
            if start == "terse"
            else Lesson(seed=seed, terse=0, settled_terse=0, mixed=0, silent=0, brief=0)
        )
        for stage in ("reasoner", "generator"):
            teach(stage, target / "start" / stage, lesson)
        (target / "taught").touch()
    return f"taught {start}, seed {seed}: {time.monotonic() - began:.0f} s"


def run(folder: Path, name: str, seed: int) -> str:
    """Run one arm and write down what it came to; an arm that fails says why in its file."""
    import torch

    from duet_sdk.errors import DuetError

    torch.set_num_threads(1)
    result, began = folder / "results" / f"{name}-{seed}.json", time.monotonic()
    if result.exists():
        return f"{name}, seed {seed}: done before"
    result.parent.mkdir(parents=True, exist_ok=True)
    arm, work = ARMS[name], Toy(folder, ARMS[name].start, name, seed)
    try:
        pair = globals()[arm.instead](work) if arm.instead else joint(work, arm.sections)
        found: dict[str, Any] = measure(work.held, pair)
    except DuetError as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    found["seconds"] = round(time.monotonic() - began)
    result.write_text(json.dumps(found), encoding="utf-8")
    return f"{name}, seed {seed}: {found}"


class Toy:
    """An arm's folders, questions and starting pair."""

    def __init__(self, folder: Path, start: str, name: str, seed: int) -> None:
        from toy_pair import family
        from toy_pair.demo import Scale
        from toy_pair.teach import Lesson

        self.seed = seed
        self.scale = Scale(lesson=Lesson(seed=seed), rounds=ROUNDS)
        self.start = folder / f"{start}-{seed}"
        self.folder = folder / "runs" / f"{name}-{seed}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.chains = self.draw(ROUNDS * QUESTIONS)
        lengths = sorted(set(self.scale.lesson.lengths))
        held = family.chains(9000, HELD, lengths=lengths, held_out=True)
        self.held = [replace(chain, brief=name == "prompted") for chain in held]
        self.validation = family.chains(9002, 200, lengths=lengths, held_out=True)

    def draw(self, number: int) -> list["Chain"]:
        """Questions to train on; more of them begin with the same."""
        from toy_pair import family

        return family.chains(5000 + self.seed, number, lengths=self.scale.lesson.lengths)

    def pair(self, *, temperature: float = 0.0) -> "PairModels":
        """The pair as it was taught."""
        return pair_of(self.start / "start", temperature=temperature, seed=self.seed)


def pair_of(folder: Path, *, temperature: float = 0.0, seed: int = 0) -> "PairModels":
    """The pair whose models lie in two folders of this one."""
    from toy_pair.demo import ANSWER_TOKENS, SIGNAL_TOKENS
    from transformers import AutoModelForCausalLM

    from duet_sdk.trainer.measure import PairModels
    from duet_sdk.trainer.prompts import PairPrompts

    folders = folder / "reasoner", folder / "generator"
    models = [AutoModelForCausalLM.from_pretrained(path) for path in folders]
    return PairModels(
        *models, PairPrompts.of(*folders), SIGNAL_TOKENS, ANSWER_TOKENS, temperature=temperature, seed=seed
    )


def joint(work: Toy, sections: dict[str, Any]) -> "PairModels":
    """A run of the trainer."""
    from toy_pair.demo import configure

    from duet_sdk.evaluation.grading import CountingGrader, Exact
    from duet_sdk.trainer.files import checked
    from duet_sdk.trainer.joint import JointTrainer
    from duet_sdk.trainer.stages import run_training

    values = configure(work.start, work.scale).model_dump(mode="json")
    values["output"] = str(work.folder / "run")
    values["training"].update(save_every=20, validate_every=0)
    values["propose"].update(learning_rate=1e-3, signals=len(work.chains))
    for name, given in sections.items():
        values[name].update(given if isinstance(given, dict) else {"learning_rate": given})
    config = checked(values, "an arm")
    proposed = config.propose.cycles * config.propose.signals
    chains = work.draw(proposed) if proposed else work.chains
    trainer = JointTrainer(
        config,
        questions=[one.question() for one in chains],
        validation=[one.question() for one in work.validation],
        grader=CountingGrader(Exact()),
    )
    trained = run_training(config, trainer=trainer)
    return replace(work.pair(), reasoner=trained.reasoner, generator=trained.generator)


def untrained(work: Toy) -> "PairModels":
    return work.pair()


def cut_short(work: Toy) -> "PairModels":
    return replace(work.pair(), signal_tokens=8)


def sft_on_terse(work: Toy) -> "PairModels":
    rows = [(chain, chain.trace(style=["terse"] * len(chain.steps))) for chain in work.chains]
    return tuned(work, rows)


def rejection_sampling(work: Toy) -> "PairModels":
    """As many samples as the joint arms draw: 8 of each question; the shortest that m answers rightly is kept."""
    pair = work.pair(temperature=1.0)
    questions = [chain.question() for chain in work.chains]
    best: list[str | None] = [None] * len(questions)  # an empty one is the shortest
    for draw in range(8):
        drawn = replace(pair, seed=pair.seed + 100 * draw)
        texts = [signal.text for signal in drawn.signals(questions)]
        answers = drawn.answers(questions, texts)
        for at, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            so_far = best[at]
            if answer.strip() == work.chains[at].answer and (so_far is None or len(text) < len(so_far)):
                best[at] = text
    return tuned(work, [(chain, text) for chain, text in zip(work.chains, best, strict=True) if text is not None])


def tuned(work: Toy, rows: Sequence[tuple["Chain", str]]) -> "PairModels":
    """The taught pair with its reasoner tuned to write these signals."""
    from duet_sdk.trainer.build import load_tokenizer
    from duet_sdk.trainer.supervised import Example, Tuning, tune

    pair = work.pair()
    ids = [Example(pair.prompts.ask_ids(c.question().messages), pair.prompts.signal_ids(text)) for c, text in rows]
    tuning = Tuning(learning_rate=1e-3, batch=64, steps=300, use_cpu=True, seed=work.seed)
    words = load_tokenizer(work.start / "start" / "reasoner")
    return replace(pair, reasoner=tune(pair.reasoner, words, ids, tuning, folder=work.folder / "sft"))


def alone_with_length_penalty(work: Toy) -> "PairModels":
    """GRPO of the reasoner alone, on the answer that is extracted from what it writes, with the same gated reward."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from duet_sdk.trainer.build import load_tokenizer
    from duet_sdk.trainer.objective import gated

    pair, words = work.pair(), load_tokenizer(work.start / "start" / "reasoner")
    pair.reasoner.generation_config.eos_token_id = [pair.prompts.closing_id, words.eos_token_id]

    def reward(prompts: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any) -> list[float]:
        texts = [words.decode(ids, skip_special_tokens=True).replace("</think>", "") for ids in completion_ids]
        right = [float(extracted(text) == wanted) for text, wanted in zip(texts, answer, strict=True)]
        lengths = [float(len(ids)) for ids in completion_ids]
        scored = gated(torch.tensor(right).view(-1, 8), torch.tensor(lengths).view(-1, 8), alpha=0.3)
        return scored.flatten().tolist()

    asked = [pair.prompts.ask_ids(chain.question().messages) for chain in work.chains]
    data = Dataset.from_dict(
        {"prompt": [words.decode(ids) for ids in asked], "answer": [c.answer for c in work.chains]}
    )
    config = GRPOConfig(
        output_dir=str(work.folder / "grpo"), per_device_train_batch_size=QUESTIONS * 8, num_generations=8,
        max_completion_length=pair.signal_tokens, max_steps=ROUNDS, learning_rate=1.5e-4, lr_scheduler_type="constant",
        adam_beta2=0.99, beta=0.0, temperature=1.0, use_cpu=True, bf16=False, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_strategy="no", seed=work.seed, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = GRPOTrainer(pair.reasoner, reward, args=config, train_dataset=data, processing_class=words)
    trainer.train()
    return replace(pair, reasoner=trainer.accelerator.unwrap_model(trainer.model))


def extracted(signal: str) -> str | None:
    """The answer as it stands in a signal: its last number."""
    from toy_pair.family import NUMBERS

    return next((word for word in reversed(signal.split()) if word in NUMBERS), None)


def measure(chains: Sequence["Chain"], pair: "PairModels") -> dict[str, Any]:
    """Accuracy of the pair, of m alone, of M finishing and of extraction, and tokens of the reasoner."""
    from duet_sdk.evaluation.grading import CountingGrader, Exact

    questions, grader = [chain.question() for chain in chains], CountingGrader(Exact())
    signals = pair.signals(questions)
    texts = [signal.text for signal in signals]
    right = grader.grade(questions, pair.answers(questions, texts))
    finished = grader.grade(questions, replace(pair, generator=pair.reasoner).answers(questions, texts))
    alone = grader.grade(questions, pair.answers(questions, [""] * len(questions)))
    taken = [float(extracted(s.text) == chain.answer) for s, chain in zip(signals, chains, strict=True)]
    short = [at for at, chain in enumerate(chains) if len(chain.steps) <= 1]
    return {
        "accuracy": statistics.fmean(right),
        "tokens": statistics.fmean(signal.tokens for signal in signals),
        "alone": statistics.fmean(alone),
        "finished": statistics.fmean(finished),
        "extracted": statistics.fmean(taken),
        "short_tokens": statistics.fmean(signals[at].tokens for at in short),
        "short_accuracy": statistics.fmean(right[at] for at in short),
    }


def table(folder: Path) -> None:
    """Print what there is, an arm a line."""
    columns: dict[str, Callable[[float], str]] = {
        "accuracy": "{:.3f}".format, "tokens": "{:.1f}".format, "alone": "{:.3f}".format,
        "finished": "{:.3f}".format, "extracted": "{:.3f}".format, "short_tokens": "{:.1f}".format,
        "seconds": "{:.0f}".format,
    }  # fmt: skip
    print("| arm | seeds | accuracy | tokens | m alone | M finishes | extracted | tokens, 0–1 steps | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, arm in ARMS.items():
        files = sorted((folder / "results").glob(f"{name}-[0-9]*.json"))
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        good = [one for one in found if "error" not in one]
        if good:
            cells = [spread([one[key] for one in good], write) for key, write in columns.items()]
            print(f"| {arm.says} | {len(good)} | {' | '.join(cells)} |")
        for one in found:
            if "error" in one:
                print(f"| {arm.says} | failed | {one['error'].replace('|', '/')} | | | | | | |")


def spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The mean, with half of its 95 % interval (t)."""
    mean, number = statistics.fmean(values), len(values)
    if number < 2:
        return write(mean)
    return f"{write(mean)} ± {write(T95.get(number, 1.96) * statistics.stdev(values) / number**0.5)}"


if __name__ == "__main__":
    sys.exit(main())
