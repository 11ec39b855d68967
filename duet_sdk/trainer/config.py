"""What a training run is made of: one YAML file, checked before anything heavy is imported.

Sections: ``reasoner``, ``generator``, ``objective``, ``data``, ``rollout``, and, rarely touched, ``training``,
``guard``, ``warmup`` and ``propose``. A round is one batch of questions: rollouts of both models and an update of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
CountOrNone: TypeAlias = Annotated[int, Field(ge=0)]
CountOrAuto: TypeAlias = Annotated[Count | None, BeforeValidator(lambda given: None if given == "auto" else given)]
"""A number, or ``auto`` (None): the largest that fits the card, by the plan."""

RewardName: TypeAlias = Literal["gated", "additive"]
ScheduleName: TypeAlias = Literal["constant", "dual", "guarded", "pi"]
MarginalName: TypeAlias = Literal["off", "paper", "baseline", "weight"]
GroupName: TypeAlias = Literal["question", "signal"]
Precision: TypeAlias = Literal["float32", "bf16", "fp16"]


class Section(BaseModel):
    """A part of a run's configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Section):
    """Train a low-rank adapter and leave the base model as it is."""

    r: Count = 32
    """Rank; 32 holds what GRPO changes in a 4B model, at 1 % of its weights."""
    alpha: Count = 64
    """Scale of the adapter over its rank; twice the rank is the usual choice."""
    dropout: Share = 0.0
    """Share of inputs dropped in training; 0, as GRPO compares the same tokens twice."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: names, or ``all-linear``."""


class Vllm(Section):
    """Rollouts by vLLM, which TRL keeps in step with the weights."""

    mode: Literal["colocate", "server"] = "colocate"
    """``colocate``: an engine in each training process; ``server``: a ``trl vllm-serve`` on GPUs of its own."""
    gpu_memory_utilization: Share = 0.3
    """Share of the GPU's memory for a colocated engine; two engines and two policies share one GPU."""
    max_model_length: Count | None = None
    """Tokens of prompt and output; None takes the longest of this run."""
    tensor_parallel_size: Count = 1
    """GPUs over which a colocated engine is split."""
    server_base_url: str | None = None
    """Address of the server, for ``mode: server``."""
    group_port: Count = 51216
    """Port for sending weights to the server; the two policies need different ones."""
    server_timeout_s: Positive = 240.0
    """Seconds to wait for the server to come up; a 4B model takes one to two minutes."""


class Model(Section):
    """One of the two models and how it is trained."""

    model: str
    """Folder or hub id of the model to start from."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; pinned in the pair."""
    learning_rate: Positive = 1e-6
    """Step size of AdamW; the paper's, for whole models. Adapters take ten times that."""
    max_new_tokens: Count = 1024
    """Most tokens written at once; longer output is cut and counts as cut."""
    kl: NotNegative = 0.0
    """Weight of the KL term to the starting model in the loss; the paper puts its 0.001 into the reward instead."""
    lora: Lora | None = None
    """Train an adapter; None trains all weights."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """How weights are held. Updates of 1e-6 vanish in bfloat16, so it is only for a frozen base under ``lora``."""
    optimizer: str = "adamw_torch"
    """Optimizer as transformers names it; ``adamw_8bit`` saves memory on a GPU."""
    gradient_accumulation: CountOrAuto = None
    """Passes into which each update is split to save memory; changes no result but rounding. ``auto`` takes as few as
    fit the card."""
    gradient_checkpointing: bool = True
    """Compute activations twice: a third more time, and a tenth of their memory or less."""
    vllm: Vllm | None = None
    """Rollouts by vLLM; None uses transformers in the training process, in calls of ``sampled_at_once``."""
    sampled_at_once: CountOrAuto = None
    """Sequences that transformers samples at once; ``auto`` takes as many as fit the card. vLLM decides by itself."""
    licence: str | None = None
    """Licence of the starting model, as the pair's card should name it."""

    @field_validator("model")
    @classmethod
    def _is_named_alone(cls, given: str) -> str:
        backend, slash, rest = given.partition("/")
        if not given.strip():
            raise ValueError("it is empty; write a folder or a hub id, such as Qwen/Qwen3-0.6B")
        if slash and backend in _LOCAL:
            sampled = ", and vllm: {} for rollouts by vLLM" if backend.startswith("vllm") else ""
            raise ValueError(f"here a model is named without its backend; write {rest.partition('@')[0]!r}{sampled}")
        if slash and backend in _REMOTE:
            raise ValueError("training needs the model's weights; write a folder or a hub id, such as Qwen/Qwen3-0.6B")
        return given


_LOCAL, _REMOTE = ("transformers", "vllm", "vllm-engine"), ("litellm", "scripted")
"""Backends by which the SDK's clients name models."""


