"""What goes wrong at a server, in a library or on the way → the error tree, in its own words without any secret."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from duet_sdk.backends.overflow import asked_limit, numbers_of, room_left
from duet_sdk.backends.provider_errors import Meaning, meaning_of
from duet_sdk.backends.redaction import redacted, texts_of
from duet_sdk.backends.refusals import Refusal
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContentFiltered,
    ContextOverflow,
    DuetError,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
    StreamBroken,
)

if TYPE_CHECKING:
    from duet_sdk.reply import StageUsage
    from duet_sdk.types import Json

_NO_MODEL: Final = re.compile(
    r"model\b.{0,200}?\b(?:not (?:exist|found|supported)|unknown|no such)|(?:unknown|no such) model"
    r"|model_not_found|model\b.{0,200}?does ?n['o]t|^models?[:/]",
    re.IGNORECASE | re.DOTALL,
)
"""A model that is not there, in the words of a 404, which otherwise means the address."""

_ERRORS: Final[Mapping[Meaning | None, tuple[type[BackendError], str, bool]]] = {
    "quota": (QuotaExceeded, "has no credit or quota left for this call", False),
    "filtered": (ContentFiltered, "stopped this call by its content filter", False),
    "key": (Authentication, "rejected the API key, or requires one", False),
    "forbidden": (Authentication, "does not allow this key, account or region to use it", False),
    "model": (ModelNotFound, "is not served there", False),
    "rate": (RateLimited, "is rate limiting requests", True),
    "overloaded": (BackendError, "is overloaded", True),
    "failed": (BackendError, "failed", True),
    "refused": (Rejected, "refused the request", False),
    None: (BackendError, "failed", False),
}
"""What an error means → its class, what it says, and whether trying again may help."""
_CONSIDERED: Final = 4096
"""Characters of a server's words in which its meaning is looked for: a page; it stands at their beginning."""
_LASTING: Final = frozenset(("quota", "filtered", "key", "forbidden", "overflow"))
"""What does not pass within seconds, also where an answer had begun."""
_NO_KEY: Final = "Missing credentials"
"""How OpenAI's client begins where it has no key; nothing was sent then, and LiteLLM makes up a status of 500."""
_CANNOT: Final = 501
"""The status of a server that cannot do this and never will."""


