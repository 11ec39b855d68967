"""Models and TRL trainers as configured."""

from __future__ import annotations

import os
import random
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, ProgressCallback
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import GRPOConfig

from duet_sdk import models
from duet_sdk.errors import ConfigError
from duet_sdk.models.sources import no_bars
from duet_sdk.trainer.plan.lengths import length_problems, longest_prompts
from duet_sdk.trainer.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from duet_sdk.trainer.config import Lora, Model, TrainConfig, Training
    from duet_sdk.trainer.policy import Side
    from duet_sdk.trainer.prompts import PairPrompts

StageName = Literal["reasoner", "generator"]


@dataclass(frozen=True, slots=True)
class Start:
    """What both policies start from: folders on this machine."""

    reasoner: Path
    generator: Path

    def folder(self, stage: StageName) -> Path:
        """A policy's starting model."""
        return self.reasoner if stage == "reasoner" else self.generator


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' progress bars and warnings that no user can act on off the screen.

    Those are bars for files that take a second, and the warning about names that TRL uses and transformers 6 will drop.
    """
    with no_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
        yield


def locate_models(config: TrainConfig) -> Start:
    """Both models' folders, checked; hub models are fetched into DUET's cache.

    Raises:
        ModelNotFound: a model is missing or incomplete.
        ConfigError: a model has pickled weights only, or needs its own code.
    """
    folders = []
    for part in (config.reasoner, config.generator):
        folder = models.locate(part.model, revision=part.revision)
        models.check_folder(folder)
        folders.append(folder)
    return Start(*folders)


def load_model(folder: Path, part: Model, *, ends: tuple[int, ...] = ()) -> PreTrainedModel:
    """A model to train.

    Args:
        folder: where it is.
        part: how its weights are held.
        ends: tokens that end its output in addition to its own.
    """
    dtype = torch.bfloat16 if part.weights == "bfloat16" else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    if ends and model.generation_config is not None:
        own = model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        model.generation_config.eos_token_id = [*own, *(one for one in ends if one not in own)]
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A model's tokenizer, padding on the left as generation wants it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, padding_side="left", trust_remote_code=False, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def adapter(lora: Lora | None) -> Any:
    """Peft's form of an adapter; None for none."""
    if lora is None:
        return None
    from peft import LoraConfig

    target = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=target, task_type="CAUSAL_LM"
    )


