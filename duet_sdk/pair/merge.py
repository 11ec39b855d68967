"""From a pair of adapters to a pair of merged models, which transformers and vLLM load like any other."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet_sdk import models
from duet_sdk.errors import MissingExtra, PairError
from duet_sdk.models.folder import WANTED
from duet_sdk.models.sources import local_library, no_bars
from duet_sdk.pair.folder import refuse_target, write
from duet_sdk.pair.manifest import Manifest, ModelEntry
from duet_sdk.pair.pair import Pair

if TYPE_CHECKING:
    from duet_sdk.types import Stage

_NOT_WEIGHTS = tuple(pattern for pattern in WANTED if pattern != "*.safetensors")


def merge_adapters(pair: Pair, target: str | Path) -> Pair:
    """Write a pair whose adapters are merged into copies of their base models; the rest stays as it is.

    It is done in float32 on the CPU and saved as bfloat16, as adapters are trained on bases of that type; bases held in
    float32 are saved as such.

    Raises:
        PairError: the pair has no adapter, is not on disk, an adapter does not fit its base, or the merged pair cannot
            be written.
        ModelNotFound: a base is missing or incomplete.
        ConnectFailed: a base has to be downloaded and the hub does not answer.
        MissingExtra: torch, transformers or peft is not installed.
    """
    stages = [stage for stage, entry in pair.manifest.stages.items() if entry.adapter is not None]
    if not stages:
        raise PairError("this pair has no adapters: there is nothing to merge")
    folder = Path(target).expanduser().resolve()
    refuse_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Where the pair goes: the system's place for such files is often small, or memory.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.merge-", dir=folder.parent) as place:
            manifest = _write_merged(pair, stages, folder, Path(place))
    except OSError as err:
        raise PairError(f"cannot write the merged pair to {folder}: {err}") from err
    return dataclasses.replace(pair, manifest=manifest, folder=folder)


def _write_merged(pair: Pair, stages: list[Stage], folder: Path, place: Path) -> Manifest:
    """Merge these stages' models in ``place`` and write the pair; returns its manifest."""
    sources: dict[Stage, Path] = {}
    entries: dict[str, ModelEntry] = {}
    for stage, entry in pair.manifest.stages.items():
        if stage in stages:
            sources[stage] = place / stage
            _merge(_base(pair, stage), _adapter(pair, stage), sources[stage])
            entries[stage] = _merged_entry(entry, stage)
        elif (bundled := pair.model_folder(stage)) is not None:
            sources[stage] = bundled
    return write(folder, pair.manifest.model_copy(update=entries), sources)


def _merged_entry(entry: ModelEntry, stage: str) -> ModelEntry:
    base = entry.base or (entry.model or "").removeprefix("transformers/") or None
    return entry.model_copy(
        update={
            "adapter": None,
            "model": None,
            "folder": stage,
            "revision": None,
            "base": base,
            "base_revision": entry.base_revision or entry.revision,
        }
    )


def _base(pair: Pair, stage: Stage) -> Path:
    """The folder of the model that an adapter belongs to; a hub model is fetched into the cache."""
    bundled, entry = pair.model_folder(stage), pair.manifest.stages[stage]
    if bundled is not None:
        return bundled
    name = str(entry.model)
    if not name.startswith("transformers/"):
        raise PairError(
            f"the {stage}'s base is {name}, which is not a model on this machine; name it as transformers/…"
        )
    folder = models.locate(name.removeprefix("transformers/"), revision=entry.revision)
    models.check_folder(folder)
    return folder


def _adapter(pair: Pair, stage: Stage) -> Path:
    folder = pair.adapter_folder(stage)
    if folder is None:
        raise PairError(f"the {stage} has no adapter")
    return folder


def _save(model: Any, target: Path) -> None:
    """Write a model; safetensors does not report a full disk as an OSError.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        model.save_pretrained(target)
    except SafetensorError as err:
        raise OSError(str(err)) from err


def _merge(base: Path, adapter: Path, target: Path) -> None:
    torch, transformers = (local_library(name) for name in ("torch", "transformers"))
    try:
        import peft
    except ImportError as err:
        raise MissingExtra("merging adapters", extra="train") from err
    with no_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        held = model.dtype
        try:
            # Not in the base's bfloat16: what is added would be rounded to its eight bits before it is summed.
            tuned = peft.PeftModel.from_pretrained(model.to(torch.float32), adapter, autocast_adapter_dtype=False)
            merged = tuned.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, KeyError) as err:
            raise PairError(
                f"the adapter in {adapter} does not fit its base {base} ({type(err).__name__}); use the revision that "
                "it was trained on"
            ) from err
        _save(merged.to(held), target)
    for pattern in _NOT_WEIGHTS:
        for source in (base, adapter):  # what training saved with the adapter takes precedence over the base's
            for file in source.glob(pattern):
                if file.name not in ("config.json", "adapter_config.json", "duet.json", "model.safetensors.index.json"):
                    shutil.copyfile(file, target / file.name)
