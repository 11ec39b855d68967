"""The YAML of a first run, with comments, for given models, questions and card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.trainer.config import Data, TrainConfig, Vllm
from duet_sdk.trainer.data import questions_ahead
from duet_sdk.trainer.data.ahead import is_file
from duet_sdk.trainer.files import checked, parse_yaml
from duet_sdk.trainer.plan import Hardware, Plan, plan
from duet_sdk.trainer.plan.advice import engine_share
from duet_sdk.trainer.plan.look import look_at

PROMPTS = ("prompt", "question", "problem", "Question", "input", "instruction")
ANSWERS = ("answer", "solution", "Answer", "target", "label", "output", "response")
"""What data sets call their columns, likeliest first."""

_QUESTIONS, _HELD = 16, 64
"""Of a round, a quarter of the paper's, so that the first rounds come soon; and kept back to validate on."""
_LIMITS = {"question": 512, "signal": 2048, "answer": 512}
"""Tokens, where the models' windows hold them."""
_SHARES = {"question": 4, "signal": 2, "answer": 4}
"""Of a smaller window, one in so many tokens."""
_ADAPTERS: tuple[tuple[bool, bool], ...] = ((False, False), (True, False), (True, True))
"""Whether reasoner and generator get adapters: the first that leaves room to sample side by side is taken."""
_CALLS = 8
"""Most calls of transformers' generation for a round's samples, where adapters would make room for fewer."""
_PLAIN = re.compile(r"[A-Za-z./~][\w./~:#-]*")


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What a first run is made for."""

    reasoner: str
    generator: str
    data: str
    """A JSONL file, or a data set of the hub."""
    prompt_column: str | None = None
    """None looks for one in the file."""
    answer_column: str | None = None
    grader: str | None = None
    """None takes ``choice`` for letters, ``exact`` for other answers in a file, and ``math`` for hub sets."""
    gpu_gb: float | None = 24.0
    """Memory of the card in 10⁹ bytes; None trains on the CPU."""
    output: str = "runs/first"
    """Folder of the run."""

    @property
    def hardware(self) -> Hardware:
        """The machine that it is planned for."""
        return Hardware.this_cpu() if self.gpu_gb is None else Hardware(gpu_gb=self.gpu_gb)


def write_first_run(file: Path, wanted: FirstRun) -> tuple[str, ...]:
    """Write the YAML of a run whose plan has no problem; returns what could not be looked at.

    Raises:
        ConfigError: the file exists, the questions' columns cannot be told, or nothing of the kind fits the card.
        TrainingError: the questions are there and cannot be used.
    """
    if file.exists():
        raise ConfigError(f"{file} exists, and is not written over; name another file")
    named = {"reasoner": {"model": wanted.reasoner}, "generator": {"model": wanted.generator}}
    least = checked({"output": "x", **named, "data": {"train": wanted.data}}, "this first run")
    columns, limits = _Columns.of(wanted, least.data), _limits(least)
    for adapters in _ADAPTERS:
        config = checked(parse_yaml(_text(wanted, columns, limits, adapters), str(file)), "this first run")
        made = plan(config, wanted.hardware, file=file, questions=columns.questions)
        engines = _engines(config, made)
        if made.fits and _calls(made) <= _CALLS and (engines or not made.hardware.gpus):
            break
    if made.problems:
        size = "this machine" if wanted.gpu_gb is None else f"a card of {wanted.gpu_gb:g} GB"
        raise ConfigError(f"no first run for {size}: {'; '.join(made.problems)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_text(wanted, columns, limits, adapters, engines), encoding="utf-8")
    unseen = [
        f"{part.model} is not here, so whether it fits and can be trained was not looked at"
        for stage, part in (("reasoner", least.reasoner), ("generator", least.generator))
        if made.shapes[stage] is None
    ]
    if is_file(wanted.data) and columns.questions is None:
        unseen.append(f'{wanted.data} is not here yet; a line of it is {{"question": "…", "answer": "…"}}')
    return tuple(unseen)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the questions' file tells."""

    prompt: str
    answer: str
    grader: str
    questions: int | None
    """To train on; None where the file is not there, or on the hub."""
    held: int

    @classmethod
    def of(cls, wanted: FirstRun, data: Data) -> _Columns:
        first = _first_row(wanted.data)
        prompt = _named(first, wanted.prompt_column, PROMPTS, wanted.data, "--prompt-column")
        answer = _named(first, wanted.answer_column, ANSWERS, wanted.data, "--answer-column")
        grader = wanted.grader or ("math" if first is None else _grader(str(first.get(answer, ""))))
        if first is None:
            return cls(prompt, answer, grader, None, _HELD)
        columns = {"prompt_column": prompt, "answer_column": answer, "holdout": 0}
        whole = questions_ahead(data.model_copy(update=columns), seed=0) or 0
        held = min(_HELD, whole // 5)
        return cls(prompt, answer, grader, whole - held, held)

    @property
    def each_round(self) -> int:
        """Questions of a round: an even number, as each policy takes two updates."""
        most = _QUESTIONS if self.questions is None else min(_QUESTIONS, self.questions)
        return max(2, most - most % 2)


def _first_row(data: str) -> dict[str, object] | None:
    """The first row of a file; None where it is not there, or on the hub."""
    path = Path(data).expanduser()
    if not is_file(data) or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig") as lines:
            row = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError) as err:
        raise TrainingError(f"{path}, line 1 is not JSON: a file has one object per line ({err})") from err
    if not isinstance(row, dict):
        raise TrainingError(f"{path} holds no questions: a line is {{'question': '…', 'answer': '…'}}")
    return row


