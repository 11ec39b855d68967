"""The model card of a trained pair, in the hub's form: facts for machines between dashes, then text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from duet_sdk.pair.manifest import Manifest, ModelEntry

CARD = "README.md"
MARK = "<!-- Written by duet-sdk from pair.json. Remove this line to keep your own text when the pair is replaced. -->"

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def render_card(manifest: Manifest) -> str:
    """The card's text.

    >>> from duet_sdk.pair.manifest import Manifest, ModelEntry
    >>> both = ModelEntry(model="transformers/owner/model")
    >>> render_card(Manifest(reasoner=both, generator=both, trained=True)).splitlines()[:3]
    ['---', 'library_name: "duet-sdk"', 'pipeline_tag: "text-generation"']
    """
    # JSON is YAML, and quoted: no value of the manifest can end the block or add a key.
    head = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in _metadata(manifest).items())
    return f"---\n{head}\n---\n\n{MARK}\n\n" + "\n".join(_text(manifest)) + "\n"


def is_own_card(file: Path) -> bool:
    """Whether a card was written by us and not claimed by somebody since."""
    try:
        return MARK in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _metadata(manifest: Manifest) -> dict[str, JsonValue]:
    facts: dict[str, JsonValue] = {"library_name": "duet-sdk", "pipeline_tag": "text-generation"}
    bases: list[JsonValue] = [name for name in dict.fromkeys(map(_base, manifest.stages.values())) if name]
    if bases:
        facts["base_model"] = bases
    licences = manifest.licences if isinstance(manifest.licences, dict) else {}
    named = {str(value).lower() for key, value in licences.items() if key in manifest.stages}
    if len(named) == 1:
        facts["license"] = named.pop()
    elif named:
        facts |= {"license": "other", "license_name": "several", "license_link": "pair.json"}
    if isinstance(manifest.language, str):
        facts["language"] = [manifest.language]
    data = manifest.data if isinstance(manifest.data, dict) else {}
    if sets := _hub_sets(data.get("datasets")):
        facts["datasets"] = sets
    facts["tags"] = ["duet", "reasoning", "trl", "grpo"]
    if results := _results(manifest):
        facts["model-index"] = [{"name": "pair", "results": results}]
    return facts


def _hub_sets(value: JsonValue) -> list[JsonValue]:
    """The names of data sets in what a manifest holds, which anybody may have written."""
    named = value if isinstance(value, list) else []
    return [name for name in named if isinstance(name, str) and _HUB_NAME.fullmatch(name)]


def _results(manifest: Manifest) -> list[JsonValue]:
    metrics = manifest.metrics if isinstance(manifest.metrics, dict) else {}
    known = {"guided": "accuracy with a signal", "alone": "accuracy without", "tokens_mean": "signal tokens, mean"}
    values: list[JsonValue] = [
        {"type": key, "name": name, "value": value}
        for key, name in known.items()
        if isinstance(value := metrics.get(key), int | float) and not isinstance(value, bool)
    ]
    if not values:
        return []
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": "validation of the run", "type": "validation"},
            "metrics": values,
        }
    ]


def _text(manifest: Manifest) -> Iterator[str]:
    training = manifest.training if isinstance(manifest.training, dict) else {}
    yield "# A pair for DUET"
    yield ""
    if training.get("toy") is True:
        yield "**A toy**: it shows that training works, and answers nothing but its own kind of question."
        yield ""
    yield (
        "Two models that were trained together. The reasoner reads a question and writes a short signal; the generator "
        "reads question and signal and writes the answer. Use them together, by the Python SDK of DUET, `duet-sdk`:"
    )
    yield "\n```python\nfrom duet_sdk import DuetClient\n"
    yield 'with DuetClient.from_pair("FOLDER OR HUB NAME") as duet:\n    print(duet.chat("…").text)\n```\n'
    if manifest.adapters:
        yield "The models are LoRA adapters; `duet pair merge` merges them into their bases.\n"
    yield "| | reasoner | generator |\n| --- | --- | --- |"
    yield f"| trained from | {' | '.join(_code(_base(entry)) for entry in manifest.stages.values())} |"
    revisions = [_code(entry.revision or entry.base_revision) for entry in manifest.stages.values()]
    yield f"| revision | {' | '.join(revisions)} |"
    yield ""
    limits = manifest.limits
    yield f"- Handoff: `{manifest.handoff}`. Signal limit: {limits.signal_tokens or 'none'} tokens."
    yield f"- Tasks: {_code(manifest.tasks)}. Language: {_code(manifest.language)}."
    yield f"- Trained with tools: {'yes' if manifest.tools else 'no; with tools, expect worse answers'}."
    yield f"- Licences: {_code(manifest.licences)}."
    for title, values in (("Measured on validation", manifest.metrics), ("Data", manifest.data)):
        if isinstance(values, dict) and values:
            yield f"\n## {title}\n"
            yield from _table(values)
    yield "\n## Limits\n"
    yield (
        "What was measured holds for questions like those of the validation. Safety, bias and other tasks were not "
        "evaluated. The signal is text of a model that the other one trusts: who can write into the question can try "
        "to steer both. The run's full configuration is in `pair.json`."
    )


def _table(values: Mapping[str, JsonValue]) -> Iterator[str]:
    yield "| | |\n| --- | --- |"
    for key, value in values.items():
        if value is not None and not isinstance(value, list | dict):
            shown = f"{value:.4g}" if isinstance(value, float) else value
            yield f"| {_code(key)} | {_code(shown)} |"


def _base(entry: ModelEntry) -> str | None:
    name = entry.base or (entry.model or "").removeprefix("transformers/")
    return name if _HUB_NAME.fullmatch(name) else None


def _code(value: JsonValue) -> str:
    """A value as code, in which nothing is markup; its own backticks and line breaks cannot end it."""
    if value in (None, "", [], {}):
        return "not stated"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{' '.join(text.replace('`', chr(39)).replace('|', '/').split())}`"
