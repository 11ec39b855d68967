"""Libraries' progress bars and warnings that no user can act on, kept off the screen."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from duet_sdk.models.sources import no_bars

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for files of a second, and no word of names that TRL uses and transformers 6 will drop."""
    with no_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
        yield
