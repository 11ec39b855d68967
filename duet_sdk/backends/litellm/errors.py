"""LiteLLM's exceptions → the facts that every backend's errors are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from duet_sdk.backends.litellm.connections import load
from duet_sdk.backends.refusals import Refusal, parsed
from duet_sdk.backends.retry_after import retry_after

_WRAPPING: Final = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?:: | - ))+")
_ASIDE: Final = re.compile(r"\s*(Traceback \(most recent call last\)|,? ?Original Response:|Received: ').*", re.DOTALL)
"""What LiteLLM adds to the server's words: its own traceback, and the answer that it could not read."""
_LONGEST_ANSWER: Final = 1 << 16
"""Characters of an answer that is read for its error: far more than any server explains."""
_LOST: Final = "Error in response object"
"""What LiteLLM says, with a 422 that it made up, in place of an error that was a text in an answer with status 200."""
_CODES: Final[Mapping[str, str]] = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
    "PaymentRequiredError": "insufficient_quota",
    # Its address is the provider's: what is not found there is the model.
    "NotFoundError": "model_not_found",
}
"""LiteLLM's classes that say more than their status → the code of a server that says the same."""


def refusal_of(raised: Exception) -> Refusal:
    """What the server said, without what LiteLLM wraps it in; LiteLLM's classes stand for codes of the server."""
    error = _original(raised)
    said = _body(error)
    if code := next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), None):
        said["error_type"] = code
    if isinstance(named := getattr(error, "status_code", None), str) and not named.isdigit():
        said["code"] = named  # the code of an error in an answer that claims to be a success
    status = None if event_of(error) is not None else _status(error)
    return Refusal.of(status, said, wait_s=retry_after(_headers(error)))


def is_silence(raised: Exception) -> bool:
    """Whether there was no answer: LiteLLM makes up a status then, such as 500 for a connection that failed."""
    error = _original(raised)
    known = load().exceptions
    if isinstance(error, known.Timeout | known.APIConnectionError):
        return True
    if isinstance(error, known.RateLimitError | known.NotFoundError) or _status(error) in (401, 403):
        return False
    return any(isinstance(cause, OSError) for cause in _causes(error))


def event_of(raised: Exception) -> object:
    """The error that a server sent within its stream, None for any other.

    The openai package raises it as an `APIError` with neither status nor response, of which LiteLLM makes a connection
    that failed.
    """
    for cause in _causes(_original(raised)):
        if type(cause).__name__ == "APIError" and getattr(cause, "status_code", None) is None:
            body = getattr(cause, "body", None)
            if isinstance(body, Mapping | str) and body:
                return body
    return None


def redirect_of(raised: Exception) -> int | None:
    """The status of a redirect that was refused, None if it was something else; LiteLLM makes other errors of it."""
    for cause in _causes(raised):
        status = getattr(getattr(cause, "response", None), "status_code", None) or getattr(cause, "status_code", None)
        if isinstance(status, int) and 300 <= status < 400:
            return status
    return None


def _original(raised: Exception) -> Exception:
    return getattr(raised, "original_exception", None) or raised


def _body(error: Exception) -> dict[str, Any]:
    """The error object; LiteLLM hands it on as one, within an answer, as JSON in its own words, or as words."""
    body = getattr(error, "body", None)
    if not isinstance(body, Mapping):
        body = _answer(error) or event_of(error) or body
    said = dict(body) if isinstance(body, Mapping) else {"errors": body}
    if not Refusal.of(None, said).words:
        words = _ASIDE.sub("", _WRAPPING.sub("", str(getattr(error, "message", None) or error))).strip()
        said["message"] = words or type(error).__name__
    return said


def _answer(error: Exception) -> object:
    """What the server answered, where LiteLLM kept it; None where it made an answer up, which is then empty."""
    response = getattr(error, "response", None)
    try:
        text = getattr(response, "text", None)
    except RuntimeError:  # of a stream that nobody read
        return None
    return parsed(text) if isinstance(text, str) and len(text) <= _LONGEST_ANSWER else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int | None:
    if str(error).endswith(_LOST):
        return 500
    status = getattr(error, "status_code", None)
    return int(status) if isinstance(status, int | str) and str(status).isdigit() else None


def _headers(error: Exception) -> dict[str, str]:
    """The server's headers, where LiteLLM kept them; it puts ``llm_provider-`` in front of some."""
    kept = (
        getattr(getattr(error, "response", None), "headers", None),
        getattr(error, "litellm_response_headers", None),
    )
    return {
        str(name).lower().removeprefix("llm_provider-"): str(value)
        for headers in kept
        if isinstance(headers, Mapping)
        for name, value in headers.items()
    }
