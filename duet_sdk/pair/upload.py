"""A pair → the hub: one repository with both models, the manifest and the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duet_sdk.errors import Authentication, ConnectFailed, PairError
from duet_sdk.models.sources import local_library
from duet_sdk.pair.card import CARD
from duet_sdk.pair.hub import is_hub_name
from duet_sdk.pair.manifest import MANIFEST
from duet_sdk.pair.pair import local_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from duet_sdk.pair.pair import Pair


def push(
    pair: Pair, hub_id: str, *, private: bool = True, message: str = "A pair for DUET", endpoint: str | None = None
) -> str:
    """Upload a pair's folder, both models in it, in one commit; return the commit's id.

    The repository is made where there is none. Files there that the pair does not have are left alone, but for files
    of its models' folders, which are removed: nothing may lie there that the manifest does not list.

    Args:
        pair: a pair on disk; every file is checked first.
        hub_id: ``owner/name``.
        private: for a repository that is made now.
        message: of the commit.
        endpoint: URL of another hub; None for the one that ``HF_ENDPOINT`` names, or the public one.

    Raises:
        PairError: the pair is not on disk or not complete, names a model of this machine, or ``hub_id`` is not a name.
        Authentication: the hub wants a token that may write there (``HF_TOKEN``).
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub is not installed.
    """
    if not is_hub_name(hub_id) or "@" in hub_id:
        raise PairError(f"{hub_id!r} does not name a repository; write owner/name")
    pair.verify()
    for stage, entry in pair.manifest.stages.items():
        if local_folder(entry) is not None:
            raise PairError(f"the {stage} is {entry.model}, which exists only on this machine; bundle the pair first")
    hub, errors = local_library("huggingface_hub"), local_library("huggingface_hub.errors")
    api = hub.HfApi(endpoint=endpoint, library_name="duet-sdk")
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        # One commit, so that nobody ever fetches half a pair.
        done = api.create_commit(hub_id, _operations(hub, pair, api.list_repo_files(hub_id)), commit_message=message)
    except (OSError, RuntimeError, errors.HTTPError) as err:  # the first two: a large file that could not be sent
        status = getattr(getattr(err, "response", None), "status_code", None)
        facts: dict[str, Any] = {"backend": "hub", "model": hub_id, "status": status}
        if status in (401, 403):
            raise Authentication(
                f"the hub refused to write {hub_id!r}; set HF_TOKEN to a token that may", **facts
            ) from err
        raise ConnectFailed(
            f"uploading {hub_id!r} failed ({type(err).__name__}); check the connection and try again", **facts
        ) from err
    commit: str = done.oid
    return commit


def _operations(hub: ModuleType, pair: Pair, there: Sequence[str]) -> list[Any]:
    """Every file of the pair, and the end of those in its models' folders that it does not have."""
    root = pair.folder
    if root is None:
        raise PairError("this pair is not on disk yet; save it first")
    names = [MANIFEST, *pair.manifest.files]
    if (root / CARD).is_file():
        names.append(CARD)
    folders = (*pair.manifest.folders, *pair.manifest.adapters)
    gone = [name for name in there if name not in names and name.startswith(tuple(f"{one}/" for one in folders))]
    return [
        *(hub.CommitOperationAdd(name, root / name) for name in names),
        *(hub.CommitOperationDelete(name) for name in gone),
    ]
