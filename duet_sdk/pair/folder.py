"""The folder of a pair: checked file by file, and written completely or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from duet_sdk.errors import BackendError, ConfigError, PairError
from duet_sdk.models import check_folder
from duet_sdk.models.folder import PICKLED, is_wanted, read_json, safetensors_flaw, sha256
from duet_sdk.models.staging import swap
from duet_sdk.pair.card import CARD, is_own_card, render_card
from duet_sdk.pair.manifest import MANIFEST, FileFacts, Manifest, ModelEntry, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from duet_sdk.types import Stage

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def open_folder(folder: Path) -> Manifest:
    """The manifest of the pair in a folder, after every file was compared with it.

    Raises:
        PairError: it is not a pair, or not what its manifest says.
    """
    manifest = read_manifest(folder)
    check(folder, manifest)
    return manifest


def check(folder: Path, manifest: Manifest) -> None:
    """Read every file of a pair and compare it with the manifest.

    Raises:
        PairError: a file is not as listed, or a model could not or must not be loaded.
    """
    try:
        _check_files(folder, manifest)
        for relative in manifest.folders:
            check_folder(folder / relative)
        for relative in manifest.adapters:
            check_adapter(folder / relative)
    except OSError as err:
        raise PairError(f"the pair in {folder} cannot be read: {err}") from err
    except (ConfigError, BackendError) as err:
        raise PairError(f"the pair in {folder} cannot be used: {err}") from err


def refuse_pickled(name: str | Path) -> None:
    """Refuse a file by its name.

    Raises:
        PairError: it may be pickled.
    """
    if Path(name).suffix.lower() in PICKLED:
        raise PairError(
            f"{name} may be pickled, which can run code when loaded: a pair may contain only safetensors; remove "
            "it, or convert it if you trust it"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def check_adapter(folder: Path) -> None:
    """Refuse an adapter that cannot or must not be loaded.

    Raises:
        PairError: its configuration or its weights are missing or cut short, or the weights are pickled.
    """
    for file in folder.iterdir() if folder.is_dir() else ():
        refuse_pickled(file)
    config = read_json(folder / ADAPTER_CONFIG)
    if config is None or config.get("peft_type") != "LORA":
        raise PairError(f"{folder} holds no readable {ADAPTER_CONFIG} of a LoRA adapter; save the adapter again")
    weights = folder / ADAPTER_WEIGHTS
    if (problem := safetensors_flaw(weights)) is not None:
        raise PairError(f"{weights} {problem}; save the adapter again")


def refuse_target(target: Path) -> None:
    """Refuse to replace anything but a pair and what belongs to it.

    Raises:
        PairError: a file is there, or a folder with files of something else.
    """
    if target.exists() and not target.is_dir():
        raise PairError(f"{target} is a file, so no pair can be saved there; choose another folder")
    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    if not found:
        return
    manifest = read_json(target / MANIFEST) or {}
    listed = manifest.get("files", {})
    if type(manifest.get("format")) is not int or not isinstance(listed, dict):
        raise PairError(f"{target} holds files but no pair, so it is not overwritten; choose another folder")
    for name in found:
        if name != MANIFEST and name not in listed and not (name == CARD and is_own_card(target / CARD)):
            raise PairError(
                f"{target} holds {name}, which does not belong to the pair there and would be lost; move it away, or "
                "choose another folder"
            )


def write(
    target: Path,
    manifest: Manifest,
    sources: Mapping[Stage, Path],
    adapters: Mapping[Stage, Path] | None = None,
) -> Manifest:
    """Write a pair to ``target``, with copies of the models in ``sources`` and of adapters; returns its new manifest.

    A trained pair gets a model card.

    Raises:
        PairError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, because a rename is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
            fresh = Path(staging, "fresh")
            fresh.mkdir()
            written = _fill(fresh, manifest, sources, adapters or {})
            swap(fresh, target, Path(staging, "replaced"))
    except OSError as err:
        raise PairError(f"cannot write the pair to {target}: {err}") from err
    return written


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Names and sizes first, as hashing takes long."""
    present = set(_present(folder))
    for name in sorted(present - set(manifest.files)):
        if any(name.startswith(f"{model}/") for model in (*manifest.folders, *manifest.adapters)):
            raise PairError(f"{folder / name} is not listed in {MANIFEST}; remove it, or save the pair again")
    for name, facts in manifest.files.items():
        if name not in present:
            raise PairError(f"{folder / name} is listed in {MANIFEST} but missing; copy the pair again")
        if (size := (folder / name).stat().st_size) != facts.size:
            raise PairError(f"{folder / name} has {size} bytes, but {MANIFEST} says {facts.size}; copy the pair again")
    for name, facts in manifest.files.items():
        if sha256(folder / name) != facts.sha256:
            raise PairError(
                f"the SHA-256 of {folder / name} differs from the one in {MANIFEST}: the file was changed or damaged; "
                "copy the pair again"
            )


def _present(folder: Path) -> Iterator[str]:
    """Every file of the pair but its manifest, relative to the folder; links and pickled files are refused."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PairError(f"{path} is a link, which could lead out of the pair; replace it with the file itself")
        if path.is_dir():
            continue
        if not path.is_file():
            raise PairError(f"{path} is neither a file nor a folder; remove it")
        refuse_pickled(path)
        if name != MANIFEST:
            yield name


def _fill(fresh: Path, manifest: Manifest, sources: Mapping[Stage, Path], adapters: Mapping[Stage, Path]) -> Manifest:
    """Copy models and adapters and write the manifest; one copy where both stages are one model."""
    places: dict[Path, str] = {}
    entries: dict[str, ModelEntry] = {}
    for stage, source in sources.items():
        real = source.resolve()
        if real not in places:
            places[real] = stage
            _copy_model(real, fresh / stage)
        entries[stage] = manifest.stages[stage].model_copy(update={"model": None, "folder": places[real]})
    for stage, source in adapters.items():
        entry = entries.get(stage, manifest.stages[stage])
        name = f"{stage}-adapter"
        _copy_model(source.resolve(), fresh / name)
        entries[stage] = entry.model_copy(update={"adapter": name})
    files = {
        name: FileFacts(sha256=sha256(fresh / name), size=(fresh / name).stat().st_size) for name in _present(fresh)
    }
    values = manifest.model_copy(update={**entries, "files": files}).model_dump(mode="json", exclude_none=True)
    (fresh / MANIFEST).write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if manifest.trained:
        # Not among the files with sums: people edit it.
        (fresh / CARD).write_text(render_card(read_manifest(fresh)), encoding="utf-8")
    # Read back, so that nothing is written that cannot be loaded.
    return read_manifest(fresh)


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        # The cache's own list of files would be wrong for a part of them.
        if is_wanted(file.name) and file.is_file() and not file.name.startswith(".") and file.name != "duet.json":
            shutil.copyfile(file, target / file.name)
