"""Line charts as SVG text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 8, 24
_MOST_POINTS = 500
"""Points of a line, about one a pixel; longer lines are drawn as the mean of each stretch."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    name: str
    points: Points
    """Round and value, by round."""
    dotted: bool = False
    """Drawn with a dot for each point: for few points far apart."""


def line_chart(title: str, lines: Sequence[Curve], *, lowest: float | None = None, highest: float | None = None) -> str:
    """An SVG element with the lines, their names and both axes.

    >>> line_chart("tokens", [Curve("mean", [(0, 41.0), (80, 11.0)])]).count("<polyline")
    1

    Args:
        title: read out by screen readers.
        lines: at least one with a point.
        lowest: where the vertical axis begins at least.
        highest: where it ends at least.
    """
    values = [value for line in lines for _, value in line.points]
    rounds = [at for line in lines for at, _ in line.points]
    low, high = _axis([*values, *(bound for bound in (lowest, highest) if bound is not None)])
    first, last = min(rounds), max(*rounds, min(rounds) + 1)

    def place(at: float, value: float) -> tuple[float, float]:
        x = _LEFT + (at - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)
        y = _TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    ticks = [low + (high - low) * share / 4 for share in range(5)]
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3}" text-anchor="end">{number(tick)}</text>')
    for at, anchor in ((first, "start"), (last, "end")):
        x = place(at, low)[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{number(at)}</text>')
    for colour, line in enumerate(lines):
        placed = [place(*point) for point in thinned(line.points)]
        if len(placed) > 1:
            path = " ".join(f"{x},{y}" for x, y in placed)
            parts.append(f'<polyline class="line c{colour}" points="{path}"/>')
        if line.dotted or len(placed) == 1:
            for (x, y), (at, value) in zip(placed, thinned(line.points), strict=True):
                told = escape(f"{line.name}, round {number(at)}: {number(value)}")
                parts.append(f'<circle class="dot c{colour}" cx="{x}" cy="{y}" r="3"><title>{told}</title></circle>')
    return "".join([*parts, "</svg>"])


def legend(lines: Sequence[Curve]) -> str:
    """The lines' names with their colours and last values."""
    entries = [
        f'<li><span class="key c{colour}"></span>{escape(line.name)} <b>{number(line.points[-1][1])}</b></li>'
        for colour, line in enumerate(lines)
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def thinned(points: Points) -> Points:
    """The points, or the means of equal stretches where there are too many.

    >>> len(thinned([(at, 1.0) for at in range(10_000)]))
    500
    """
    if len(points) <= _MOST_POINTS:
        return points
    edges = [len(points) * part // _MOST_POINTS for part in range(_MOST_POINTS + 1)]
    stretches = [points[start:end] for start, end in itertools.pairwise(edges)]
    return [tuple(sum(column) / len(stretch) for column in zip(*stretch, strict=True)) for stretch in stretches]


def number(value: float) -> str:
    """A number in few characters.

    >>> [number(value) for value in (0, 0.12345, 41.04, 8192.0, 1e-7)]
    ['0', '0.123', '41', '8192', '1e-07']
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Round ends of an axis that holds all values."""
    low, high = min(values), max(values)
    if high == low:
        return low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = 10 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
