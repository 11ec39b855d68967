"""What goes wrong at a server, in a library or on the way → the error tree, in its own words without any secret."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from duet_sdk.backends.redaction import redacted, texts_of
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
    from duet_sdk.reply import StageUsage
    from duet_sdk.types import Json

MODEL_NOT_FOUND: Final = "model_not_found"
CONTEXT_LENGTH_EXCEEDED: Final = "context_length_exceeded"
_OVERFLOW_CODES: Final = frozenset({CONTEXT_LENGTH_EXCEEDED, "exceed_context_size_error"})
_OVERFLOW: Final = re.compile(
    r"context[ _](length|size|window)|maximum (input|model) length|max_model_len", re.IGNORECASE
)
_WINDOW: Final = re.compile(
    r"(?:context (?:length|size|window)[^.\d]{0,40}?|max_model_len\D{0,4}|n_ctx\D{0,4}|maximum of\s*|>\s*)"
    r"(\d{1,12})(?!\d)",
    re.IGNORECASE,
)
_NEEDED: Final = re.compile(
    r"(?:requested|contains(?: at least)?|resulted in|you passed|too long:|has|request \()\s*(?:about\s*)?"
    r"(\d{1,12})\s*(?:in|tok)",
    re.IGNORECASE,
)
_NO_MODEL: Final = re.compile(
    r"model\b.{0,200}?\b(?:not (?:exist|found|supported)|unknown|no such)|(?:unknown|no such) model"
    r"|model_not_found|model\b.{0,200}?does ?n['o]t",
    re.IGNORECASE | re.DOTALL,
)

_BY_STATUS: Final[Mapping[int, tuple[type[BackendError], str]]] = {
    401: (Authentication, "rejected the API key, or requires one"),
    403: (Authentication, "rejected the API key, or requires one"),
    408: (RateLimited, "is rate limiting requests"),
    425: (RateLimited, "is rate limiting requests"),
    429: (RateLimited, "is rate limiting requests"),
    501: (BackendError, "cannot do this"),
}
"""The statuses with a meaning of their own; that of 404 depends on the words that come with it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusal of a model's server, however it arrived."""

    status: int | None
    """Of HTTP; None if there was none."""
    words: str = ""
    """The server's own words: they may quote the request, and are shown only redacted."""
    codes: frozenset[str] = frozenset()
    """The names that it gives its error, such as ``insufficient_quota``."""
    retry_after: float | None = None

    @classmethod
    def of(cls, status: int | None, error: Json | None, *, retry_after: float | None = None) -> Refusal:
        """From an error object, as `error_object` finds it in a body."""
        error = error or {}
        codes = frozenset(str(value) for name in ("code", "type") if (value := error.get(name)) is not None)
        return cls(status, _words(error), codes, retry_after)


