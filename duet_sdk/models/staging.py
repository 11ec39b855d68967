"""Folders that appear complete or not at all: filled in a staging folder under a lock, and renamed when complete.

A reader never sees half a folder, and a second process waits for the first instead of doing the work again.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from duet_sdk.errors import ConfigError
from duet_sdk.models.sources import Progress, local_library, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def build(
    folder: Path, *, is_intact: Callable[[], bool], fill: Callable[[Path], None], tell: Progress = silent
) -> None:
    """Leave ``folder`` as it is when intact, else replace it by one that ``fill`` fills.

    Raises:
        ConfigError: the cache cannot be written.
        MissingExtra: filelock is not installed, and the folder is not intact.
    """
    if is_intact():
        return
    with locked(folder, tell) as staging:
        # Another process may have done it while this one waited.
        if is_intact():
            return
        fresh = staging / "fresh"
        fresh.mkdir()
        fill(fresh)
        swap(fresh, folder, staging / "replaced")


def swap(fresh: Path, target: Path, replaced: Path) -> None:
    """Put ``fresh`` in place of ``target``, which goes to ``replaced``, and comes back if that fails."""
    if not target.exists():
        fresh.replace(target)
        return
    target.replace(replaced)
    try:
        fresh.replace(target)
    except BaseException:
        replaced.replace(target)
        raise


@contextmanager
def locked(folder: Path, tell: Progress = silent) -> Iterator[Path]:
    """Hold the lock of one folder of the cache and give an empty staging folder, which is deleted afterwards.

    All staging for a folder happens under its lock, so what a killed process left there is dead and swept.

    Raises:
        ConfigError: the cache cannot be written.
        MissingExtra: filelock is not installed.
    """
    filelock = local_library("filelock")
    staging = folder.parent / ".staging" / folder.name
    lock = filelock.FileLock(folder.parent / ".locks" / f"{folder.name}.lock")
    try:
        (folder.parent / ".locks").mkdir(parents=True, exist_ok=True)
        staging.parent.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            tell(f"waiting for another process to prepare {folder.name}", 0.0)
            lock.acquire()
    except OSError as err:
        raise ConfigError(f"cannot write to the cache {folder.parent}: {err}; set DUET_CACHE_DIR") from err
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.release()
