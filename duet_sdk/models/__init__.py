"""Local models: the cache folder (list, pull, convert, remove), and the check before loading."""

from duet_sdk.models.cache import (
    EMBEDDED,
    CachedModel,
    cache_folder,
    commit_of,
    embedded,
    find,
    listing,
    locate,
    pull,
    remove,
)
from duet_sdk.models.folder import check_folder
from duet_sdk.models.sources import Progress, convert_gguf

__all__ = [
    "EMBEDDED",
    "CachedModel",
    "Progress",
    "cache_folder",
    "check_folder",
    "commit_of",
    "convert_gguf",
    "embedded",
    "find",
    "listing",
    "locate",
    "pull",
    "remove",
]
