"""Messages of servers and libraries made safe to show: no key, nothing of the request, and not too long."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from duet_sdk._shown import shown
from duet_sdk.backends import keys

if TYPE_CHECKING:
    from duet_sdk.types import Json

_SHOWN: Final = 300
"""Characters of a foreign message that an error shows: enough for a reason, too few for a traceback or a prompt."""
_READ: Final = 1 << 14
"""Characters that are looked at; what an error has to say stands at its beginning."""
_SHARED: Final = 12
"""Characters in a row that words may share with a prompt by chance; from here on they are an echo."""
_SHARED_KEY: Final = 8
"""The same for a key: servers like to quote its beginning and its end."""
_ANYWHERE: Final = 4
"""A key of this length or more is hidden wherever it stands, a shorter one where it stands alone."""
_QUOTE: Final = 3
"""From this length on, what stands between quotation marks and in the prompt, too, is an echo."""
_LONGEST_NUMBER_SHOWN: Final = 2
"""Digits of an argument's number that may be shown: hiding every 1 would make nonsense of a message."""
_IMAGE: Final = 4096
"""Characters of an image's data that are looked for; the rest is hidden as a long run without spaces."""

_IN_URL: Final = 4096
"""Characters of a text that are looked for as a URL writes them: servers take no longer one."""

_ECHO, _KEY = 1, 2
_QUOTES: Final = re.compile(r"'([^'\n]{3,60})'|\"([^\"\n]{3,60})\"|`([^`\n]{3,60})`")
_LONG_QUOTE: Final = re.compile(r"'[^'\n]{61,}'|\"[^\"\n]{61,}\"|`[^`\n]{61,}`")
_DATA: Final = re.compile(r"data:\w+/\S+|[A-Za-z0-9+/]{40,}={0,2}")
_NUMBERS: Final = re.compile(r"(?<!\d)\d++(?:\s*+,\s*+\d++){3,}")
_SPACE: Final = re.compile(r"\s")
_LABEL: Final = 1000
"""Characters of one of our own errors in a label: the longest of them, foreign words and advice included, fits."""


def redacted(words: str, *, texts: Iterable[str] = (), secrets: Iterable[str] = ()) -> str:
    """At most 300 characters of the words, on one line.

    Args:
        words: what a server or library says.
        texts: what was sent, as `texts_of` finds it. A run of 12 characters that the words share with them is hidden,
            also where they write it escaped or in other case; a shorter text is hidden as a whole.
        secrets: what must never be shown. A run of 8 characters of them is hidden, and whatever looks like a key.
    """
    is_cut, words = len(words) > _READ, words[:_READ]
    plain = _plain(words)
    marks = bytearray(len(words))
    for mark, found in ((_ECHO, _echoes(plain, texts)), (_KEY, _keys(words, plain, secrets))):
        for begin, end in found:
            piece = plain[begin:end]  # spaces at its ends stay, so that words do not grow together
            for at in range(end - len(piece.lstrip(" ")), begin + len(piece.rstrip(" "))):
                marks[at] = mark
    if is_cut:
        # The end of what is read may hold the beginning of an echo, too short by now to be known for one.
        words, marks = words[:-_SHARED], marks[:-_SHARED]
    shown = "".join(
        character if not mark else ("\0" if mark == _ECHO else "\1")
        for character, mark in zip(words.replace("\0", " ").replace("\1", " "), marks, strict=True)
    )
    shown = re.sub("\1+", "***", re.sub("\0+", "…", shown))
    for pattern in (_LONG_QUOTE, _DATA, _NUMBERS):
        shown = pattern.sub("…", shown)
    shown = " ".join(shown.split())
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


def one_line(words: str) -> str:
    """An error's own words for a label: on one line, no control character, nothing that looks like a key."""
    safe = keys.hidden(shown(" ".join(words[:_READ].split())))
    return safe if len(safe) <= _LABEL else safe[: _LABEL - 1] + "…"


