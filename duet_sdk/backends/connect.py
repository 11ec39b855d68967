"""A model's name → a backend: ``backend/model``, optionally ``@http://host:port/v1``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from duet_sdk.backends.base import Backend
from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.endpoints import Endpoint

OneModel: TypeAlias = "str | Backend | Endpoint"
ModelLike: TypeAlias = "OneModel | Sequence[OneModel]"
"""A model, or several in the order in which they are tried."""
Connect: TypeAlias = Callable[[str, Mapping[str, object]], Backend]
"""What an entry point of the group ``duet_sdk.backends`` names: (model, options) → a backend, not yet connected."""

GROUP = "duet_sdk.backends"
_OURS = {
    "litellm": "duet_sdk.backends.litellm.backend",
    "scripted": "duet_sdk.backends.scripted",
    "transformers": "duet_sdk.backends.local.transformers",
    "vllm": "duet_sdk.backends.server.backend",
    "vllm-engine": "duet_sdk.backends.local.vllm_engine",
}


def connect(given: OneModel) -> tuple[str, Backend]:
    """The full name of a model and its backend; nothing is loaded or sent yet.

    Raises:
        ConfigError: a name without a backend, a backend that nobody provides, or an option it does not know.
        MissingExtra: the backend's library is not installed.
    """
    if isinstance(given, str):
        return _by_name(given, {})
    if isinstance(given, Backend):
        return f"{given.name}/{given.model}", given
    if hasattr(given, "connect_options"):
        return _by_name(given.model, given.connect_options())
    raise ConfigError(f"a model must be named as 'backend/model', or be a backend, got {type(given).__name__}")


def with_tokenizer(given: ModelLike, folder: Path) -> ModelLike:
    """Servers that do not say where their tokenizer lies, with a folder that should hold it; others as they are."""
    if isinstance(given, str | Backend) or hasattr(given, "connect_options"):
        return _one_with_tokenizer(cast("OneModel", given), folder)
    return [_one_with_tokenizer(one, folder) for one in given]


def _one_with_tokenizer(given: OneModel, folder: Path) -> OneModel:
    if isinstance(given, Backend):
        return given
    name, options = (given, {}) if isinstance(given, str) else (given.model, given.connect_options())
    if split_name(name)[0] != "vllm" or "tokenizer" in options:
        return given
    return _by_name(name, {**options, "tokenizer": str(folder)})[1]


def split_name(name: str) -> tuple[str, str, str | None]:
    """A model's full name → backend, model, URL.

    >>> split_name("vllm/Qwen/Qwen3-4B@http://127.0.0.1:8101/v1")
    ('vllm', 'Qwen/Qwen3-4B', 'http://127.0.0.1:8101/v1')

    Raises:
        ConfigError: there is no backend or no model in it.
    """
    match = re.fullmatch(r"(?P<backend>[\w-]+)/(?P<model>.+?)(?:@(?P<url>https?://.+))?", name, re.DOTALL)
    if match is None:
        raise ConfigError(
            f"{name!r} does not name a model: write 'backend/model', such as 'transformers/embedded' "
            f"(backends here: {', '.join(sorted(available()))})"
        )
    return match["backend"], match["model"], match["url"]


def available() -> set[str]:
    """Names of all backends, ours and those of installed packages."""
    return {*_OURS, *(point.name for point in entry_points(group=GROUP))}


def _by_name(name: str, options: Mapping[str, object]) -> tuple[str, Backend]:
    backend, model, url = split_name(name)
    if url is not None:
        options = {**options, "base_url": url}
    return f"{backend}/{model}", _provider(backend)(model, options)


def _provider(backend: str) -> Connect:
    if backend in _OURS:
        return cast("Connect", import_module(_OURS[backend]).connect)
    for point in entry_points(group=GROUP):
        if point.name == backend:
            return cast("Connect", point.load())
    raise ConfigError(
        f"there is no backend {backend!r}; there are {', '.join(sorted(available()))}. "
        f"Other packages add theirs through the entry-point group {GROUP!r}"
    )
