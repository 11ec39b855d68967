"""A pair → the hub: one repository with both models, the manifest and the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duet_sdk.errors import Authentication, ConnectFailed, PairError
from duet_sdk.models.sources import local_library
from duet_sdk.pair.hub import is_hub_name
from duet_sdk.pair.manifest import MANIFEST

if TYPE_CHECKING:
    from duet_sdk.pair.pair import Pair


def push(pair: Pair, hub_id: str, *, private: bool = True, message: str = "A pair for DUET") -> str:
    """Upload a pair's folder, both models in it, in one commit; gives the commit's id.

    The repository is made where there is none. Files there that the pair does not have are left alone, but for files
    of its models' folders, which are removed: nothing may lie there that the manifest does not list.

    Args:
        pair: a pair on disk; every file is checked first.
        hub_id: ``owner/name``.
        private: for a repository that is made now.
        message: of the commit.

    Raises:
        PairError: the pair is not on disk or not whole, names a model of this machine, or ``hub_id`` is no name.
        Authentication: the hub wants a token that may write there (``HF_TOKEN``).
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub is not installed.
    """
    if not is_hub_name(hub_id) or "@" in hub_id:
        raise PairError(f"{hub_id!r} is no name of a repository; write owner/name")
    pair.verify()
    for stage, entry in pair.manifest.stages.items():
        if entry.model is not None and "/." in f"/{entry.model.partition('/')[2]}"[:3]:
            raise PairError(f"the {stage} is {entry.model}, which only this machine has; bundle the pair first")
    hub, errors = local_library("huggingface_hub"), local_library("huggingface_hub.errors")
    api = hub.HfApi(library_name="duet-sdk")
    folders = [*pair.manifest.folders, *pair.manifest.adapters]
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=hub_id,
            folder_path=pair.folder,
            commit_message=message,
            allow_patterns=[MANIFEST, "README.md", *(_plain(name) for name in pair.manifest.files)],
            delete_patterns=[f"{folder}/*" for folder in folders] or None,
        )
    except (OSError, errors.HTTPError) as err:
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


def _plain(name: str) -> str:
    """A pattern that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
