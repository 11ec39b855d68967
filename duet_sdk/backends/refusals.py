"""What a server answers in place of what was asked for, in any form: its words, codes and numbers, within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json

from duet_sdk.backends.retry_after import asked_in, retry_after, told_as

if TYPE_CHECKING:
    from duet_sdk.types import Json

_WORDS: Final = (
    "message",
    "msg",
    "detail",
    "error_description",
    "error_msg",
    "status_msg",
    "errorMessage",
    "description",
    "title",
)
"""Fields that say in words what is wrong, the best first: OpenAI, GLM, FastAPI, OAuth, Baidu, MiniMax, …, RFC 9457."""
_CODES: Final = (
    "error",
    "code",
    "type",
    "status",
    "reason",
    "status_code",
    "error_code",
    "errorCode",
    "error_type",
    "__type",
    "limit_source",
)
"""Fields that name the error; ``error`` does where it is one word (OAuth, Kimi's gateway)."""
_INSIDE: Final = (
    "error",
    "errors",
    "detail",
    "details",
    "innererror",
    "inner_error",
    "base_resp",
    "metadata",
    "raw",
    "response",
    "Error",
)
"""Fields that may hold another error object, or a list of them; ``raw`` is what OpenRouter's own provider said."""
_WAITS: Final = ("retryDelay", "retry_after", "retryAfter", "retry_after_seconds")
_STATUSES: Final = ("code", "status", "status_code", "http_code")
_ALL_WELL: Final = (
    None,
    0,
    200,
    "0",
    "200",
    "ok",
    "success",
    "chat.completion.chunk",
    "chat.completion",
    "text_completion",
)
"""What stands in an answer's codes and kind where there is no error."""
_EVENT: Final = ("data:", "event:")
"""What an error begins with that is sent as an event of a stream in place of a body."""
_DECODER: Final = json.JSONDecoder()
_DEEPEST: Final = 6
"""Levels of error objects within each other; the deepest known has four, as JSON in the words of another."""
_MOST: Final = 8
"""Entries of a list that are read: what is wrong with a request is said by the first."""
_LONGEST: Final = 1 << 14
"""Characters that are read of each text: what an error has to say stands at its beginning."""
_PAGE: Final = re.compile(r"<(title|message|code)\b[^>]{0,200}>([^<]{1,300})", re.IGNORECASE)
"""What a page or an XML document says: proxies in front of a server answer with one."""


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
    """Seconds that it asks to wait."""
    fields: Json = field(default_factory=dict)
    """The error object itself, where it is one."""

    @classmethod
    def of(cls, status: int | None, error: object, *, wait_s: float | None = None) -> Refusal:
        """From an error as it stands in an answer: an object, a list, a text, JSON within a text, or nothing.

        Args:
            status: of HTTP; where there is none, or it is a success, the one that the error names counts.
            error: the error.
            wait_s: the wait that the headers ask for.
        """
        found = _Found()
        found.read(error, 0)
        # A surrogate on its own, which JSON can hold, could not be written to a log.
        words = "; ".join(dict.fromkeys(found.words)).encode("utf-8", "replace").decode()[:_LONGEST]
        if status is None or status < 400:
            status = found.status
        if wait_s is None:
            wait_s = found.wait_s if found.wait_s is not None else asked_in(words)
        return cls(status, words, frozenset(found.codes), wait_s, found.fields)

    @classmethod
    def of_body(cls, status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
        """From a whole answer of HTTP."""
        refusal = cls.of(status, parsed(body), wait_s=retry_after(headers))
        kind = next((value for name, value in headers.items() if name.lower() == "x-amzn-errortype"), "")
        codes = refusal.codes | {kind.partition(":")[0]} if kind else refusal.codes
        return cls(status, refusal.words, codes, refusal.retry_after, refusal.fields)


def parsed(body: bytes | str) -> object:
    """What a body holds: JSON, also where it breaks off, or its text; of a page its title."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    text = text.replace("\0", "").strip()
    if text.startswith(("{", "[")):
        try:
            return from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return text
    if text.startswith("<"):
        told = {name.lower(): " ".join(said.split()) for name, said in _PAGE.findall(text[:_LONGEST])}
        return {"message": told.get("message") or told.get("title"), "code": told.get("code")}
    return text


def error_within(value: object) -> object:
    """The error in an answer that claims to be a success; None where there is none.

    Beside ``error`` there are MiniMax's ``base_resp``, the bare ``message`` or ``msg`` of vLLM and gateways, FastAPI's
    ``detail``, and a list with an error in it (Gemini).
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0] if isinstance(value[0], Mapping) and "error" in value[0] else None
    if not isinstance(value, Mapping):
        return None
    base = value.get("base_resp")
    if value.get("error") or value.get("errors") or (isinstance(base, Mapping) and base.get("status_code")):
        return value
    if value.get("choices") or not any(value.get(name) for name in ("message", "msg", "detail")):
        return None
    names = [value.get(name) for name in ("code", "status", "error_code", "object")]
    return value if "detail" in value or any(name not in _ALL_WELL for name in names) else None


class _Found:
    """What was found in an error, read from the outside in."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.codes: set[str] = set()
        self.status: int | None = None
        self.wait_s: float | None = None
        self.fields: Json = {}

    def read(self, value: object, depth: int, *, within: str = "") -> None:
        """Take what a value says; ``within`` is the field where it stood."""
        if depth > _DEEPEST:
            return
        if isinstance(value, str):
            self._text(value[:_LONGEST].strip(), depth)
        elif isinstance(value, Mapping):
            self._object(value, depth, within)
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            for entry in value[:_MOST]:
                self.read(entry, depth + 1, within=within)

    def _text(self, text: str, depth: int) -> None:
        """A text, and an error object that stands in it as JSON."""
        inner = _embedded(text)
        if inner is not None:
            known = len(self.words)
            self.read(inner, depth + 1)
            if len(self.words) > known:
                return
        if text:
            self.words.append(text)

    def _object(self, error: Mapping[str, object], depth: int, within: str) -> None:
        if "loc" in error and "msg" in error:
            # FastAPI: the place and the problem; its "input" is what was sent, and is left out.
            self.words.append(f"{_place(error['loc'])}: {error['msg']}"[:_LONGEST])
            return
        self.fields = {**error, **self.fields}
        for name in _CODES:
            if (code := _code(error.get(name))) is not None:
                self.codes.add(f"{within} {code}" if within == "base_resp" else code)
        for name in _STATUSES:
            self.status = self.status or _status(error.get(name))
        for name in _WAITS:
            self.wait_s = told_as(error.get(name)) if self.wait_s is None else self.wait_s
        said = next((said for name in _WORDS if isinstance(said := error.get(name), str) and said.strip()), "")
        self._text(said[:_LONGEST].strip(), depth)
        for name in _INSIDE:
            inner = error.get(name)
            if (
                inner is not None
                and inner is not said
                and not (said and name == "error" and _code(inner) in self.codes)
            ):
                self.read(inner, depth + 1, within=name)


def _embedded(text: str) -> Json | None:
    """The error object within a text, as gateways write it behind words of their own."""
    at = text.find("{")
    if at < 0:
        return None
    try:
        found, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    is_whole = at == 0 or text.startswith(_EVENT)
    return found if isinstance(found, dict) and (is_whole or "error" in found) else None


def _code(value: object) -> str | None:
    """A name or a number of an error; of an address (RFC 9457) and of a qualified name (AWS) the last part."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        return str(value)
    if " " in value.strip():
        return None  # a sentence
    return re.split(r"[/#]", value[:200].rstrip("/"))[-1] or None


def _status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return value if type(value) is int and 400 <= value < 600 else None


def _place(loc: object) -> str:
    parts: Iterator[object] = iter(loc) if isinstance(loc, list | tuple) else iter(())
    return ".".join(str(part) for part in parts)
