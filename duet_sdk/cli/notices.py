"""Warnings and log messages from warnings up: one plain line on standard error each."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from typing_extensions import override

from duet_sdk.cli.terminal import in_a_line

_TOLD_OTHERWISE: Final = ("duet_sdk.pipeline.", "duet_sdk.backends.", "opentelemetry.")
"""What these log of a request is told by its events, its reply, or a warning; a collector's absence by `exporting`."""


@contextmanager
def notices() -> Iterator[None]:
    """Show warnings and log messages without the place in the program, which nobody who types commands knows."""
    handler = _Notices(logging.WARNING)
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            yield
    finally:
        logging.root.removeHandler(handler)


class _Notices(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(_TOLD_OTHERWISE):
            _say(record.getMessage())


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say(str(message))


def _say(text: str) -> None:
    # By the stream of the moment: a spinner that is shown moves down for it.
    sys.stderr.write(f"warning: {in_a_line(text)}\n")