def texts_of(sent: Json) -> Iterator[str]:
    """What of a request's body must not be repeated: every text, image and tool argument of its prompt."""
    for message in sent.get("messages") or ():
        for name, value in message.items():
            if name in ("content", "name", "reasoning", "reasoning_content"):
                yield from _strings(value)
        for call in message.get("tool_calls") or ():
            yield from _strings(call["function"]["arguments"])
    if isinstance(prompt := sent.get("prompt"), str):
        yield prompt


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from _values_in(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in ("type", "detail"):
                yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _values_in(text: str) -> Iterator[str]:
    """The values in a text that is JSON, as a tool's arguments and results are: a server may repeat one alone."""
    if not text.lstrip().startswith(("{", "[")):
        return
    try:
        left = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while left:
        match left.pop():
            case dict() as fields:
                left += fields.values()
            case list() as items:
                left += items
            case str() as value:
                yield value
            case int() | float() as number if len(str(number)) > _LONGEST_NUMBER_SHOWN and not isinstance(number, bool):
                yield str(number)


def _echoes(plain: str, texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where the words repeat one of the texts."""
    forms = {form for text in texts if text.strip() for form in _forms(text.strip())}
    whole = "\0".join(form for form in forms if len(form) >= _SHARED)
    yield from _runs(plain, whole, _SHARED)
    for form in forms:
        if len(form) < _SHARED:
            yield from _alone(plain, form)
    for found in _QUOTES.finditer(plain):
        group = found.lastindex or 0
        if found[group] in whole:
            yield found.span(group)


def _keys(words: str, plain: str, secrets: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where the words hold a key, a part of one, or what looks like one."""
    written = {way for secret in secrets if secret.strip() for way in keys.spellings(secret.strip())}
    forms = {form for way in written for form in _forms(way)}
    yield from _runs(plain, "\0".join(form for form in forms if len(form) >= _SHARED_KEY), _SHARED_KEY)
    for form in forms:
        if len(form) < _ANYWHERE:
            yield from _alone(plain, form)
        elif len(form) < _SHARED_KEY:
            yield from _runs(plain, form, len(form))
    yield from keys.places(words)


def _runs(words: str, text: str, least: int) -> Iterator[tuple[int, int]]:
    """Where the words share at least so many characters in a row with the text."""
    # A prompt may be megabytes, so not every place of it is looked at: of any run of `least` characters it has a seed
    # that begins at a multiple of the stride. Where the words have that seed, too, the runs around it are compared. No
    # search in the prompt depends on the words: who writes them must not be able to make it long.
    seed = -(-2 * least // 3)
    stride = least - seed + 1
    runs = {words[at : at + least] for at in range(len(words) - least + 1)}
    seeds = {run[at : at + seed] for run in runs for at in range(stride)}
    around = {
        text[max(0, at - stride + 1) : at + least]
        for at in range(0, len(text) - seed + 1, stride)
        if text[at : at + seed] in seeds
    }
    shared = {piece[at : at + least] for piece in around for at in range(stride)}
    shared &= runs
    begin = end = 0
    for at in range(len(words) - least + 1) if shared else ():
        if words[at : at + least] not in shared:
            continue
        if at >= end:
            if end > begin:
                yield begin, end
            begin = at
        end = at + least
    if end > begin:
        yield begin, end


def _alone(words: str, text: str) -> Iterator[tuple[int, int]]:
    """Where the text stands in the words, but not as a part of a longer word."""
    for found in re.finditer(rf"(?<![a-z0-9_]){re.escape(text)}(?![a-z0-9_])", words):
        yield found.span()


def _forms(text: str) -> set[str]:
    """A text as messages write it: as it is, as JSON once and twice, as Python, in a URL; all in `_plain` form."""
    if text.startswith("data:"):
        text = text[:_IMAGE]
    escaped = json.dumps(text)[1:-1]
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    forms = (text, escaped, written, json.dumps(escaped)[1:-1], json.dumps(written, ensure_ascii=False)[1:-1])
    in_url = quote(text[:_IN_URL], safe="/", errors="replace")
    return {_plain(form) for form in (*forms, repr(text)[1:-1], in_url, in_url.replace("/", "%2f"))}


def _plain(text: str) -> str:
    """In lower case, all whitespace as spaces; each character stays in its place."""
    # The two characters whose lower case is not one character by itself.
    return _SPACE.sub(" ", text.replace("İ", "i").lower().replace("ς", "σ"))
