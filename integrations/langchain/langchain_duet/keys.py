"""One key for both models of a pair, where one server serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from duet_sdk import ConfigError, Endpoint
from duet_sdk.backends.connect import split_name

if TYPE_CHECKING:
    from pydantic import SecretStr

    from duet_sdk.backends.connect import ModelLike, OneModel

_TAKE_KEYS = ("vllm", "litellm")


def check_one_server(models: Sequence[ModelLike | None]) -> None:
    """Refuse one key for models of several servers: each would see a key that is another's.

    Raises:
        ConfigError: they are not all in one place.
    """
    places = {place for model in models for name in _each(model) if (place := _place(name)) is not None}
    if len(places) > 1:
        raise ConfigError(
            "api_key (or DUET_API_KEY) is one key, and the models are on several servers: give each its own as "
            "Endpoint(model=…, api_key_env=…)"
        )


def keyed(model: ModelLike | None, key: SecretStr | None) -> ModelLike | None:
    """The model with the key, where it is named by its text alone and is on a server."""
    if model is None or key is None:
        return model
    if isinstance(model, Sequence) and not isinstance(model, str):
        return [_keyed(one, key) for one in model]
    return _keyed(model, key)


def beside(model: ModelLike | None, name: str) -> OneModel:
    """Another model, by its name; without an address it is on the server of the first, where their backends agree."""
    first = next(iter(_each(model)), None)
    if isinstance(first, Endpoint):
        return first.model_copy(update={"model": name}) if _agree(first.model, name) else name
    if isinstance(first, str) and _agree(first, name) and (url := split_name(first)[2]) is not None:
        return f"{name}@{url}"
    return name


def _agree(one: str, other: str) -> bool:
    """Whether the other model may be on the server of the one."""
    return split_name(other)[2] is None and split_name(one)[0] == split_name(other)[0]


def _keyed(model: OneModel, key: SecretStr) -> OneModel:
    return Endpoint(model=model, api_key=key) if isinstance(model, str) and _place(model) is not None else model


def _each(model: ModelLike | None) -> Sequence[OneModel]:
    if model is None:
        return ()
    return model if isinstance(model, Sequence) and not isinstance(model, str) else (model,)


def _place(model: OneModel) -> tuple[str, str] | None:
    """Where a request for that model goes, None where it takes no key from here."""
    if not isinstance(model, str):
        return None
    backend, name, url = split_name(model)
    if backend not in _TAKE_KEYS:
        return None
    # LiteLLM's models say their provider first.
    return backend, url or (name.partition("/")[0] if backend == "litellm" else "")
