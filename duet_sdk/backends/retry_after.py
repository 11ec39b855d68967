"""How long a server asks to wait: in its headers, in its error object, or in its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NUMBER: Final = re.compile(r"[0-9]{1,13}(\.[0-9]{1,9})?")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART: Final = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
)
_ASKS: Final = re.compile(
    rf"(?:try(?:ing)? again|retry(?:ing)?|wait)(?: your request)? (?:in|after|for) "
    rf"((?:{_PART.pattern}[\s,]{{0,2}}){{1,4}})",
    re.IGNORECASE,
)
"""Groq: "try again in 9m38.016s"; Gemini: "retry in 44.3s"; Azure: "retry after 20 seconds"."""
_EPOCH_S: Final = 1_000_000_000
"""From here on a number of seconds is a date, since 2001; a thousand times as much is one in milliseconds."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by the headers; None where none says it, or none that can be read.

    ``Retry-After`` holds seconds or a date (RFC 9110, section 10.2.3), and at some gateways a duration such as ``2m``
    or seconds since 1970; ``retry-after-ms`` is OpenAI's and Azure's.
    Where neither is there, a limit that is used up says when it is full again (``x-ratelimit-reset-…``).
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    if _SECONDS.fullmatch(millis := given.get("retry-after-ms", "")):
        return float(millis) / 1000
    if (asked := given.get("retry-after")) is not None:
        return _reset(asked)
    resets = [_reset(value) for name, value in given.items() if _is_used_up(name, given)]
    return max((wait for wait in resets if wait is not None), default=None)


def asked_in(words: str) -> float | None:
    """Seconds to wait, by what a server says in words."""
    found = _ASKS.search(words)
    return _duration(found[1]) if found else None


def told_as(value: object) -> float | None:
    """Seconds to wait, as a field of an error: seconds, ``34s``, or ``{"seconds": 34}`` (Gemini's ``retryDelay``)."""
    if isinstance(value, Mapping):
        value = value.get("seconds")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < _EPOCH_S else None
    if not isinstance(value, str) or len(value) > 64:
        return None
    return float(value) if _SECONDS.fullmatch(value) else _duration(value)


def _is_used_up(name: str, given: Mapping[str, str]) -> bool:
    if "ratelimit" not in name or "reset" not in name:
        return False
    return given.get(name.replace("reset", "remaining")) == "0"


def _reset(value: str) -> float | None:
    """Seconds until then: a number of them, a duration, or a date in any of its forms."""
    if not _NUMBER.fullmatch(value):
        return _duration(value) if _PART.match(value) else _until(value)
    number = float(value)
    if number >= _EPOCH_S:
        date_s = number / 1000 if number >= _EPOCH_S * 1000 else number
        return max(0.0, date_s - datetime.now(UTC).timestamp())
    return number


def _duration(text: str) -> float | None:
    parts = _PART.findall(text.lower())
    return sum(float(number) * _UNITS[_unit(unit)] for number, unit in parts) if parts else None


def _unit(word: str) -> str:
    return "ms" if word.startswith("mil") or word == "ms" else word[0]


def _until(given: str) -> float | None:
    """Seconds until a date, in HTTP's form or ISO's."""
    try:
        date = datetime.fromisoformat(given) if given[:4].isdigit() else parsedate_to_datetime(given)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
