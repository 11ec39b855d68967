"""Prometheus' text form (version 0.0.4): counters, gauges and histograms → lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

Counted: TypeAlias = "tuple[str | tuple[str, ...], int | Decimal]"
"""Values of labels, and what was counted under them."""


class Histogram:
    """Counts values by upper bounds.

    Args:
        bounds: ascending; what is above the last is counted, too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """One more."""
        place = next((at for at, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[place] += 1
        self.total += value


class Lines:
    """Collects the lines of a page.

    Args:
        prefix: of every name.
        labels: of every sample.
    """

    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._labels = labels
        self._lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def gauge(self, name: str, about: str, value: float) -> None:
        """A number that goes up and down."""
        self._head(name, about, "gauge")
        self._sample(name, {}, value)

    def counter(self, name: str, about: str, labels: Sequence[str], values: Iterable[Counted]) -> None:
        """Numbers that only go up.

        Args:
            name: ends with ``_total``.
            about: what is counted.
            labels: names of the labels, in the order of the keys.
            values: each with the labels' values; a plain text where there is one label.
        """
        self._head(name, about, "counter")
        for key, value in sorted(values, key=str):
            told = (key,) if isinstance(key, str) else key
            self._sample(name, dict(zip(labels, told, strict=True)), value)

    def histogram(self, name: str, about: str, histogram: Histogram) -> None:
        """How many were at most each bound, their number and their sum."""
        self._head(name, about, "histogram")
        below = 0
        for bound, count in zip((*map("{:g}".format, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            self._sample(f"{name}_bucket", {"le": bound}, below)
        self._sample(f"{name}_sum", {}, f"{histogram.total:.6f}")
        self._sample(f"{name}_count", {}, below)

    def _head(self, name: str, about: str, kind: str) -> None:
        self._lines += [f"# HELP {self._prefix}{name} {about}", f"# TYPE {self._prefix}{name} {kind}"]

    def _sample(self, name: str, labels: Mapping[str, str], value: float | Decimal | str) -> None:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in {**self._labels, **labels}.items())
        shown = format(value, "f") if isinstance(value, Decimal) else str(value)
        self._lines.append(f"{self._prefix}{name}{{{told}}} {shown}" if told else f"{self._prefix}{name} {shown}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def merged(pages: Sequence[str]) -> str:
    """Pages of the same program as one, the lines of each name together, as the form wants them."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for page in pages:
        name = ""
        for line in page.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
            if line.startswith("#"):
                known = heads.setdefault(name, [])
                if line not in known:
                    known.append(line)
            else:
                samples.setdefault(name, []).append(line)
    lines = [line for name, head in heads.items() for line in (*head, *samples.get(name, ()))]
    return "\n".join(lines) + "\n"
