"""What a server or the way to it does wrong → the error tree, with the server's words and without any secret."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp

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
    from duet_sdk.types import Json

_WORDS = 300
_READ = 1200
_SHARED = 12
"""Characters in a row that a server's words may share with a prompt; more of them are an echo."""
_OVERFLOW = re.compile(r"context[ _](length|size|window)|maximum (input|model) length|max_model_len", re.IGNORECASE)
_OVERFLOW_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_WINDOW = re.compile(
    r"(?:context (?:length|size|window)[^.\d]{0,40}?|max_model_len\D{0,4}|n_ctx\D{0,4})(\d+)", re.IGNORECASE
)
_NEEDED = re.compile(
    r"(?:requested|contains(?: at least)?|resulted in|has|request \()\s*(\d+)\s*(?:in|tok)", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"model\b.{0,200}?\b(?:not (?:exist|found|supported)|unknown|no such)|(?:unknown|no such) model"
    r"|model_not_found|model\b.{0,200}?does ?n['o]t",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"'[^'\n]{61,}'|\"[^\"\n]{61,}\"|`[^`\n]{61,}`", re.DOTALL)
_NUMBERS = re.compile(r"\d+(?:\s*,\s*\d+){3,}")


class Failures:
    """Makes the errors of one endpoint.

    Args:
        backend: the backend's name.
        model: the model as the backend knows it.
        url: where it is served; shown.
        secrets: what must never be shown.
    """

    def __init__(self, *, backend: str, model: str, url: str, secrets: tuple[str, ...] = ()) -> None:
        self._facts: dict[str, Any] = {"backend": backend, "model": model}
        self._who = f"{backend}/{model} at {url}"
        self._secrets = tuple(secret for secret in secrets if secret)

    def no_connection(self, error: Exception) -> ConnectFailed:
        """Nothing came back before the answer's headers; a certificate that is not accepted is not tried again."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause = error.certificate_error
            why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
            return ConnectFailed(
                f"{self._who}: its certificate is not accepted ({why}); name an authority of your own in the "
                "environment variable SSL_CERT_FILE before Python starts, or correct the URL",
                retryable=False,
                **self._facts,
            )
        if isinstance(error, aiohttp.ClientSSLError):
            reason = "the TLS connection failed; does the server speak https there?"
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            reason = "the name of its host is unknown; wrong URL?"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            reason = "no connection in the time that connect_s allows; is the server running?"
        elif isinstance(error, TimeoutError):
            reason = "connected, but no answer in the time that read_s allows"
        elif isinstance(error, aiohttp.ClientConnectorError):
            reason = f"no connection ({type(error.os_error).__name__}); is the server running there?"
        elif isinstance(error, aiohttp.ClientResponseError):
            reason = "its answer is no HTTP; wrong URL or wrong port?"
        else:
            reason = f"the connection was closed without an answer ({type(error).__name__})"
        return ConnectFailed(f"{self._who}: {reason}", **self._facts)

    def cut(self, error: Exception) -> StreamBroken:
        """The way to the server broke after its answer had begun."""
        if isinstance(error, TimeoutError):
            return self.broken("nothing more came in the time that read_s allows")
        return self.broken(f"the connection was cut within the answer ({type(error).__name__})")

    def broken(self, reason: str, *, status: int | None = None) -> StreamBroken:
        """An answer that cannot be read, or ended too early."""
        return StreamBroken(f"{self._who}: {reason}", status=status, **self._facts)

    def unreadable(self, error: Exception) -> StreamBroken:
        """A piece of a stream that is not of the form it should have."""
        return self.broken(f"a piece of its answer cannot be read ({type(error).__name__})")

    def wrong_url(self, reason: str, *, status: int | None = None) -> ConnectFailed:
        """Something answers there, but no server of this kind."""
        return ConnectFailed(f"{self._who}: {reason}; wrong URL?", status=status, retryable=False, **self._facts)

    def not_served(self, served: list[str]) -> ModelNotFound:
        """The server is there and lists other models."""
        shown = ", ".join(repr(name) for name in served[:10]) + (", …" if len(served) > 10 else "")
        return ModelNotFound(f"{self._who} is not served there; served are {shown}", **self._facts)

    def rejected(self, reason: str) -> Rejected:
        """A call that this server is known to refuse; nothing was sent."""
        return Rejected(f"{self._who}: {reason}", **self._facts)

    def status(self, status: int, headers: Mapping[str, str], body: bytes, sent: Json) -> DuetError:
        """An answer that says no.

        401 and 403 are `Authentication`; 404 is `ModelNotFound` or a wrong URL (`ConnectFailed`, not retryable); 408,
        425 and 429 are `RateLimited`; a prompt that is too long is `ContextOverflow`, any other 4xx `Rejected`. 5xx is
        `BackendError` itself, retryable but for 501: the server answered, so it is no `ConnectFailed`.
        """
        error = _error_object(body)
        if 300 <= status < 400:
            return self.wrong_url(f"it answers with a redirect ({status}), which is not followed", status=status)
        return self._refusal(status, error or {}, sent, retry_after=_retry_after(headers))

    def event(self, error: object, sent: Json, *, begun: bool) -> DuetError:
        """An error inside a stream; once something was written it is always `StreamBroken`."""
        facts = error if isinstance(error, Mapping) else {"message": error}
        code = facts.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else None
        if begun:
            return self.broken(f"the server ended its answer with an error{self._said(facts, sent)}", status=status)
        return self._refusal(status or 500, facts, sent)

    def _refusal(self, status: int, error: Json, sent: Json, *, retry_after: float | None = None) -> DuetError:
        full = _words(error)
        said = self._said(error, sent)
        facts = {**self._facts, "status": status, "retry_after": retry_after}
        if status in (401, 403):
            return Authentication(f"{self._who} refused the key, or wants one ({status}){said}", **facts)
        if status in (408, 425, 429):
            used_up = "insufficient_quota" in (error.get("code"), error.get("type"))
            wait = f"; it says to wait {retry_after:g} s" if retry_after is not None else ""
            return RateLimited(
                f"{self._who} asks to come back later ({status}){wait}{said}", retryable=not used_up, **facts
            )
        if status == 404:
            if error.get("code") == "model_not_found" or _NO_MODEL.search(full):
                return ModelNotFound(f"{self._who} is not served there ({status}){said}", **facts)
            return self.wrong_url(f"there is nothing at this address ({status}){said}", status=status)
        if status >= 500:
            return BackendError(f"{self._who} failed ({status}){said}", retryable=status != 501, **facts)
        if _OVERFLOW_CODES & {str(error.get("code")), str(error.get("type"))} or _OVERFLOW.search(full):
            return self._overflow(full, said, sent)
        return Rejected(f"{self._who} refused the request ({status}){said}", **facts)

    def _overflow(self, full: str, said: str, sent: Json) -> ContextOverflow:
        window, needed = _WINDOW.search(full), _NEEDED.search(full)
        prompt = sent.get("prompt")
        known = (len(prompt) if isinstance(prompt, list) else 0) + int(sent.get("max_tokens", 0))
        return ContextOverflow(
            f"prompt and limits do not fit the context of {self._who}{said}; shorten the conversation or lower the "
            "limits",
            model=str(self._facts["model"]),
            needed_tokens=int(needed[1]) if needed else known,
            context_tokens=int(window[1]) if window else 0,
        )

    def _said(self, error: Json, sent: Json) -> str:
        words = _words(error)[:_READ]
        for secret in self._secrets:
            words = words.replace(secret, "***")
        words = _without_echo(words, sent)
        words = _NUMBERS.sub("…", _QUOTED.sub("…", words))
        words = " ".join(words.split())
        if len(words) > _WORDS:
            words = words[: _WORDS - 1] + "…"
        return f": {words}" if words else ""


def _error_object(body: bytes) -> Json | None:
    """The error in a body: OpenAI's form, FastAPI's, or plain text that is no page."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return None if not text or text.startswith("<") else {"message": text}
    if not isinstance(value, dict):
        return {"message": value} if isinstance(value, str) else None
    error = value.get("error", value)
    return error if isinstance(error, dict) else {"message": error}


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


