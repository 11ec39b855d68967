"""The files of a run: what was measured, sampled and decided, one JSON object a line."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

METRICS, DECISIONS, SAMPLES = "metrics.jsonl", "decisions.jsonl", "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes a run's files; silent on all processes but the first."""

    folder: Path
    writes: bool = True
    tell: Callable[[Mapping[str, JsonValue]], None] | None = None
    """Told each row of measures and decisions as it is written."""

    def metrics(self, row: Mapping[str, JsonValue]) -> None:
        """A round's measures, or a validation's."""
        self._append(METRICS, {**row, "time_s": round(time.time(), 3)})

    def sample(self, row: Mapping[str, JsonValue]) -> None:
        """A question with its signal and an answer."""
        self._append(SAMPLES, row)

    def decision(self, kind: str, what: str, **facts: JsonValue) -> None:
        """Something that the trainer decided or noticed, and why."""
        self._append(DECISIONS, {"kind": kind, "what": what, **facts, "time_s": round(time.time(), 3)})

    def count(self, kind: str) -> int:
        """Decisions of a kind so far, those before a resumption included."""
        return sum(row.get("kind") == kind for row in read_lines(self.folder / DECISIONS))

    def forget_after(self, round_number: int) -> None:
        """Drop measures and samples of later rounds, which a resumed run makes again. Decisions stay."""
        for name in (METRICS, SAMPLES):
            self._keep(name, lambda row: _round(row) <= round_number)

    def forget_validation(self, round_number: int) -> None:
        """Drop a round's validation, which a run that is resumed at its end makes again."""
        self._keep(METRICS, lambda row: _round(row) != round_number or row.get("phase") != "validation")
        self._keep(SAMPLES, lambda row: _round(row) != round_number)

    def _keep(self, name: str, wanted: Callable[[Mapping[str, JsonValue]], bool]) -> None:
        if self.writes:
            kept = [row for row in read_lines(self.folder / name) if wanted(row)]
            write_whole(self.folder / name, "".join(_line(row) for row in kept))

    def _append(self, name: str, row: Mapping[str, JsonValue]) -> None:
        if self.writes:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(_line(row))
            if self.tell is not None and name != SAMPLES:
                self.tell(row)


def read_lines(file: Path) -> list[dict[str, JsonValue]]:
    """The objects in a file of lines; a line that a killed process left incomplete is skipped."""
    if not file.is_file():
        return []
    found = []
    # Not `splitlines`: signs that it takes for the end of a line, such as U+2028, stand as they are in a text of JSON.
    for line in file.read_text(encoding="utf-8").split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in found if isinstance(row, dict)]


def write_whole(file: Path, text: str) -> None:
    """Write a file so that it is complete, or as it was before."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def _round(row: Mapping[str, JsonValue]) -> int:
    number = row.get("round", 0)
    return number if isinstance(number, int) else 0


def _line(row: Mapping[str, JsonValue]) -> str:
    # JSON has no infinities, and a reader should not fail on one.
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return json.dumps(clean, ensure_ascii=False) + "\n"
