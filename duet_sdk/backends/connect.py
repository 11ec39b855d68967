"""A model's name → a backend: ``backend/model``, optionally ``@http://host:port/v1``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

from typing_extensions import override

from duet_sdk.backends.base import Backend, Wrapped
from duet_sdk.backends.names import meant, without_scheme
from duet_sdk.errors import ConfigError

if TYPE_CHECKING:
    from duet_sdk.endpoints import Endpoint
    from duet_sdk.pricing import Price

OneModel: TypeAlias = "str | Backend | Endpoint"
"""A model by its name, by where it is, or as an object."""
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
        ConfigError: a name without a backend, an unknown backend, an option that it does not have, or an object that is
            not a model.
        MissingExtra: the backend's library is not installed.
    """
    if isinstance(given, str):
        return _by_name(given, {})
    if isinstance(given, Backend):
        return f"{given.name}/{given.model}", given
    if _is_endpoint(given):
        name, backend = _by_name(given.model, given.connect_options())
        if given.price is not None and backend.own_price is None:
            backend = _Priced(backend, given.price)
        return name, backend
    raise ConfigError(
        "a model must be a name such as 'vllm/Qwen/Qwen3-4B', an Endpoint or a Backend, got "
        f"{type(given).__name__}; for a model of your own derive from duet_sdk.backends.Backend{_instead_of(given)}"
    )


def _instead_of(given: object) -> str:
    """What is probably meant by another library's model."""
    named = next((name for key in ("model_name", "model") if isinstance(name := getattr(given, key, None), str)), None)
    likely = "" if isinstance(given, type) or named is None else meant(named, available())
    if likely:
        return f"; this one's is probably {named!r}: {likely}"
    if callable(getattr(given, "invoke", None)):
        return "; a chat model of LangChain is not one of a pair: name what it calls, such as 'litellm/openai/MODEL'"
    return ""


class _Priced(Wrapped):
    """A backend of an endpoint with a price, which goes before what the provider says."""

    def __init__(self, backend: Backend, price: Price) -> None:
        super().__init__(backend)
        self._own_price = price

    @property
    @override
    def price(self) -> Price:
        return self._own_price

    @property
    @override
    def own_price(self) -> Price:
        return self._own_price


def with_tokenizer(given: ModelLike, folder: Path) -> ModelLike:
    """Name a folder as the tokenizer of every vLLM server that has none named; other models stay as they are."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_one_with_tokenizer(one, folder) for one in given]
    return _one_with_tokenizer(given, folder)


def _one_with_tokenizer(given: OneModel, folder: Path) -> OneModel:
    if isinstance(given, str):
        name, options = given, dict[str, object]()
    elif _is_endpoint(given):
        name, options = given.model, given.connect_options()
    else:
        return given
    if split_name(name)[0] != "vllm" or "tokenizer" in options:
        return given
    return _by_name(name, {**options, "tokenizer": str(folder)})[1]


def split_name(name: str) -> tuple[str, str, str | None]:
    """A model's full name → backend, model, URL.

    >>> split_name("vllm/Qwen/Qwen3-4B@http://127.0.0.1:8101/v1")
    ('vllm', 'Qwen/Qwen3-4B', 'http://127.0.0.1:8101/v1')

    Raises:
        ConfigError: it lacks a backend or a model.
    """
    if (whole := without_scheme(name)) is not None:
        raise ConfigError(f"{name!r}: the address must begin with http:// or https://; did you mean {whole!r}?")
    match = re.fullmatch(r"(?P<backend>[\w-]+)/(?P<model>.+?)(?:@(?P<url>https?://.+))?", name, re.DOTALL)
    if match is None:
        raise ConfigError(
            f"{name!r} does not name a model: write 'backend/model', such as 'transformers/embedded' "
            f"(backends here: {', '.join(sorted(available()))})" + _hint(name)
        )
    if match["backend"] != "scripted" and re.search(r"@(\w+:|$)", match["model"]):
        raise ConfigError(f"{name!r}: what follows '@' must be an address such as http://127.0.0.1:8000/v1")
    return match["backend"], match["model"], match["url"]


def available() -> set[str]:
    """Names of all backends, ours and those of installed packages."""
    return {*_OURS, *(point.name for point in entry_points(group=GROUP))}


def _by_name(name: str, options: Mapping[str, object]) -> tuple[str, Backend]:
    backend, model, url = split_name(name)
    if url is not None:
        options = {**options, "base_url": url}
    made = _provider(backend, name)(model, options)
    if not isinstance(made, Backend):
        raise ConfigError(
            f"the entry point {backend!r} of {GROUP!r} made a {type(made).__name__}, which does not derive from "
            "duet_sdk.backends.Backend"
        )
    return f"{backend}/{model}", made


def _is_endpoint(given: object) -> TypeGuard[Endpoint]:
    from duet_sdk.endpoints import (
        Endpoint,  # whoever has an Endpoint has imported this; names alone need not pay for it
    )

    return isinstance(given, Endpoint)


def _hint(name: str) -> str:
    likely = meant(name, available())
    return f"; {likely}" if likely else ""


def _provider(backend: str, name: str) -> Connect:
    if backend in _OURS:
        return cast("Connect", import_module(_OURS[backend]).connect)
    for point in entry_points(group=GROUP):
        if point.name == backend:
            return cast("Connect", point.load())
    raise ConfigError(
        f"there is no backend {backend!r}; there are {', '.join(sorted(available()))}, and other packages add theirs "
        f"through the entry-point group {GROUP!r}" + _hint(name)
    )
