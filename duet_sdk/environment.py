"""The package's one reader of its own environment variables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

PREFIX = "DUET_"


def variable(name: str) -> str | None:
    """The value of an environment variable, None if it is not set or empty."""
    return os.environ.get(name) or None


def own_variables() -> Sequence[str]:
    """The names of all variables that are set and begin with ``DUET_``."""
    return [name for name in os.environ if name.startswith(PREFIX)]


def default_cache_dir() -> Path:
    """DUET's cache folder: ``DUET_CACHE_DIR``, else ``duet`` in ``XDG_CACHE_HOME``, else ``~/.cache/duet``."""
    if own := variable("DUET_CACHE_DIR"):
        return Path(own).expanduser()
    base = Path(variable("XDG_CACHE_HOME") or "")
    # The specification says to ignore a relative path there (XDG Base Directory Specification).
    return (base if base.is_absolute() else Path.home() / ".cache") / "duet"