def _without_echo(words: str, sent: Json) -> str:
    """The words without what they repeat of the prompt, also where they write it escaped."""
    texts = [text for text in _texts(sent) if text.strip()]
    for text in texts:
        if len(text) < _SHARED:
            words = re.sub(rf"(?<!\w){re.escape(text.strip())}(?!\w)", "…", words)
    whole = "\n".join(form for text in texts for form in {text, json.dumps(text), repr(text)})
    marked = bytearray(len(words))
    for at in range(len(words) - _SHARED + 1):
        if words[at : at + _SHARED] in whole:
            marked[at : at + _SHARED] = b"\x01" * _SHARED
    kept = "".join("\0" if hidden else character for character, hidden in zip(words, marked, strict=True))
    return re.sub("\0+", "…", kept)


def _texts(sent: Json) -> Iterator[str]:
    """Every text of a request's prompt."""
    for message in sent.get("messages", ()):
        content = message.get("content")
        if isinstance(content, str):
            yield content
        else:
            for part in content or ():
                yield from (value for value in (part.get("text"), (part.get("image_url") or {}).get("url")) if value)
        for call in message.get("tool_calls", ()):
            yield call["function"]["arguments"]
    if isinstance(prompt := sent.get("prompt"), str):
        yield prompt


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: the header holds seconds or a date (RFC 9110, section 10.2.3)."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", given):
        return float(given)
    try:
        date = parsedate_to_datetime(given)
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