class Reasoner(Model):
    """The model that writes the signal."""

    max_new_tokens: Count = 2048
    """Most tokens of a signal; the paper takes 8192, at four times the memory of a sequence."""


class Generator(Model):
    """The model that answers."""


class Objective(Section):
    """What is rewarded. Source of the additive form and its numbers: arXiv 2605.01111."""

    reward: RewardName = "gated"
    """``gated``: length counts only for right answers; ``additive``: the paper's, grade minus weighted length."""
    alpha: Share = 0.3
    """Gated: most of a right answer's reward that length can take; 0.3 kept accuracy in every trial."""
    budget_tokens: Positive = 1000.0
    """Additive: B, signal tokens that cost one lambda, and the length that schedules steer to; the paper's 1000."""
    schedule: ScheduleName = "guarded"
    """Additive: how lambda moves. ``dual`` is the paper's and collapses where B is too small; ``guarded`` waits for
    accuracy and is capped."""
    lam: NotNegative = 0.0
    """Additive: lambda at the start (always, for ``constant``)."""
    eta: Positive = 0.01
    """Step of lambda per round; the paper's 0.01."""
    lam_max: Positive = 1.0
    """Bound on lambda; the paper's 1."""
    cap: Share = 0.5
    """Guarded and PI: most that the length of a first-round signal may cost, as a share of a right answer."""
    tolerance: Share = 0.02
    """Accuracy that may be lost against the best smoothed one before lambda falls."""
    warm_rounds: Count = 5
    """Rounds whose mean accuracy is the first reference."""
    smoothing: Share = 0.8
    """Weight of the past in smoothed accuracy."""
    marginal: MarginalName = "off"
    """What is made of r(m), the accuracy without a signal. ``paper`` subtracts it, which group-relative advantages
    cancel; ``baseline`` takes it in place of the group's mean; ``weight`` weighs length by it."""
    generator_group: GroupName = "question"
    """Which of the generator's answers are compared: all of a question's, or those of one signal."""
    divide_by_std: bool = True
    """Divide advantages by their group's standard deviation; by the root of their mean square under ``baseline``."""
    std_epsilon: Positive = 1e-4
    """Added to that deviation; TRL's value, far below what a grade can change."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.schedule != "constant" and self.lam > self.lam_max:
            raise ValueError(f"lam is {self.lam} and lam_max {self.lam_max}; start below the bound")
        return self


GRADERS = ("math", "exact", "choice")
"""Graders that have a name, see `duet_sdk.evaluation.grading.find_grader`."""


class Grading(Section):
    """How answers are graded."""

    grader: str = "math"
    """``math``, ``exact``, ``choice``, or ``module:function`` with TRL's reward signature."""
    timeout_s: Positive = 5.0
    """Seconds for one answer; a grader that hangs is ended and the answer counts as wrong."""
    workers: CountOrNone = 0
    """Processes that grade; 0 is as 1. ``exact`` and ``choice`` cannot hang and grade in the training process."""

    @field_validator("grader")
    @classmethod
    def _is_known(cls, given: str) -> str:
        if ":" not in given and given not in GRADERS:
            close = get_close_matches(given, GRADERS, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"a grader is {', '.join(map(repr, GRADERS))} or 'module:function' of your own{meant}")
        return given


class Data(Section):
    """Questions with answers."""

    train: str
    """JSONL file or hub data set."""
    validation: str | None = None
    """The same for validation; None keeps ``holdout`` questions of ``train`` back."""
    holdout: CountOrNone = 64
    """Questions kept back where ``validation`` is None."""
    split: str = "train"
    """Split of a hub data set."""
    validation_split: str = "test"
    """Split of a hub validation set."""
    revision: str | None = None
    """Revision of the hub data set ``train``, and of its other splits and subsets; pinned in the pair."""
    prompt_column: str = "prompt"
    """Column of the question: text, or chat messages."""
    answer_column: str = "answer"
    """Column of the right answer."""
    max_prompt_tokens: Count = 512
    """Longer questions are dropped; the paper's 512."""
    max_questions: Count | None = None
    """Most questions to keep after filtering, the first of them; None takes all."""
    deduplicate: bool = True
    """Drop questions that differ in whitespace, case and closing marks only."""
    leak_against: tuple[str, ...] = ()
    """Evaluation sets whose questions must not be trained on, as files or hub data sets."""
    leak_ngram: Count = 13
    """Words in a row that make a leak; 13 is the usual choice."""
    licence: str | None = None
    """Licence of the questions and answers, for the pair's manifest and card."""
    rights: str | None = None
    """Where answers come from and why they may be used; needed when a provider's model wrote them."""
    provider_answers: bool = False
    """Whether answers were written by a provider's model; then ``rights`` must be stated."""
    language: str | None = None
    """Language of the questions, for the pair's manifest."""
    tasks: tuple[str, ...] = ()
    """What the questions are about, for the pair's manifest."""
    grading: Grading = Grading()
    """How answers are graded."""

    @model_validator(mode="after")
    def _rights(self) -> Self:
        if self.provider_answers and not (self.rights or "").strip():
            raise ValueError(
                "answers come from a provider's model (provider_answers), so rights must say why they may be used"
            )
        return self


