"""A pair on the hub: fetched into DUET's cache once, and checked like any folder."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from duet_sdk.environment import default_cache_dir
from duet_sdk.errors import ConfigError, MissingExtra, ModelNotFound, PairError
from duet_sdk.models.cache import place
from duet_sdk.models.folder import is_wanted, refuse_own_code
from duet_sdk.models.sources import Repository
from duet_sdk.models.staging import build
from duet_sdk.pair.folder import check, open_folder, refuse_pickled
from duet_sdk.pair.manifest import MANIFEST, Manifest, read_manifest

_HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", re.ASCII)


def is_hub_name(text: str) -> bool:
    """Whether a text is ``owner/name`` or ``owner/name@revision``.

    >>> is_hub_name("owner/name@v1"), is_hub_name("./folder")
    (True, False)
    """
    return _HUB_NAME.fullmatch(text) is not None


def from_hub(name: str) -> tuple[Manifest, Path]:
    """The manifest and the folder of a pair on the hub: from the cache when it is there and complete, else downloaded.

    Raises:
        PairError: the hub has no such pair or revision, or it is not what its manifest says.
        Authentication: the hub wants a token that may read it (``HF_TOKEN``).
        ConnectFailed: the hub does not answer.
        MissingExtra: it has to be downloaded, and huggingface_hub or filelock is not installed.
    """
    hub_id, _, revision = name.partition("@")
    folder = place(hub_id, revision or None, default_cache_dir().resolve() / "pairs")
    try:
        build(folder, is_intact=lambda: _is_intact(folder), fill=lambda fresh: _fetch(hub_id, revision or None, fresh))
    except MissingExtra as err:
        raise MissingExtra(
            f"fetching the pair {hub_id!r} from the hub, as there is no folder {name!r} here,", extra=err.extra
        ) from err
    return read_manifest(folder), folder


def _is_intact(folder: Path) -> bool:
    try:
        open_folder(folder)
    except PairError:
        return False
    return True


def _fetch(hub_id: str, revision: str | None, fresh: Path) -> None:
    """Fill ``fresh`` with the pair: what the manifest lists, and of that only what a model is loaded from."""
    try:
        repository = Repository(hub_id, revision, kind="pair")
    except ModelNotFound as err:
        raise PairError(f"there is no folder {hub_id!r} here, and {err}; `duet pair save` makes a pair") from err
    if MANIFEST not in repository.names:
        raise PairError(
            f"{hub_id!r} on the hub is not a pair: it holds no {MANIFEST}; a single model is named "
            f"'transformers/{hub_id}'"
        )
    try:
        for name in repository.names:
            refuse_pickled(name)
        # The small files first: a pair that is refused costs no gigabytes.
        repository.fetch(fresh, [MANIFEST, "*config.json"])
        manifest = read_manifest(fresh)
        for folder in manifest.folders:
            refuse_own_code(fresh / folder)
        repository.fetch(fresh, [glob.escape(name) for name in manifest.files if is_wanted(name)])
        check(fresh, manifest)
    except (PairError, ConfigError, ModelNotFound) as err:
        # The folder that the message names is gone when it is read.
        text = str(err).replace(str(fresh), hub_id)
        raise PairError(f"the pair {hub_id!r} on the hub cannot be used: {text}") from err