class Failures:
    """Makes the errors of one model.

    Args:
        backend: the backend's name.
        model: the model as the backend knows it.
        url: where it is served; shown. None where the backend does not know.
        secrets: what must never be shown.
    """

    def __init__(self, *, backend: str, model: str, url: str | None = None, secrets: tuple[str, ...] = ()) -> None:
        self._facts: dict[str, Any] = {"backend": backend, "model": model}
        self._who = f"{backend}/{model}" if url is None else f"{backend}/{model} at {url}"
        self._secrets = secrets

    def no_connection(self, error: Exception) -> ConnectFailed:
        """Nothing came back before the answer's headers; a certificate that is not accepted is not tried again."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause = error.certificate_error
            why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
            return ConnectFailed(
                f"{self._who}: its certificate was rejected ({why}); to trust an authority of your own, set the "
                "environment variable SSL_CERT_FILE before Python starts, or correct the URL",
                retryable=False,
                **self._facts,
            )
        if isinstance(error, aiohttp.ClientSSLError):
            reason = "the TLS connection failed; does the server speak https there?"
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            reason = "the host name is unknown; wrong URL?"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            reason = "could not connect within connect_s; is the server running?"
        elif isinstance(error, TimeoutError):
            reason = "connected, but got no response within read_s"
        elif isinstance(error, aiohttp.ClientConnectorError):
            reason = f"could not connect ({type(error.os_error).__name__}); is the server running?"
        elif isinstance(error, aiohttp.ClientResponseError):
            reason = "the response is not HTTP; wrong URL or port?"
        else:
            reason = f"the connection was closed without a response ({type(error).__name__})"
        return ConnectFailed(f"{self._who}: {reason}", **self._facts)

    def no_answer(self, refusal: Refusal, sent: Json) -> ConnectFailed:
        """A library says that it got no answer at all."""
        return ConnectFailed(
            f"{self._who} did not respond{self._said(refusal, sent)}", retry_after=refusal.retry_after, **self._facts
        )

    def cut(self, error: Exception) -> StreamBroken:
        """The way to the server broke after its answer had begun."""
        if isinstance(error, TimeoutError):
            return self.broken("nothing more arrived within read_s")
        return self.broken(f"the connection was lost during the response ({type(error).__name__})")

    def broken(self, reason: str, *, status: int | None = None) -> StreamBroken:
        """An answer that cannot be read, or ended too early."""
        return StreamBroken(f"{self._who}: {reason}", status=status, **self._facts)

    def broke_off(
        self, refusal: Refusal, sent: Json, *, partial: str = "", usage: StageUsage | None = None
    ) -> StreamBroken:
        """An answer that had begun and was ended by an error, whatever that says.

        Args:
            refusal: the error.
            sent: the request's body.
            partial: the text written before.
            usage: what it cost, None if unknown.
        """
        return StreamBroken(
            f"{self._who}: the server ended its response with an error{self._said(refusal, sent)}",
            partial=partial,
            usage=usage,
            status=refusal.status,
            retry_after=refusal.retry_after,
            **self._facts,
        )

    def unreadable(self, error: Exception) -> StreamBroken:
        """A piece of a stream that does not have the expected form."""
        return self.broken(f"part of its answer cannot be parsed ({type(error).__name__})")

    def wrong_url(self, reason: str, *, status: int | None = None) -> ConnectFailed:
        """Something responds there, but not a server of this kind."""
        return ConnectFailed(f"{self._who}: {reason}; wrong URL?", status=status, retryable=False, **self._facts)

    def not_served(self, served: list[str]) -> ModelNotFound:
        """The server is up and lists other models."""
        shown = ", ".join(repr(name) for name in served[:10]) + (", …" if len(served) > 10 else "")
        return ModelNotFound(f"{self._who} is not served there; available: {shown}", **self._facts)

    def rejected(self, reason: str) -> Rejected:
        """A call that this server is known to refuse; nothing was sent."""
        return Rejected(f"{self._who}: {reason}", **self._facts)

    def status(self, status: int, headers: Mapping[str, str], body: bytes, sent: Json) -> DuetError:
        """An answer with a status that is not a success: see `refused`."""
        if 300 <= status < 400:
            return self.wrong_url(f"it responds with a redirect ({status}), which is not followed", status=status)
        refusal = Refusal.of(status, error_object(body), retry_after=retry_after(headers))
        return self.refused(refusal, sent)

    def event(self, error: object, sent: Json, *, begun: bool) -> DuetError:
        """An error inside a stream; once something was written it is always `StreamBroken`."""
        facts = error if isinstance(error, Mapping) else {"message": error}
        code = facts.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else None
        if begun:
            return self.broke_off(Refusal.of(status, facts), sent)
        return self.refused(Refusal.of(status or 500, facts), sent)

    def refused(self, refusal: Refusal, sent: Json, *, context_tokens: int | None = None) -> DuetError:
        """The error of a request that was refused.

        401 and 403 are `Authentication`; 404 is `ModelNotFound` or a wrong URL (`ConnectFailed`, not retryable); 408,
        425 and 429 are `RateLimited`, not retryable where a quota is used up; a prompt that is too long is
        `ContextOverflow`, any other 4xx `Rejected`. 5xx is `BackendError` itself, retryable but for 501: the server
        answered, so it is not a `ConnectFailed`. Without a status nothing is known: `BackendError`, not retryable.

        Args:
            refusal: what was said.
            sent: the request's body, whose texts are not repeated.
            context_tokens: the model's window, as far as it is known without the server's words.
        """
        said, status = self._said(refusal, sent), refusal.status
        if status == 404 and MODEL_NOT_FOUND not in refusal.codes and not _NO_MODEL.search(refusal.words):
            return self.wrong_url(f"there is nothing at this address (404){said}", status=404)
        if _is_overflow(refusal):
            return self._overflow(refusal, said, sent, context_tokens)
        kind, what = _kind_of(status)
        wait = ""
        if kind is RateLimited and refusal.retry_after is not None:
            wait = f"; it asks to retry after {refusal.retry_after:g} s"
        number = "" if status is None else f" ({status})"
        return kind(
            f"{self._who} {what}{number}{wait}{said}",
            status=status,
            retry_after=refusal.retry_after,
            retryable=_is_retryable(refusal),
            **self._facts,
        )

    def _overflow(self, refusal: Refusal, said: str, sent: Json, context_tokens: int | None) -> ContextOverflow:
        window, needed = _WINDOW.search(refusal.words), _NEEDED.search(refusal.words)
        prompt = sent.get("prompt")
        known = (len(prompt) if isinstance(prompt, list) else 0) + int(sent.get("max_tokens") or 0)
        return ContextOverflow(
            f"prompt and limits do not fit the context of {self._who}{said}; shorten the conversation or lower the "
            "limits",
            model=str(self._facts["model"]),
            needed_tokens=int(needed[1]) if needed else known,
            context_tokens=int(window[1]) if window else context_tokens or 0,
        )

    def _said(self, refusal: Refusal, sent: Json) -> str:
        words = redacted(refusal.words, texts=texts_of(sent), secrets=self._secrets)
        return f": {words}" if words else ""


def error_object(body: bytes) -> Json | None:
    """The error in a body: OpenAI's form, FastAPI's, or plain text that is not a page."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return None if not text or text.startswith("<") else {"message": text}
    if not isinstance(value, dict):
        return {"message": value} if isinstance(value, str) else None
    error = value.get("error", value)
    return error if isinstance(error, dict) else {"message": error}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: the header holds seconds or a date (RFC 9110, section 10.2.3); anything else is ignored."""
    given = next((value.strip() for name, value in headers.items() if name.lower() == "retry-after"), "")
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", given):
        return float(given)
    try:
        date = parsedate_to_datetime(given)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _kind_of(status: int | None) -> tuple[type[BackendError], str]:
    if status == 404:
        return ModelNotFound, "is not served there"
    if status is not None and 400 <= status < 500:
        return _BY_STATUS.get(status, (Rejected, "refused the request"))
    return _BY_STATUS.get(status or 0, (BackendError, "failed"))


def _is_overflow(refusal: Refusal) -> bool:
    status = refusal.status
    if status is None or not 400 <= status < 500 or status in _BY_STATUS or status == 404:
        return False
    return bool(_OVERFLOW_CODES & refusal.codes) or _OVERFLOW.search(refusal.words) is not None


def _is_retryable(refusal: Refusal) -> bool:
    status = refusal.status or 0
    if status >= 500:
        return status != 501
    return status in (408, 425, 429) and "insufficient_quota" not in refusal.codes


def _words(error: Json) -> str:
    for name in ("message", "detail", "error"):
        said = error.get(name)
        if isinstance(said, str):
            return said
        if isinstance(said, list):
            # FastAPI: the place and the problem; its "input" is what was sent, and is left out.
            problems = [entry for entry in said if isinstance(entry, Mapping)]
            return "; ".join(
                f"{'.'.join(str(part) for part in entry.get('loc', ()))}: {entry.get('msg', '')}" for entry in problems
            )
    return ""
