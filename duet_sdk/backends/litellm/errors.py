"""LiteLLM's exceptions → DUET's errors, in the server's words without keys and prompts."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from duet_sdk.backends.litellm.connections import load
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContextOverflow,
    DuetError,
    ModelNotFound,
    RateLimited,
    Rejected,
    StreamBroken,
)

if TYPE_CHECKING:
    from duet_sdk.backends.base import Call
    from duet_sdk.reply import StageUsage

_LONGEST = 300
_READ = 1200
_SHARED = 12
"""Characters in a row that a server's words may share with a prompt; more of them are an echo."""
_KEY = re.compile(r"\b(sk|pk|key|gsk|xai|AIza)[-_A-Za-z0-9*]{8,}|(?i:bearer)\s+\S+")
_WRAPPING = re.compile(r"^(litellm\.\w+: )?([\w ]+: )?(\w+Exception - )?")
_ASIDE = re.compile(r"\s*(Traceback \(most recent call last\)|,? ?Original Response:|Received: ').*", re.DOTALL)
"""What LiteLLM adds to the server's words: its own traceback, and the answer that it could not read."""
_WINDOW = re.compile(r"(?:maximum context length is|maximum of|context window of|>)\s*(\d+)", re.IGNORECASE)
_NEEDED = re.compile(r"(?:requested|resulted in|you passed|too long:)\s*(?:about\s*)?(\d+)", re.IGNORECASE)


class Faults:
    """Turns the failures of one call into errors.

    Args:
        backend: the backend's name.
        model: the model as the backend knows it.
        call: whose texts must not be quoted.
        secret: the key, which must not be quoted.
        context_tokens: the model's window, None where unknown.
    """

    def __init__(self, backend: str, model: str, call: Call, *, secret: str | None, context_tokens: int | None) -> None:
        self._facts: dict[str, Any] = {"backend": backend, "model": model}
        self._call = call
        self._secret = secret
        self._context_tokens = context_tokens

    def told(
        self, error: Exception, *, partial: str = "", usage: StageUsage | None = None, begun: bool = False
    ) -> DuetError:
        """The error to raise.

        Args:
            error: what LiteLLM raised.
            partial: text written before.
            usage: what it cost, None where unknown.
            begun: whether the answer had begun: then it broke off, whatever the reason.
        """
        error = getattr(error, "original_exception", None) or error
        status = _status(error)
        text = self._text(error)
        facts = self._facts | {"status": status, "retry_after": _retry_after(error)}
        if begun:
            return StreamBroken(f"the answer broke off: {text}", partial=partial, usage=usage, **facts)
        known = load().exceptions
        if isinstance(error, known.ContextWindowExceededError):
            return self._overflow(error, text)
        if status in (401, 403):
            return Authentication(text, **facts)
        if isinstance(error, known.RateLimitError):
            return RateLimited(text, **facts)
        if isinstance(error, known.NotFoundError):
            return ModelNotFound(text, **facts)
        if isinstance(error, known.Timeout | known.APIConnectionError) or _no_answer(error):
            return ConnectFailed(text, **facts | {"status": None})
        if status is not None and 400 <= status < 500:
            return Rejected(text, **facts)
        return BackendError(text, retryable=status is not None and status >= 500, **facts)

    def _overflow(self, error: Exception, text: str) -> ContextOverflow:
        said = str(error)
        window, needed = _WINDOW.search(said), _NEEDED.search(said)
        return ContextOverflow(
            text,
            model=self._facts["model"],
            needed_tokens=int(needed[1]) if needed else 0,
            context_tokens=int(window[1]) if window else self._context_tokens or 0,
        )

    def _text(self, error: Exception) -> str:
        said = _ASIDE.sub("", _WRAPPING.sub("", str(getattr(error, "message", None) or error)))
        if self._secret:
            said = said.replace(self._secret, "[key]")
        said = said[:_READ]
        for message in self._call.messages:
            for form in (message.text, json.dumps(message.text)[1:-1], repr(message.text)[1:-1]):
                said = _without_echo(said, form)
        said = " ".join(_KEY.sub("[key]", said).split()) or type(error).__name__
        return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"


def _without_echo(said: str, prompt: str) -> str:
    kept, at = "", 0
    while at < len(said):
        end = at + _SHARED
        if end > len(said) or said[at:end] not in prompt:
            kept, at = kept + said[at], at + 1
            continue
        while end < len(said) and said[at : end + 1] in prompt:
            end += 1
        kept, at = kept + "[prompt]", end
    return kept


def _no_answer(error: BaseException | None) -> bool:
    """Whether the network failed: LiteLLM calls that an internal error of the server, with a status that none sent."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return int(status) if isinstance(status, int | str) and str(status).isdigit() else None


def _retry_after(error: Exception) -> float | None:
    """Seconds that the server asked for, None where it did not; a date is no number and is passed over."""
    response = getattr(error, "response", None)
    for headers in (getattr(error, "litellm_response_headers", None), getattr(response, "headers", None)):
        for name in ("retry-after", "llm_provider-retry-after"):
            try:
                wait_s = float(headers[name])  # type: ignore[index]  # tried: any of the three may be missing
            except (KeyError, TypeError, ValueError):
                continue
            if math.isfinite(wait_s) and wait_s >= 0:
                return wait_s
    return None
