"""Supervised tuning on rows of token ids, by TRL's SFTTrainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from duet_sdk.trainer.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and what should follow it; encoded apart, as in rollouts."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How long and how fast."""

    learning_rate: float
    batch: int
    steps: int = -1
    """Updates; -1 goes by ``epochs``."""
    epochs: float = 1.0
    precision: str = "float32"
    schedule: str = "cosine"
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    use_cpu: bool = False
    seed: int = 0


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
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
    rows: Sequence[Row],
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
        per_device_train_batch_size=tuning.batch,
        max_steps=tuning.steps,
        num_train_epochs=tuning.epochs,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type=tuning.schedule,
        warmup_steps=tuning.warmup_share,
        weight_decay=tuning.weight_decay,
        max_grad_norm=1.0,
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=tuning.seed,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    tuned: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    tuned.eval()  # type: ignore[no-untyped-call]
    return tuned