def _named(row: dict[str, object] | None, given: str | None, names: Sequence[str], data: str, option: str) -> str:
    """The column that is given, else the likeliest one that a row has."""
    if row is None:
        return given or next(name for name in names if name in ("question", "answer"))
    for name in names if given is None else (given,):
        if name in row:
            return name
    raise ConfigError(f"{data} has the columns {', '.join(map(repr, row))}; say which with {option}")


def _grader(answer: str) -> str:
    return "choice" if re.fullmatch(r"[A-J]", answer.strip()) else "exact"


def _calls(made: Plan) -> int:
    """Calls of generation that the slower policy needs to sample a round."""
    both = (made.batches.reasoner, made.batches.generator)
    return max(-(-one.samples_per_process // one.sampled_at_once) for one in both)


def _engines(config: TrainConfig, made: Plan) -> dict[str, float]:
    """Shares of the card with which vLLM could sample for both models; empty where they do not fit."""
    if not made.hardware.gpus:
        return {}
    shares = {
        stage: engine_share(stage, config, shape, made.hardware)
        for stage, shape in made.shapes.items()
        if shape is not None
    }
    sampled = {
        stage: getattr(config, stage).model_copy(update={"vllm": Vllm(gpu_memory_utilization=min(share, 1.0))})
        for stage, share in shares.items()
    }
    return (
        shares
        if len(shares) == len(made.shapes) and plan(config.model_copy(update=sampled), made.hardware).fits
        else {}
    )


def _text(
    wanted: FirstRun,
    columns: _Columns,
    limits: Mapping[str, int],
    adapters: tuple[bool, bool],
    engines: Mapping[str, float] | None = None,
) -> str:
    size = "this machine's CPU" if wanted.gpu_gb is None else f"one card of {wanted.gpu_gb:g} GB"
    shares = engines or {}
    reasoner = _model(
        "reasoner", wanted.reasoner, adapter=adapters[0], tokens=limits["signal"], engine=shares.get("reasoner")
    )
    generator = _model(
        "generator", wanted.generator, adapter=adapters[1], tokens=limits["answer"], engine=shares.get("generator")
    )
    cpu = "  use_cpu: true\n  precision: float32\n" if wanted.gpu_gb is None else ""
    return f"""\
# A first run for {size}. `duet train run FILE --dry-run` shows what it takes.
# Batches are chosen to fit the card. Every other setting and its default: docs/reference/training-config.md.

output: {_written(wanted.output)} # checkpoints, metrics and, at the end, the pair
seed: 0

{reasoner}
{generator}
objective:
  reward: gated # length costs right answers only
  alpha: 0.3 # most of a right answer's reward that length can take

rollout:
  questions: {columns.each_round} # of a round; the paper's 64 where there is time
  signals: 4 # for each question
  answers: 2 # to each signal

training:
  epochs: 1 # or rounds: 100
  save_every: 50
  validate_every: 10 # rounds
  validation_questions: {max(columns.held, 1)}
{cpu}
data:
  train: {_written(wanted.data)}
  prompt_column: {_written(columns.prompt)}
  answer_column: {_written(columns.answer)}
  max_prompt_tokens: {limits["question"]}
  holdout: {columns.held} # kept back to validate on
  grading: {{grader: {_written(columns.grader)}}} # math, exact, choice, or module:function
"""


def _model(stage: str, name: str, *, adapter: bool, tokens: int, engine: float | None) -> str:
    what = "a signal" if stage == "reasoner" else "an answer"
    lines = [f"{stage}:", f"  model: {_written(name)}"]
    if adapter:
        lines += [
            "  lora: {r: 32} # an adapter; without it all weights are trained",
            "  weights: bfloat16 # of the frozen base",
            "  learning_rate: 1e-5 # ten times that of whole models",
        ]
    else:
        lines += ["  learning_rate: 1e-6 # of all weights"]
    lines += [f"  max_new_tokens: {tokens} # of {what}"]
    if engine is not None:
        lines += [f"  # vllm: {{gpu_memory_utilization: {engine:g}}} # faster rounds, where vLLM is installed"]
    return "\n".join(lines) + "\n"


def _limits(config: TrainConfig) -> Mapping[str, int]:
    """Tokens of question, signal and answer that the smaller window holds."""
    shapes = [look_at(stage, getattr(config, stage)).shape for stage in ("reasoner", "generator")]
    windows = [shape.window for shape in shapes if shape is not None and shape.window is not None]
    if not windows or min(windows) >= sum(_LIMITS.values()):
        return _LIMITS
    return {name: min(most, min(windows) // _SHARES[name]) for name, most in _LIMITS.items()}


def _written(text: str) -> str:
    """A text as YAML has it."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
