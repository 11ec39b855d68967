"""A run's folder as the report needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from duet_sdk.errors import TrainingError
from duet_sdk.models.folder import read_json
from duet_sdk.trainer.journal import DECISIONS, METRICS, SAMPLES, read_lines

Record = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run wrote down."""

    name: str
    train: Sequence[Record]
    """Measures of each round."""
    validation: Sequence[Record]
    decisions: Sequence[Record]
    samples: Sequence[Record]
    config: Record | None
    """None where the run's configuration is not there."""


def read_run(folder: Path) -> RunFiles:
    """The files of a run; lines that a killed process left half are passed over.

    Raises:
        TrainingError: there is no such folder, or no measures in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"there is no folder {folder}; name the output folder of a run")
    try:
        rows = read_lines(folder / METRICS)
        decisions, samples = read_lines(folder / DECISIONS), read_lines(folder / SAMPLES)
    except (OSError, UnicodeDecodeError) as err:
        raise TrainingError(f"the run in {folder} cannot be read: {err}") from err
    if not rows:
        raise TrainingError(
            f"{folder / METRICS} holds no measures yet: no round has ended, or it is not a run's folder"
        )
    return RunFiles(
        name=folder.resolve().name,
        train=[row for row in rows if row.get("phase") != "validation"],
        validation=[row for row in rows if row.get("phase") == "validation"],
        decisions=decisions,
        samples=samples,
        config=read_json(folder / "config.json"),
    )


def points(rows: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Round and value of a measure, by round; rows without it are left out."""
    found = []
    for row in rows:
        at, value = row.get("round"), row.get(key)
        if _is_number(at) and _is_number(value):
            found.append((float(at), float(value)))  # type: ignore[arg-type]
    return sorted(found)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
