"""What a pair is, in some ten lines for a person; `--json` has the whole manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from duet_sdk.cli.terminal import in_a_line

if TYPE_CHECKING:
    from pydantic import JsonValue

    from duet_sdk.pair import Manifest, Pair
    from duet_sdk.pair.manifest import ModelEntry


def facts_table(pair: Pair) -> Table:
    """A line for each fact that the manifest has; long ones go on in the next line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, fact in _facts(pair.manifest):
        table.add_row(name, in_a_line(fact))
    return table


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for stage, entry in manifest.stages.items():
        yield stage, _model(entry)
    yield "handoff", f"{manifest.handoff}, {'trained together' if manifest.trained else 'not trained together'}"
    limits = manifest.limits.model_dump(exclude_none=True)
    yield "limits", ", ".join(f"{name.replace('_', ' ')} {most}" for name, most in limits.items()) or "the client's"
    kept = {"tasks": manifest.tasks, "language": manifest.language, "measured": _measured(manifest.metrics)}
    for name, value in kept.items():
        if value:
            yield name, _text(value)
    yield "licences", _text(manifest.licences) if manifest.licences else "not stated"
    if manifest.tools is not None:
        yield "tools", "trained with tools" if manifest.tools else "trained without tools"
    yield "files", _files(manifest)


def _model(entry: ModelEntry) -> str:
    words = [entry.model or f"folder {entry.folder}"]
    if entry.revision:
        words.append(f"at {entry.revision}")
    if entry.adapter:
        words.append(f"with the adapter {entry.adapter}")
    if entry.base:
        words.append(f"from {entry.base}")
    return " ".join(words)


def _measured(metrics: JsonValue) -> str:
    if not isinstance(metrics, Mapping) or not {"guided", "alone"} <= metrics.keys():
        return ""
    on = f" on {metrics['questions']} questions" if "questions" in metrics else ""
    return f"guided {metrics['guided']}, alone {metrics['alone']}{on}"


def _text(value: JsonValue) -> str:
    """A kept value in words; these may hold anything."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return str(value)


def _files(manifest: Manifest) -> str:
    if not manifest.files:
        return "pair.json alone"
    size = sum(file.size for file in manifest.files.values())
    return f"{len(manifest.files)}, {size / 1e6:.1f} MB, all as the manifest says"
