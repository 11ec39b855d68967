"""DUET's errors that are LangChain's as well, so that its middleware knows what to do about them.

A `ContextOverflow` is then also a `ContextOverflowError`, on which summarising middleware shortens the conversation;
a `RateLimited` also a `ModelRateLimitError`, and so on. Errors of a budget stay DUET's own: LangChain has none like
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelRateLimitError,
)

from duet_sdk import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContextOverflow,
    DuetError,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    Rejected,
    StreamBroken,
)

_ALSO: Mapping[type[DuetError], type[ModelError]] = {
    ContextOverflow: ContextOverflowError,
    InvalidRequest: ModelInvalidRequestError,
    Authentication: ModelAuthenticationError,
    ModelNotFound: ModelNotFoundError,
    Rejected: ModelInvalidRequestError,
    RateLimited: ModelRateLimitError,
    ConnectFailed: ModelConnectionError,
    StreamBroken: ModelAPIError,
}
_made: dict[type[DuetError], type[DuetError] | None] = {}
"""Class of an error → the class that is LangChain's, too."""


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Let errors that LangChain has a name for leave as both; all others as they are."""
    try:
        yield
    except DuetError as error:
        both = _both(type(error))
        if both is None:
            raise
        raise _as(both, error) from error


def _both(kind: type[DuetError]) -> type[DuetError] | None:
    if kind not in _made:
        theirs = next((theirs for ours, theirs in _ALSO.items() if issubclass(kind, ours)), None)
        _made[kind] = None if theirs is None else type(kind.__name__, (kind, theirs), {"__module__": __name__})
    return _made[kind]


def _as(both: type[DuetError], error: DuetError) -> DuetError:
    """The same error, with its text and attributes, of that class."""
    twin = both.__new__(both)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    if isinstance(error, BackendError):
        twin.__dict__["is_retryable"] = error.retryable
    return twin