def _is_plain(error: BaseException) -> bool:
    """Whether what came in place of TLS was no TLS at all, as from a server of plain HTTP."""
    return isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


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
                f"{self._who}: its certificate was rejected ({why}); to trust an authority of your own, name "
                "its file: option ca_file, or variable SSL_CERT_FILE before Python starts; or correct the URL",
                retryable=False,
                **self._facts,
            )
        if isinstance(error, aiohttp.ClientHttpProxyError):
            refuses = 400 <= error.status < 500
            return ConnectFailed(
                f"{self._who}: the proxy did not open a tunnel to it ({error.status})",
                retryable=not refuses,
                **self._facts,
            )
        if isinstance(error, aiohttp.ClientConnectorSSLError) and _is_plain(error.os_error):
            return ConnectFailed(
                f"{self._who}: the TLS connection failed, as the server speaks no https there; write http://",
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
        elif isinstance(error, aiohttp.ClientProxyConnectionError):
            reason = f"could not connect to the proxy ({type(error.os_error).__name__}); is it running?"
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
        """An answer that had begun and was ended by an error; not worth a retry where that says so.

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
            retryable=_meaning(refusal, sent) not in _LASTING,
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
        shown = ", ".join(repr(redacted(name, secrets=self._secrets)) for name in served[:10]) + (
            ", …" if len(served) > 10 else ""
        )
        return ModelNotFound(f"{self._who} is not served there; available: {shown}", **self._facts)

    def rejected(self, reason: str) -> Rejected:
        """A call that this server is known to refuse; nothing was sent."""
        return Rejected(f"{self._who}: {reason}", **self._facts)

    def status(self, status: int, headers: Mapping[str, str], body: bytes, sent: Json) -> DuetError:
        """An answer with a status that is not a success: see `refused`."""
        if 300 <= status < 400:
            return self.wrong_url(f"it responds with a redirect ({status}), which is not followed", status=status)
        return self.refused(Refusal.of_body(status, headers, body), sent)

    def event(self, error: object, sent: Json, *, begun: bool) -> DuetError:
        """An error inside a stream, or in an answer with status 200.

        Once something was written it is always `StreamBroken`. What neither says nor means anything known counts as a
        500, which may pass.
        """
        refusal = Refusal.of(None, error)
        if begun:
            return self.broke_off(refusal, sent)
        if refusal.status is None and _meaning(refusal, sent) is None:
            refusal = replace(refusal, status=500)
        return self.refused(refusal, sent)

    def refused(self, refusal: Refusal, sent: Json, *, context_tokens: int | None = None) -> DuetError:
        """The error of a request that was refused.

        What codes and words mean (`duet_sdk.backends.provider_errors`) goes before the status. By status alone 401 and
        403 are `Authentication`; 402 is `QuotaExceeded`; 404 is `ModelNotFound` or a wrong URL (`ConnectFailed`, not
        retryable); 408, 425 and 429 are `RateLimited`; any other 4xx is `Rejected`, and 5xx `BackendError` itself,
        retryable but for 501: the server answered, so it is not a `ConnectFailed`. Without a status and a meaning
        nothing is known: `BackendError`, not retryable.

        Args:
            refusal: what was said.
            sent: the request's body, whose texts are not repeated.
            context_tokens: the model's window, as far as it is known without the server's words.
        """
        said, status, meaning = self._said(refusal, sent), refusal.status, _meaning(refusal, sent)
        if meaning == "overflow":
            return self._overflow(refusal, said, sent, context_tokens)
        if status == 404 and meaning == "refused":
            if not _NO_MODEL.search(refusal.words):
                return self.wrong_url(f"there is nothing at this address (404){said}", status=404)
            meaning = "model"
        kind, what, may_pass = _ERRORS[meaning]
        if status == _CANNOT:
            what, may_pass = "cannot do this", False
        number = "" if status is None else f" ({status})"
        if meaning == "key" and refusal.words.startswith(_NO_KEY):
            what, number = "was not asked, as no API key is set", ""
        wait = ""
        if may_pass and refusal.retry_after is not None:
            wait = f"; it asks to retry after {refusal.retry_after:g} s"
        return kind(
            f"{self._who} {what}{number}{wait}{said}",
            status=status,
            retry_after=refusal.retry_after,
            retryable=may_pass,
            **self._facts,
        )

    def _overflow(self, refusal: Refusal, said: str, sent: Json, context_tokens: int | None) -> ContextOverflow:
        needed, window = numbers_of(refusal.words[:_CONSIDERED], refusal.fields, sent)
        return ContextOverflow(
            f"prompt and limits do not fit the context of {self._who}{said}; shorten the conversation or lower the "
            "limits",
            model=str(self._facts["model"]),
            needed_tokens=needed or 0,
            context_tokens=window or context_tokens or 0,
        )

    def _said(self, refusal: Refusal, sent: Json) -> str:
        words = redacted(refusal.words, texts=texts_of(sent), secrets=self._secrets)
        return f": {words}" if words else ""


def _meaning(refusal: Refusal, sent: Json) -> Meaning | None:
    """What a refusal means: a limit that the server worked out itself as none is a window that the prompt fills."""
    left = room_left(refusal.words) if refusal.status in (400, 422, None) else None
    if left is not None and left < 1 <= asked_limit(sent):
        return "overflow"
    return meaning_of(
        refusal.status, refusal.codes, refusal.words[:_CONSIDERED], told_when=refusal.retry_after is not None
    )
