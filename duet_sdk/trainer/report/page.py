"""The page: figures, charts, decisions, samples and the configuration of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.report.chart import Curve, legend, line_chart, number
from duet_sdk.trainer.report.read import Record, RunFiles, points, read_run
from duet_sdk.trainer.report.style import STYLE

PAGE = "report.html"
SAMPLES_SHOWN = 40
"""Samples on the page, the latest: as many as a reader looks through. All are in the run's ``samples.jsonl``."""
TEXT_SHOWN = 4000
"""Characters shown of a question, signal or answer: one of 8,192 tokens would bury the others."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart and the measures in it."""

    title: str
    lines: tuple[tuple[str, str, str], ...]
    """Name, phase (``train`` or ``validation``), and key of each."""
    lowest: float | None = None
    highest: float | None = None


PANELS = (
    Panel(
        "Accuracy",
        (
            ("with signal", "train", "guided"),
            ("without", "train", "alone"),
            ("with signal, validation", "validation", "guided"),
            ("without, validation", "validation", "alone"),
        ),
        0.0,
        1.0,
    ),
    Panel(
        "Signal tokens",
        (
            ("mean", "train", "tokens_mean"),
            ("median", "train", "tokens_p50"),
            ("95th percentile", "train", "tokens_p95"),
            ("mean, validation", "validation", "tokens_mean"),
        ),
        0.0,
    ),
    Panel("Utility", (("train", "train", "utility"), ("validation", "validation", "utility")), 0.0),
    Panel("Reward", (("mean", "train", "reward"),)),
    Panel("Weight of length", (("lambda", "train", "lam"), ("alpha", "train", "alpha")), 0.0),
    Panel("Groups without variance", (("share", "train", "zero_variance"),), 0.0, 1.0),
    Panel(
        "Signals that are empty, cut, or hold the answer",
        (
            ("empty", "train", "empty"),
            ("cut at the limit", "train", "cut"),
            ("holds the answer", "train", "leak_rate"),
        ),
        0.0,
        1.0,
    ),
    Panel(
        "Answers that could not be read or graded",
        (("no answer found", "validation", "unread"), ("the grader failed", "validation", "faults")),
        0.0,
        1.0,
    ),
    Panel("Entropy of the reasoner", (("nats a token", "train", "entropy"),), 0.0),
    Panel("KL of the reasoner to its start", (("KL", "train", "kl"),), 0.0),
    Panel("Loss", (("reasoner", "train", "loss_reasoner"), ("generator", "train", "loss_generator"))),
)


def write_report(folder: Path, target: Path | None = None) -> Path:
    """Write the page of a run; return its path, ``report.html`` in the run's folder by default.

    Raises:
        TrainingError: there is no run, it has no measures yet, or the page cannot be written.
    """
    place = target or folder / PAGE
    page = render_report(folder)
    try:
        place.write_text(page, encoding="utf-8")
    except OSError as err:
        raise TrainingError(f"the report cannot be written to {place}: {err.strerror or err}") from err
    return place


def render_report(folder: Path) -> str:
    """The page of a run as HTML; texts of models and data are escaped, nothing in it runs or is fetched.

    Raises:
        TrainingError: there is no run, or it has no measures yet.
    """
    run = read_run(folder)
    body = "".join([*_head(run), *_charts(run), *_decisions(run), *_samples(run), *_config(run)])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _head(run: RunFiles) -> Iterator[str]:
    yield f"<h1>{escape(run.name)}</h1>"
    measured, phase = (run.validation, "validation") if len(run.validation) > 1 else (run.train, "training")
    rows = []
    for name, key in (
        ("signal tokens, mean", "tokens_mean"),
        ("accuracy with signal", "guided"),
        ("accuracy without", "alone"),
        ("utility", "utility"),
    ):
        curve = points(measured, key)
        if curve:
            rows.append(f"<tr><th>{name}</th>{_change(curve[0][1], curve[-1][1], relative=key == 'tokens_mean')}</tr>")
    rounds = max((at for at, _ in points(run.train, "round")), default=0.0)
    yield f"<p>{number(rounds)} rounds. First and last {phase}:</p>"
    yield f"<table><tr><th></th><th>first</th><th>last</th><th>change</th></tr>{''.join(rows)}</table>"


def _change(first: float, last: float, *, relative: bool) -> str:
    change = (f"{(last - first) / first:+.1%}" if first else "") if relative else f"{last - first:+.3f}"
    return f"<td>{number(first)}</td><td>{number(last)}</td><td>{change}</td>"


def _charts(run: RunFiles) -> Iterator[str]:
    yield '<div class="charts">'
    for panel in PANELS:
        lines = []
        for name, phase, key in panel.lines:
            curve = points(run.validation if phase == "validation" else run.train, key)
            if curve:
                lines.append(Curve(name, curve, dotted=phase == "validation"))
        if lines:
            chart = line_chart(panel.title, lines, lowest=panel.lowest, highest=panel.highest)
            yield f"<figure><figcaption>{escape(panel.title)}</figcaption>{chart}{legend(lines)}</figure>"
    yield "</div>"


def _decisions(run: RunFiles) -> Iterator[str]:
    yield "<h2>Decisions</h2>"
    if not run.decisions:
        yield "<p>None: nothing was noticed.</p>"
        return
    rows = "".join(f"<tr>{_cells(row, ('round', 'kind', 'what'))}</tr>" for row in run.decisions)
    yield f"<table><tr><th>round</th><th>kind</th><th>what</th></tr>{rows}</table>"


def _samples(run: RunFiles) -> Iterator[str]:
    if not run.samples:
        return
    shown = run.samples[-SAMPLES_SHOWN:]
    yield f"<h2>Samples</h2><p>The latest {len(shown)} of {len(run.samples)}.</p>"
    keys = ("round", "question", "signal", "tokens", "answer", "alone", "right", "grade")
    heads = "".join(f"<th>{key}</th>" for key in keys)
    rows = "".join(f"<tr>{_cells(row, keys)}</tr>" for row in reversed(shown))
    yield f'<div class="wide"><table class="samples"><tr>{heads}</tr>{rows}</table></div>'


def _config(run: RunFiles) -> Iterator[str]:
    if run.config is not None:
        text = escape(json.dumps(run.config, ensure_ascii=False, indent=2))
        yield f"<details><summary>Configuration</summary><pre>{text}</pre></details>"


def _cells(row: Record, keys: Sequence[str]) -> str:
    return "".join(f"<td>{_cell(row.get(key))}</td>" for key in keys)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool() | int() | float():
            return escape(str(value) if isinstance(value, bool) else number(value))
        case str():
            text = value
        case _:
            text = json.dumps(value, ensure_ascii=False)
    if len(text) > TEXT_SHOWN:
        text = f"{text[:TEXT_SHOWN]} … ({len(text) - TEXT_SHOWN} more characters)"
    return f"<span>{escape(text)}</span>"
