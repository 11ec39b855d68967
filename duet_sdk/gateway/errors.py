"""Errors as clients of OpenAI's protocol expect them: one table from our tree to statuses, types and codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from duet_sdk import errors
from duet_sdk.errors import BackendError

Headers = tuple[tuple[bytes, bytes], ...]
NOT_AGAIN: Final[Headers] = ((b"x-should-retry", b"false"),)
"""Clients made by Stainless obey it, at statuses that they would repeat by themselves, too."""
_LATER_S: Final = 1
"""Seconds after which to come back where no server said: short, as a request is cheap to refuse."""
_MOST_CHARACTERS: Final = 1000
"""Of an error's message: some lists of names are 500 long."""


class Refused(Exception):
    """A request that gets an error in OpenAI's form.

    Attributes:
        status: of HTTP.
        kind: ``type`` of the error.
        code: ``code`` of the error, for programs.
        param: the field of the request that is wrong.
        headers: of the response, on top of the usual ones.
        overflow: tokens that a prompt needs with its limits, and the window, where they do not fit.
    """

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Headers = NOT_AGAIN,
        overflow: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers
        self.overflow = overflow

    def body(self) -> dict[str, Any]:
        """The error as the wire has it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class _Row:
    """What becomes of an error; without a text of its own it shows the error's."""

    status: int
    code: str | None
    kind: str = "invalid_request_error"
    text: str | None = None
    """In place of the error's words, where these are for the operator: they may name servers."""
    again: bool = False
    """Whether the same request may succeed later."""


_SERVER: Final = "server_error"
ROWS: Final[Mapping[type[Exception], _Row]] = {
    errors.InvalidRequest: _Row(400, None),
    errors.ContextOverflow: _Row(400, "context_length_exceeded"),
    errors.ContentFiltered: _Row(400, "content_filter", text="a model's content filter stopped this request"),
    errors.Rejected: _Row(400, "unsupported", text="a model's server does not take this request as it is"),
    errors.BoundaryRefused: _Row(403, "boundary", "permission_error", "the pair is beyond this request's boundary"),
    errors.BudgetExceeded: _Row(402, "insufficient_quota", "insufficient_quota"),
    errors.DeadlineExceeded: _Row(504, "deadline_exceeded", _SERVER),
    errors.RateLimited: _Row(429, "rate_limit_exceeded", "rate_limit_error", "a model asks to come back later", True),
    errors.QuotaExceeded: _Row(503, "upstream_quota", _SERVER, "a model's account is used up; tell the operator"),
    errors.ConnectFailed: _Row(503, "upstream_unreachable", _SERVER, "a model cannot be reached now", True),
    errors.Authentication: _Row(502, "upstream_refused", _SERVER, "a model refused the gateway; tell the operator"),
    errors.ModelNotFound: _Row(502, "upstream_model", _SERVER, "a model is not where it should be; tell the operator"),
    errors.NoAnswer: _Row(502, "no_answer", _SERVER, "a model ended its answer without saying anything"),
    errors.StreamBroken: _Row(502, "stream_broken", _SERVER, "a model's answer broke off", True),
    errors.BackendError: _Row(502, "upstream_failed", _SERVER, "a model failed", True),
    errors.SignalError: _Row(502, "signal_unusable", _SERVER),
    errors.LedgerError: _Row(503, "ledger_unreachable", _SERVER, "the ledger cannot be reached now", True),
    errors.ConfigError: _Row(503, "misconfigured", _SERVER, "the gateway is not set up for this; tell the operator"),
    errors.DuetError: _Row(503, "failed", _SERVER, "the gateway could not answer; tell the operator"),
    RecursionError: _Row(400, "too_deep", text="values of the body lie too deep"),
    Exception: _Row(500, "internal_error", _SERVER, "the gateway failed; its log says more"),
}
"""Each error of ours, the nearest class first, and what a client hears of it."""


def refused(error: Exception) -> Refused:
    """The error that a client gets for one of ours, or for a fault of the gateway."""
    if isinstance(error, Refused):
        return error
    row = next(ROWS[kind] for kind in type(error).__mro__ if kind in ROWS)
    message, overflow = row.text or str(error), None
    if isinstance(error, errors.ContextOverflow):
        overflow = error.needed_tokens, error.context_tokens
        message = (
            f"this request needs {error.needed_tokens} tokens, prompt and answer together, and the context is "
            f"{error.context_tokens}: shorten the messages, or ask for less"
        )
    return Refused(
        row.status, row.code, _short(message), kind=row.kind, headers=_headers(row, error), overflow=overflow
    )


def _short(message: str) -> str:
    """A message without most of what it quotes, which may be as long as the request's body."""
    return message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]}…"


def _headers(row: _Row, error: Exception) -> Headers:
    if not row.again:
        return NOT_AGAIN
    wanted = error.retry_after if isinstance(error, BackendError) else None
    return ((b"retry-after", str(max(_LATER_S, math.ceil(wanted or 0))).encode()),)
