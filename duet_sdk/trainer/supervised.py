"""Supervised tuning on rows of token ids, by TRL's SFTTrainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from duet_sdk.trainer.build import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft import PeftConfig
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what should follow it; encoded apart, as in rollouts."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How long and how fast."""

    learning_rate: float
    """Its highest; it rises over a tenth of the steps and falls along a cosine."""
    batch: int
    """Rows of an update."""
    steps: int
    """Updates."""
    passes: int = 1
    """Into which an update is split to save memory, at most ``batch``."""
    gradient_checkpointing: bool = False
    optimizer: str = "adamw_torch"
    precision: str = "float32"
    use_cpu: bool = False
    seed: int = 0


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    tuning: Tuning,
    *,
    folder: Path,
    adapter: PeftConfig | None = None,
) -> PreTrainedModel:
    """Tune ``model`` in place to write each row's completion; the loss is on completions only.

    Args:
        model: what is tuned.
        tokenizer: its tokenizer; only its pad token is used.
        rows: token ids.
        tuning: how.
        folder: where TRL may write.
        adapter: train this adapter instead of all weights.

    Returns:
        The tuned model, with its adapter where one was asked for.
    """
    with quiet():
        return _tune(model, tokenizer, rows, tuning, folder, adapter)


def _tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    tuning: Tuning,
    folder: Path,
    adapter: PeftConfig | None,
) -> PreTrainedModel:
    data = Dataset.from_dict(
        {
            "input_ids": [[*row.prompt_ids, *row.completion_ids] for row in rows],
            "completion_mask": [[0] * len(row.prompt_ids) + [1] * len(row.completion_ids) for row in rows],
        }
    )
    settings: dict[str, Any] = {
        "bf16": tuning.precision == "bf16",
        "fp16": tuning.precision == "fp16",
        "use_cpu": tuning.use_cpu,
    }
    config = SFTConfig(
        output_dir=str(folder),
        # Rounded up: an update has some rows more where passes do not divide it.
        per_device_train_batch_size=-(-tuning.batch // tuning.passes),
        gradient_accumulation_steps=tuning.passes,
        max_steps=tuning.steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=tuning.optimizer,
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=tuning.gradient_checkpointing,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=tuning.seed,
        dataloader_pin_memory=False,
        **settings,
    )
    before = _own_forwards(model)
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    tuned: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    # TRL gives the model a forward of its own that is bound to it: a copy of the model would still run this one.
    for module in _own_forwards(tuned):
        del module.forward
    for module, forward in before.items():
        module.forward = forward
    tuned.eval()  # type: ignore[no-untyped-call]
    return tuned


def _own_forwards(model: PreTrainedModel) -> dict[Module, Any]:
    """Modules whose forward is not their class's."""
    return {module: vars(module)["forward"] for module in model.modules() if "forward" in vars(module)}
