"""What of a run's configuration and data goes into its pair, which others read: nothing that tells of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from duet_sdk.trainer.data import is_hub_set

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from duet_sdk.trainer.config import Data, TrainConfig


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


def _set_name(name: str) -> str:
    return name if is_hub_set(name) else Path(name).name
