"""What a run leaves: its pair, and what was measured of it.

Others read the pair, so it contains nothing about the machine that trained it (`published_config`, `published_data`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duet_sdk.errors import PairError, TrainingError
from duet_sdk.evaluation.datasets import is_hub_set
from duet_sdk.models import commit_of
from duet_sdk.pair.trained import TrainedModel, TrainingFacts, limit_for, save_trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from pydantic import JsonValue

    from duet_sdk.pair import Pair
    from duet_sdk.trainer.build import StageName, Start
    from duet_sdk.trainer.config import Data, Model, TrainConfig
    from duet_sdk.trainer.policy import Policy
    from duet_sdk.trainer.validation import Validated

PAIR = "pair"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE*")
"""Taken from the starting model byte by byte, so that what the pair pins is what it was trained with."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    config: TrainConfig
    start: Start
    configured: Start
    """What ``start`` would be if no stage before had made new models."""
    data: dict[str, JsonValue]
    rounds: int
    validated: Validated | None

    @property
    def signal_tokens(self) -> int:
        """The limit that the pair is served with: what validation's signals need, at most what training allowed."""
        most = self.config.reasoner.max_new_tokens
        if self.validated is None:
            return most
        return min(most, limit_for(self.validated.lengths))

    def to_json(self) -> dict[str, JsonValue]:
        """As ``result.json`` holds it."""
        return {
            "rounds": self.rounds,
            "validation": self.validated.row if self.validated else None,
            "signal_tokens": self.signal_tokens,
            "data": self.data,
        }


def save_pair(reasoner: Policy, generator: Policy, outcome: Outcome, *, writes: bool) -> Pair | None:
    """Write the pair into the run's folder; None on processes that do not write, which must call this, too.

    Raises:
        TrainingError: it cannot be written.
    """
    from duet_sdk.trainer.build import quiet

    config = outcome.config
    data = config.data
    with quiet(), tempfile.TemporaryDirectory(prefix=".pair-", dir=config.output) as staging:
        folders: dict[StageName, Path] = {
            "reasoner": _export(reasoner, "reasoner", outcome, Path(staging, "reasoner"), writes=writes),
            "generator": _export(generator, "generator", outcome, Path(staging, "generator"), writes=writes),
        }
        if not writes:
            return None
        facts = TrainingFacts(
            signal_tokens=outcome.signal_tokens,
            answer_tokens=config.generator.max_new_tokens,
            training=published_config(config),
            data=published_data(outcome.data, data),
            data_licence=data.licence,
            metrics=outcome.validated.row if outcome.validated else {},
            tasks=data.tasks,
            language=data.language,
            toy=config.toy,
        )
        parts: dict[StageName, Model] = {"reasoner": config.reasoner, "generator": config.generator}
        trained = [_trained(folders[stage], stage, part, outcome) for stage, part in parts.items()]
        try:
            return save_trained(config.output / PAIR, reasoner=trained[0], generator=trained[1], facts=facts)
        except PairError as err:
            raise TrainingError(f"the run is done, but its pair could not be written: {err}") from err


def published_config(config: TrainConfig) -> dict[str, JsonValue]:
    """The configuration as JSON has it, with files and folders by their last names only, and without the output."""
    values = config.model_dump(mode="json", exclude={"output"})
    for stage, part in (("reasoner", config.reasoner), ("generator", config.generator)):
        values[stage]["model"] = Path(part.model).name if is_local_model(part.model) else part.model
    data = config.data
    values["data"] |= {
        "train": _set_name(data.train),
        "validation": None if data.validation is None else _set_name(data.validation),
        "leak_against": [_set_name(name) for name in data.leak_against],
    }
    return values


def published_data(facts: Mapping[str, JsonValue], data: Data) -> dict[str, JsonValue]:
    """Counts, fingerprints and rights of a `DataReport`'s facts, and the hub's names of the sets used.

    What names rows or shows words of questions stays in the run's folder.
    """
    kept: dict[str, JsonValue] = {name: value for name, value in facts.items() if not isinstance(value, list | dict)}
    named = [name for name in (data.train, data.validation) if name is not None and is_hub_set(name)]
    sets: list[JsonValue] = list(dict.fromkeys(name.partition("#")[0].partition(":")[0] for name in named))
    return {**kept, "datasets": sets} if sets else kept


def is_local_model(name: str) -> bool:
    """Whether a model is named by its folder."""
    return name.startswith(("/", ".", "~")) or Path(name).expanduser().is_dir()


def _trained(folder: Path, stage: StageName, part: Model, outcome: Outcome) -> TrainedModel:
    """A model with where it is from: the hub's name and commit where there are such."""
    start, configured = outcome.start.folder(stage), outcome.configured.folder(stage)
    local = is_local_model(part.model)
    if part.lora is not None and (local or start != configured):
        # An adapter fits what it was trained on, and nothing else.
        return TrainedModel(folder, base=str(start.resolve()), licence=part.licence)
    if local:
        return TrainedModel(folder, licence=part.licence)
    revision = commit_of(configured) or part.revision
    return TrainedModel(folder, base=part.model, revision=revision, licence=part.licence)


def _export(policy: Policy, stage: StageName, outcome: Outcome, target: Path, *, writes: bool) -> Path:
    """One policy's weights in safetensors, with the starting model's tokenizer and generation settings."""
    from transformers import GenerationConfig

    model = policy.accelerator.unwrap_model(policy.model)
    state = policy.accelerator.get_state_dict(policy.model)  # gathers shards: every process takes part
    if not writes:
        return target
    _drop_tied(state, getattr(model, "all_tied_weights_keys", {}), stage)
    source = outcome.start.folder(stage)
    dtype = getattr(model.config, "dtype", None)
    start_dtype = _dtype_of(source)
    if start_dtype is not None and start_dtype != dtype:
        state = {name: value.to(start_dtype) if value.is_floating_point() else value for name, value in state.items()}
    model.save_pretrained(target, state_dict=state)
    if start_dtype is not None and (target / "config.json").is_file():
        _name_dtype(target / "config.json", start_dtype)
    # Training stopped the reasoner at its closing tag by an end token more; serving does that by a stop text.
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(target)
    for pattern in _TOKENIZER:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
    return target


def _drop_tied(state: dict[str, torch.Tensor], tied: Mapping[str, str], stage: StageName) -> None:
    """Leave out weights that are others' under a second name: gathered from shards, they are no longer one tensor.

    Raises:
        TrainingError: the two were trained apart.
    """
    for name, same_as in tied.items():
        if name in state and same_as in state and not state.pop(name).equal(state[same_as]):
            raise TrainingError(
                f"the {stage}'s {name} and {same_as} are one weight in its configuration and have come apart in "
                "training, so no pair was written; the checkpoints hold both. This version of accelerate shards tied "
                "weights wrongly"
            )


def _name_dtype(file: Path, dtype: torch.dtype) -> None:
    """Say in a model's configuration how its weights are saved; transformers names how they were held in training."""
    values = {**json.loads(file.read_text("utf-8")), "dtype": str(dtype).removeprefix("torch.")}
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _dtype_of(folder: Path) -> torch.dtype | None:
    """The type in which the starting model keeps its weights; None if it does not say."""
    import torch
    from transformers import AutoConfig

    named = getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "dtype", None)
    return named if isinstance(named, torch.dtype) else None


def _set_name(name: str) -> str:
    return name if is_hub_set(name) else Path(name).name
