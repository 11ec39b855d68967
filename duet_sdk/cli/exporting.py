"""Traces and metrics of a command, sent to a collector while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from duet_sdk.cli.terminal import Screen
from duet_sdk.telemetry import configure


@contextmanager
def exporting(url: str | None) -> Iterator[None]:
    """Export traces and metrics to that collector, where there is one, and say what did not reach it.

    Raises:
        ConfigError: it is no address of a collector.
        MissingExtra: the extra ``otel`` is not installed.
    """
    if url is None:
        yield
        return
    export = configure(url)
    try:
        yield
    finally:
        export.shutdown()
        if lost := export.spans.undelivered:
            Screen(stderr=True).print(
                f"{lost} spans did not reach {url}; is a collector running there?", style="yellow"
            )
