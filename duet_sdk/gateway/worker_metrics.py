"""Metrics of several workers: each writes its own into a folder that they share, and shows those of all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from duet_sdk.gateway.exposition import merged

if TYPE_CHECKING:
    from duet_sdk.gateway.metrics import Metrics

EVERY_S: Final = 1.0
"""Seconds after which others see what a worker counted: less than anybody scrapes."""


class WorkerMetrics:
    """The counts of one worker, shown together with the others'; each line says which worker it is of.

    Args:
        folder: of all workers, and of nothing else.
        worker: its number, which the process that takes its place gets, too.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker

    def own(self, metrics: Metrics) -> str:
        """The lines of this worker."""
        return metrics.text({"worker": str(self._worker)})

    def write(self, metrics: Metrics) -> None:
        """Let the others see them; a reader gets all of it or what was before."""
        new = self._folder / f"{self._worker}.new"
        new.write_text(self.own(metrics), "utf-8")
        new.replace(self._folder / f"{self._worker}.prom")

    def all(self, metrics: Metrics) -> str:
        """The lines of all workers: this one's now, the others' as of a second ago."""
        pages = {f"{self._worker}.prom": self.own(metrics)}
        for file in self._folder.glob("*.prom"):
            if file.name not in pages:
                with contextlib.suppress(OSError):
                    pages[file.name] = file.read_text("utf-8")
        return merged([pages[name] for name in sorted(pages)])
