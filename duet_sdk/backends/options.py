"""The options of an endpoint, checked before a backend is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from duet_sdk.errors import ConfigError, ContextOverflow

Known = Mapping[str, tuple[type, ...]]
"""An option's name → the types it may have; empty where the backend checks it: an error could quote a key."""


def checked(backend: str, options: Mapping[str, object], known: Known) -> dict[str, Any]:
    """The options, each known and of its type.

    Raises:
        ConfigError: an unknown option, or one of another type; the message names it.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"backend {backend!r} has no option {name!r}; it has {', '.join(known)}")
        kinds = known[name]
        # bool is a subclass of int, but True for a number of seconds is a mistake.
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"option {name!r} must be of type {wanted}, got {type(value).__name__}")
    return dict(options)


def checked_local(backend: str, options: Mapping[str, object], known: Known) -> dict[str, Any]:
    """As `checked`, for a model in this process: its boundary is ``local``, and is left out of the result.

    Raises:
        ConfigError: as `checked`; another boundary.
    """
    given = checked(backend, options, {**known, "boundary": (str,)})
    if (boundary := given.pop("boundary", "local")) != "local":
        raise ConfigError(f"a model in this process is at 'local', not at {boundary!r}")
    return given


def check_window(model: str, *, prompt_tokens: int, max_tokens: int, window: int | None) -> None:
    """Refuse a call that does not fit the window of a model in this process; a window of None fits everything.

    Raises:
        ContextOverflow: it does not fit.
    """
    if window is not None and prompt_tokens + max_tokens > window:
        raise ContextOverflow(
            f"{prompt_tokens} prompt tokens and {max_tokens} output tokens do not fit the window of {window} tokens of "
            f"{model!r}; shorten the conversation or lower the limits",
            model=model,
            needed_tokens=prompt_tokens + max_tokens,
            context_tokens=window,
        )