def check_sizes(config: TrainConfig, *, processes: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        ConfigError: it cannot.
    """
    rollout = config.rollout
    shares = processes * rollout.mini_batches
    if rollout.questions % processes:
        raise ConfigError(
            f"rollout.questions ({rollout.questions}) must be a multiple of the number of processes ({processes}): "
            "each takes whole questions"
        )
    for stage, part, group in _groups(config):
        passes = part.gradient_accumulation or 1  # those that are left to auto divide
        if rollout.questions * group % (shares * passes):
            raise ConfigError(
                f"{rollout.questions} questions with {group} samples each do not divide into {processes} processes, "
                f"{rollout.mini_batches} mini-batches and {passes} passes of {stage}; change "
                f"rollout.mini_batches or {stage}.gradient_accumulation"
            )


def check_names(config: TrainConfig) -> None:
    """Refuse a learning-rate schedule or an optimizer that transformers does not know.

    Raises:
        ConfigError: it does not; says which names there are.
    """
    for place, name, known in (
        ("training.lr_schedule", config.training.lr_schedule, SchedulerType),
        ("reasoner.optimizer", config.reasoner.optimizer, OptimizerNames),
        ("generator.optimizer", config.generator.optimizer, OptimizerNames),
    ):
        names = sorted(one.value for one in known)
        if name not in names:
            close = get_close_matches(name, names, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{place} is {name!r}, and transformers knows {', '.join(names)}{meant}")


def check_context(config: TrainConfig, start: Start) -> None:
    """Refuse limits that a model's window cannot hold.

    Raises:
        ConfigError: prompt and output together are longer than a window.
    """
    from transformers import AutoConfig

    windows: dict[str, int | None] = {}
    for stage, _, _ in _groups(config):
        facts = AutoConfig.from_pretrained(start.folder(stage), trust_remote_code=False)
        windows[stage] = getattr(facts.get_text_config(), "max_position_embeddings", None)
    for problem in length_problems(config, windows):
        raise ConfigError(problem)


def order_of(questions: int, *, each: int, rounds: int, seed: int) -> list[int]:
    """Places in the data for all rounds: every pass over the questions is shuffled anew, its incomplete round left out.

    All questions of a run are in one list, so that a resumed run finds its place in it. TRL's own shuffling begins
    anew with a process, and would give later passes the first one's order.

    Args:
        questions: how many there are, at least ``each``.
        each: questions of a round.
        rounds: rounds of the run.
        seed: of the shuffling; a longer run begins as a shorter one.
    """
    places: list[int] = []
    for number in count():
        if len(places) >= rounds * each:
            break
        shuffled = random.Random(f"{seed} {number}").sample(range(questions), questions)
        places += shuffled[: questions - questions % each]
    return places[: rounds * each]


def build_policy(
    stage: StageName,
    config: TrainConfig,
    start: Start,
    prompts: PairPrompts,
    side: Side,
    callback: TrainerCallback,
    *,
    places: Sequence[int],
    rounds: int,
) -> Policy:
    """One policy's trainer, ready to train on these places in the data, in this order.

    Args:
        stage: which of the two.
        config: the run.
        start: the models to start from.
        prompts: tell where the reasoner's output ends.
        side: its side of the rounds.
        callback: receives its steps, logs and checkpoints.
        places: questions of all rounds, see `order_of`.
        rounds: rounds of the run.
    """
    part = config.reasoner if stage == "reasoner" else config.generator
    group = config.rollout.signals * (1 if stage == "reasoner" else config.rollout.answers)
    # The reasoner stops where its thinking ends: what follows is never used.
    ends = (prompts.closing_id,) if stage == "reasoner" else ()
    args = _settings(stage, config, part, group=group, rounds=rounds, ends=ends)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout functions are pinned with TRL's version
    policy = Policy(
        side,
        model=load_model(start.folder(stage), part, ends=ends),
        args=args,
        # Places in the data, as a rollout function is given nothing else of a row.
        train_dataset=Dataset.from_dict({"prompt": [str(place) for place in places]}),
        processing_class=load_tokenizer(start.folder(stage)),
        callbacks=[callback],
        peft_config=adapter(part.lora),
    )
    policy.log_prefix = f"{stage}/"
    policy.sampled_at_once = None if part.vllm is not None else part.sampled_at_once
    for shown in (PrinterCallback, ProgressCallback):
        policy.remove_callback(shown)
    return policy


def passes_of(part: Model) -> int:
    """Passes of an update of a run that was fitted to its machine.

    Raises:
        ConfigError: they are left to ``auto`` still.
    """
    if part.gradient_accumulation is None:
        raise ConfigError("gradient_accumulation is still auto; `duet_sdk.trainer.machine.for_this_machine` chooses it")
    return part.gradient_accumulation


def _groups(config: TrainConfig) -> list[tuple[StageName, Model, int]]:
    signals, answers = config.rollout.signals, config.rollout.answers
    return [("reasoner", config.reasoner, signals), ("generator", config.generator, signals * answers)]


def _schedule(training: Training) -> str:
    """The schedule's name; transformers' constant one knows no warm-up."""
    warm = training.warmup_rounds > 0 and training.lr_schedule == "constant"
    return "constant_with_warmup" if warm else training.lr_schedule


def _settings(
    stage: StageName, config: TrainConfig, part: Model, *, group: int, rounds: int, ends: tuple[int, ...]
) -> GRPOConfig:
    rollout, training = config.rollout, config.training
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    passes = passes_of(part)
    engine: dict[str, Any] = {}
    if part.vllm is not None:
        engine = {
            "use_vllm": True,
            "vllm_mode": part.vllm.mode,
            "vllm_gpu_memory_utilization": part.vllm.gpu_memory_utilization,
            # The model's own window would need more cache than there is.
            "vllm_max_model_length": part.vllm.max_model_length or longest_prompts(config)[stage] + part.max_new_tokens,
            "vllm_tensor_parallel_size": part.vllm.tensor_parallel_size,
            "vllm_server_base_url": part.vllm.server_base_url,
            "vllm_group_port": part.vllm.group_port,
            "vllm_server_timeout": part.vllm.server_timeout_s,
            # Per token: masking whole sequences falls on long ones first, which would be a length reward.
            "vllm_importance_sampling_mode": "token_truncate",
            "generation_kwargs": {"stop_token_ids": list(ends)} if ends else None,
        }
    return GRPOConfig(
        output_dir=str(config.output / stage),
        per_device_train_batch_size=rollout.questions * group // processes // rollout.mini_batches // passes,
        gradient_accumulation_steps=passes,
        steps_per_generation=rollout.mini_batches * passes,
        num_generations=group,
        shuffle_dataset=False,
        max_completion_length=part.max_new_tokens,
        max_steps=rounds * rollout.mini_batches,
        learning_rate=part.learning_rate,
        lr_scheduler_type=_schedule(training),
        warmup_steps=training.warmup_rounds * rollout.mini_batches,
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        optim=part.optimizer,
        beta=part.kl,
        epsilon=training.clip,
        loss_type=training.loss,
        scale_rewards="group" if config.objective.divide_by_std else "none",
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        gradient_checkpointing=part.gradient_checkpointing,
        use_cpu=training.use_cpu,
        fsdp=training.fsdp or "",
        ddp_backend="gloo" if training.use_cpu and processes > 1 else None,
        seed=config.seed,
        logging_steps=rollout.mini_batches,
        save_strategy="steps" if training.save_every else "no",
        save_steps=max(training.save_every, 1) * rollout.mini_batches,
        save_total_limit=training.keep,
        report_to=list(training.log_to),
        disable_tqdm=True,
        dataloader_pin_memory=not training.use_cpu,
        **engine,
    )
