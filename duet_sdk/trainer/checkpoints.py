"""Checkpoints of two policies: which are complete, which both have, and the state of the run next to them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.files import differences
from duet_sdk.trainer.journal import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

MARKER = "duet.json"
STAGES = ("reasoner", "generator")
_NAME = re.compile(r"checkpoint-(\d+)")
_MAY_CHANGE = ("output", "training.rounds", "training.epochs", "training.save_every", "training.keep")
_MAY_CHANGE_SECTIONS = (
    "reasoner.sampled_at_once",
    "generator.sampled_at_once",
    "training.validat",
    "training.log_",
    "guard.",
    "warmup.",
)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a run's folder.

    A checkpoint is complete once its marker is there, which is written last and lists every file with its size: a
    process that is killed while it saves leaves none.
    """

    run: Path

    def folder(self, stage: str, step: int) -> Path:
        """Where a policy's checkpoint lies."""
        return self.run / stage / f"checkpoint-{step}"

    def mark(self, stage: str, step: int, state: Mapping[str, JsonValue]) -> None:
        """Declare a checkpoint complete, and keep ``state`` with it."""
        folder = self.folder(stage, step)
        write_whole(folder / MARKER, json.dumps({"step": step, "files": _sizes(folder), "state": dict(state)}))

    def state(self, stage: str, step: int) -> dict[str, Any] | None:
        """What was kept with a complete checkpoint; None if it is not complete."""
        folder = self.folder(stage, step)
        try:
            marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            whole = marker["files"] == _sizes(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(marker["state"]) if whole else None

    def steps(self, stage: str) -> list[int]:
        """Steps at which a policy has a complete checkpoint, in order."""
        found = [match for path in self.run.glob(f"{stage}/*") if (match := _NAME.fullmatch(path.name))]
        return sorted(step for one in found if self.state(stage, step := int(one[1])) is not None)

    def common(self) -> list[int]:
        """Steps at which both policies have one, in order."""
        return sorted(set.intersection(*(set(self.steps(stage)) for stage in STAGES)))

    def last_common(self) -> int | None:
        """The step to resume from; None where the run was killed before both policies had their first.

        Raises:
            TrainingError: a policy's checkpoints are gone; says what is there.
        """
        if common := self.common():
            return common[-1]
        # The generator saves first, so this is all that a kill leaves.
        if not self.steps("reasoner") and len(self.steps("generator")) <= 1:
            return None
        there = ", ".join(f"{stage} has {self.steps(stage) or 'none'}" for stage in STAGES)
        raise TrainingError(
            f"{self.run} has no checkpoint of both policies at one step to resume from ({there}); start the run anew, "
            "or put the missing policy's folder back"
        )

    def forget_after(self, step: int | None) -> None:
        """Remove what is later, or not complete: the run goes on in another way from there."""
        for stage in STAGES:
            for path in self.run.glob(f"{stage}/checkpoint-*"):
                match = _NAME.fullmatch(path.name)
                if match and (step is None or int(match[1]) > step or self.state(stage, int(match[1])) is None):
                    shutil.rmtree(path, ignore_errors=True)


def refuse_changes(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue], *, run: Path) -> None:
    """Refuse to resume with another configuration; length, saving, logging and guards may change.

    Raises:
        TrainingError: it differs in anything else; says in what.
    """
    changed = [one for one in differences(old, new) if not _may_change(one.partition(":")[0])]
    if changed:
        raise TrainingError(
            f"{run} was started with another configuration, and a resumed run must be the same: {'; '.join(changed)}; "
            "change it back, or start a run in another folder"
        )


def _may_change(place: str) -> bool:
    return place in _MAY_CHANGE or place.startswith(_MAY_CHANGE_SECTIONS)


def _sizes(folder: Path) -> dict[str, int]:
    files: Sequence[Path] = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
