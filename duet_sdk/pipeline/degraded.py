"""What was asked for by name and cannot be had: said once for each client and cause."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from duet_sdk.errors import DegradedWarning

if TYPE_CHECKING:
    from collections.abc import Hashable

_OURS = __name__.partition(".")[0]


class Degraded:
    """Warns of a client's degraded features, each once, at the line that made the client."""

    __slots__ = ("_place", "_told")

    def __init__(self) -> None:
        self._place = _caller()
        self._told: set[Hashable] = set()

    def tell(self, cause: Hashable, message: str) -> None:
        """Warn, unless that was done before for the same cause.

        Raises:
            DegradedWarning: where the caller's filters make it an error; every time then.
        """
        if cause in self._told:
            return
        file, line, module = self._place
        # A registry of its own: each client warns of the same cause once.
        warnings.warn_explicit(message, DegradedWarning, file, line, module, registry={})
        self._told.add(cause)


def _caller() -> tuple[str, int, str]:
    """File, line and module outside of this package; a request has tasks of its own, where these are not to be seen."""
    frame = sys._getframe(1)  # noqa: SLF001  # as `warnings` does with its stack level
    while frame.f_back is not None and _module(frame.f_globals).partition(".")[0] == _OURS:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, _module(frame.f_globals)


def _module(names: dict[str, object]) -> str:
    return str(names.get("__name__", "<unknown>"))