class Rollout(Section):
    """How much is sampled in a round."""

    questions: Count = 64
    """Questions in a round over all processes; the paper's 64."""
    signals: Count = 4
    """G, signals for a question; the paper's 4."""
    answers: Count = 4
    """K, answers for a signal; the paper's 4."""
    mini_batches: Count = 2
    """Updates that each policy takes in a round; the paper's 64 questions in mini-batches of 32."""
    unguided: CountOrNone = 0
    """Answers without a signal for a question in training; 0 only in validation. ``marginal`` needs at least 1, the
    paper takes K."""
    temperature: Positive = 1.0
    """Of both models in training; 1 samples from the policy that is trained."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of both models in training."""
    top_k: CountOrNone = 0
    """Of both models in training; 0 for all tokens."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: object) -> object:
        if isinstance(values, Mapping) and "alone" in values:
            raise ValueError("'alone' is now called 'unguided', with the same meaning; rename the key")
        return values


class Training(Section):
    """Length, precision, saving and logging of a run."""

    rounds: Count | None = None
    """Rounds to train; None goes by ``epochs``."""
    epochs: Positive = 3.0
    """Passes over the questions where ``rounds`` is None; the paper's 3."""
    clip: Positive = 0.2
    """Epsilon of the clipped ratio; the paper's."""
    loss: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How tokens are averaged, as TRL names it; ``dapo`` is the paper's mean over all tokens of a batch."""
    max_grad_norm: Positive = 1.0
    """Bound on the norm of gradients."""
    adam_beta2: Share = 0.999
    """Of AdamW; lower for short runs."""
    lr_schedule: str = "constant"
    """Learning-rate schedule as transformers names it."""
    warmup_rounds: CountOrNone = 0
    """Rounds in which learning rates rise from 0."""
    precision: Precision = "bf16"
    """Arithmetic of both policies; accelerate knows one for a process."""
    save_every: CountOrNone = 50
    """Rounds between checkpoints, in addition to those at the end and on SIGTERM; 0 for these only."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Checkpoints kept of each policy, from 2: the newest may be of one policy only."""
    validate_every: CountOrNone = 10
    """Rounds between validations; the paper's 10, 0 for none."""
    validation_questions: Count = 64
    """Questions of a validation."""
    log_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where TRL logs to, in addition to the run's own ``metrics.jsonl``."""
    log_samples: CountOrNone = 4
    """Samples of question, signal and answer kept of each validation in ``samples.jsonl``."""
    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""
    fsdp: str | None = None
    """FSDP as transformers names it, such as ``full_shard auto_wrap``; None where accelerate's file sets it, as in the
    recipes."""


class Guard(Section):
    """What ends or softens a run that goes wrong."""

    enabled: bool = True
    """Watch for collapse."""
    drop: Share = 0.1
    """Accuracy below the reference of which the run is warned; twice that, or half of what was reached where that is
    less, for ``patience`` rounds is a collapse."""
    empty: Share = 0.9
    """Share of empty signals that counts as collapse when accuracy has dropped, too."""
    zero_variance: Share = 0.95
    """Share of groups without variance at which a warning is logged."""
    entropy_floor: NotNegative = 0.0
    """Entropy of the reasoner, nats a token, below which exploration is over and a warning is logged; 0 for none."""
    patience: Count = 5
    """Rounds in a row that make a collapse, and rounds between warnings of one kind."""
    retries: CountOrNone = 2
    """Times that the run goes back to its last good checkpoint with a gentler setting; then it stops."""
    gentler: Share = 0.5
    """Factor on alpha, lambda, cap and learning rates after going back."""


class Warmup(Section):
    """Supervised tuning on signals of varied length, before joint training."""

    questions: Count = 512
    """Questions that the reasoner is sampled on."""
    samples: Count = 1
    """Signals sampled for each."""
    styles: tuple[Literal["whole", "dropped", "numbers", "plan", "empty"], ...] = (
        "whole",
        "dropped",
        "numbers",
        "plan",
    )
    """Forms that are made of each signal: as it is, with sentences dropped, numbers kept, the plan alone, none."""
    keep: Share = 0.5
    """Least accuracy of the generator on a form for which it is kept."""
    checks: Count = 4
    """Answers sampled to measure that."""
    epochs: Positive = 1.0
    """Passes of supervised tuning."""
    batch: Count = 32
    """Rows of an update."""
    learning_rate: Positive = 1e-5
    """Of supervised tuning, for both models."""


class Propose(Section):
    """Shorter forms of the reasoner's signals, proposed, screened, and learned or rolled back."""

    cycles: CountOrNone = 0
    """Proposals before joint training; 0 for none."""
    signals: Count = 1200
    """Fresh signals sampled in a cycle."""
    rules: Literal["tokens", "text"] = "text"
    """What may be deleted: token types and their neighbours, or sentences, clauses, fillers and restatements."""
    screen_accuracy: Share = 0.95
    """Least accuracy of the adapted generator without a rule's tokens, relative to that with all, to accept it."""
    max_rules: Count = 8
    """Rules shared by one cycle."""
    adapt_steps: Count = 200
    """Supervised updates of the generator on signals with random rules applied."""
    tune_steps: Count = 300
    """Supervised updates of the reasoner on its pruned signals."""
    batch: Count = 64
    """Rows of an update."""
    learning_rate: Positive = 1e-5
    """Of supervised tuning in this stage."""
    held: Count = 512
    """Answers sampled to held-out questions for a cycle's verdict, all of which take part, some more than once; 512
    tell differences of some 3 %. The interval is in ``decisions.jsonl``."""
    accept_drop: Share = 0.01
    """Sampled accuracy of the pair that a cycle may cost; above it is rolled back."""
    back_tracks: CountOrNone = 3
    """Times that a cycle is tried again, with either half of the rules that failed, and with halves of those."""
    empty: bool = False
    """Also propose empty signals where the generator alone is right."""


class TrainConfig(Section):
    """A whole run.

    >>> config = TrainConfig.model_validate({
    ...     "output": "runs/first", "reasoner": {"model": "Qwen/Qwen3-4B"}, "generator": {"model": "Qwen/Qwen3-0.6B"},
    ...     "data": {"train": "questions.jsonl"},
    ... })
    >>> config.objective.reward, config.rollout.signals, config.rollout.answers
    ('gated', 4, 4)
    """

    output: Path
    """Folder of the run: checkpoints, metrics, decisions, and the pair."""
    toy: bool = False
    """Marks the pair as one that shows that training works and answers nothing else."""
    seed: int = 0
    """Of sampling and of the order of questions, which is the same on all processes."""
    reasoner: Reasoner
    generator: Generator
    objective: Objective = Objective()
    data: Data
    rollout: Rollout = Rollout()
    training: Training = Training()
    guard: Guard = Guard()
    warmup: Warmup = Warmup()
    propose: Propose = Propose()

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        rollout, objective = self.rollout, self.objective
        if rollout.signals < 2:
            raise ValueError("rollout.signals is 1: advantages compare the signals of a question; use 2 or more")
        if rollout.answers < 2 and objective.generator_group == "signal":
            raise ValueError(
                "rollout.answers is 1: with generator_group 'signal' nothing is compared; use 2 or more, or 'question'"
            )
        if objective.marginal != "off" and rollout.unguided < 1:
            raise ValueError(
                f"objective.marginal is {objective.marginal!r} and needs answers without a signal; set "
                f"rollout.unguided (the paper: {rollout.answers})"
            )
        if rollout.questions % rollout.mini_batches:
            raise ValueError(
                f"rollout.questions ({rollout.questions}) must be a multiple of mini_batches ({rollout.mini_batches})"
            )
        return self

    @model_validator(mode="after")
    def _keeps_its_updates(self) -> Self:
        for name, part in (("reasoner", self.reasoner), ("generator", self.generator)):
            if part.weights == "bfloat16" and part.lora is None:
                raise ValueError(
                    f"{name}.weights is bfloat16 without lora: updates would be lost to rounding; use float32"
                )
        return self

    @model_validator(mode="after")
    def _can_go_back(self) -> Self:
        training, guard = self.training, self.guard
        kept = (training.keep - 1) * training.save_every
        if guard.enabled and guard.retries and 0 < kept <= guard.patience:
            raise ValueError(
                f"the {training.keep} checkpoints kept (training.keep), {training.save_every} rounds apart "
                f"(training.save_every), reach {kept} rounds back at worst, and a collapse is certain after "
                f"{guard.patience} (guard.patience): none from before would be left; raise keep or save_every, or set "
                "guard.retries to 0"
            )
        return self

    @model_validator(mode="after")
    def _has_servers_apart(self) -> Self:
        one, two = self.reasoner.vllm, self.generator.vllm
        if one and two and one.mode == two.mode == "server" and one.group_port == two.group_port:
            raise ValueError(f"both vllm servers have group_port {one.group_port}; give the generator another one")
        return self
