"""Untrusted text made harmless: what would be read as a control token or a role marker no longer is.

This stops control, not persuasion: the text still says what it says.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from duet_sdk.rendering.control_strings import PATTERN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

ZERO_WIDTH_SPACE = "\u200b"
WORD_JOINER = "\u2060"
BREAKERS = (ZERO_WIDTH_SPACE, WORD_JOINER, " ")
"""What is put inside a control string; the later ones for tokenizers that drop the earlier."""
UNUSABLE = "\ufdd0"
"""A noncharacter that no text holds after `clean`; it renames vocabulary that text must not reach."""

Span = tuple[int, int]
_MARKED = re.compile(r"[\[<{◁＜｟｛]{1,2}[^\s\[\]<>{}]{1,64}[\]>}▷＞｠｝]{1,2}")
_MOST_SUSPECTS = 256
"""More different ones stand in no text but one that means to hide some; a question to the server stays short."""

_UNSAFE = re.compile(f"[\ud800-\udfff{UNUSABLE}]")


def neutralise_unknown(text: str, *, also: Collection[str] = ()) -> str:
    r"""Untrusted text for a model whose tokenizer is not available: well-known control strings are broken.

    A zero-width space after its first character breaks each; all other text comes out unchanged. Idempotent. The
    strings are those of `duet_sdk.rendering.control_strings`, and ``also`` those.

    >>> neutralise_unknown("17 primes</think>").encode()
    b'17 primes<\xe2\x80\x8b/think>'
    """
    if not text:
        return text
    text = clean(text)
    for string in also:
        text = text.replace(string, f"{string[0]}{ZERO_WIDTH_SPACE}{string[1:]}")
    pieces, done = [], 0
    for _, end in find(PATTERN, text):  # what matches is the first character of each
        pieces += [text[done:end], ZERO_WIDTH_SPACE]
        done = end
    return "".join(pieces) + text[done:]


def suspects(text: str) -> list[str]:
    """What of untrusted text looks like a control token but is in no table; not more than a server is to be asked."""
    if text.isascii() and "<" not in text and "[" not in text and "{" not in text:
        return []  # most signals
    found: dict[str, None] = {}
    for match in _MARKED.finditer(text):
        string = match[0]
        if ZERO_WIDTH_SPACE not in string and any(map(str.isalpha, string)) and not PATTERN.match(string):
            found[string] = None
            if len(found) == _MOST_SUSPECTS:
                break
    return list(found)


def clean(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, as replacement characters."""
    return text if text.isascii() else _UNSAFE.sub("\ufffd", text)


def without_leading_accents(text: str) -> str:
    """The text from its first character that stands alone: an accent would change what precedes the text."""
    start = 0
    while start < len(text) and unicodedata.combining(text[start]):
        start += 1
    return text[start:]


def find(pattern: re.Pattern[str], text: str, *, without: Sequence[str] = ()) -> list[Span]:
    """Where ``pattern`` matches, also through compatibility forms (fullwidth letters), as spans of ``text``.

    Characters in ``without`` are read over, as by a tokenizer that drops them.
    """
    if text.isascii():
        return [match.span() for match in pattern.finditer(text)]
    # By the characters that occur, and then by whole texts: one at a time, a long text would take seconds.
    forms: dict[str, str] = {
        character: folded
        for character in set(text)
        if (folded := "" if character in without else unicodedata.normalize("NFKC", character)) != character
    }
    found = [
        match.span()
        for match in pattern.finditer(text.translate({ord(character): folded for character, folded in forms.items()}))
        if match.end() > match.start()
    ]
    resized = "".join(character for character, folded in forms.items() if len(folded) != 1)
    if not found or not resized:
        return found
    origin = _Origin(text, resized, forms)
    return [(origin.of(start), origin.of(end - 1) + 1) for start, end in found]


class _Origin:
    """Places of a folded text → places of the text itself, where some characters became longer, or nothing."""

    def __init__(self, text: str, resized: str, forms: Mapping[str, str]) -> None:
        self._places: list[int] = []
        self._ends: list[int] = []
        self._starts: list[int] = []
        moved = 0
        for match in re.finditer(f"[{re.escape(resized)}]", text):
            length = len(forms[match[0]])
            self._places.append(match.start())
            self._starts.append(match.start() + moved)
            self._ends.append(match.start() + moved + length)
            moved += length - 1

    def of(self, at: int) -> int:
        """The place of the character that the folded one at this place came from."""
        last = bisect_right(self._starts, at) - 1
        if last < 0:
            return at
        return self._places[last] + max(0, at - self._ends[last] + 1)


def split(text: str, spans: Iterable[Span], breaker: str) -> str:
    """``breaker`` put after the first visible character of each span; a span of one character goes."""
    pieces: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start < done:
            continue  # overlaps the one before; the next look finds what is left of it
        first = end - len(text[start:end].lstrip())
        if end - first > 1:
            pieces += [text[done : first + 1], breaker]
            done = first + 1
        else:
            pieces.append(text[done:start])
            done = end
    return "".join(pieces) + text[done:]


def drop(text: str, spans: Iterable[Span]) -> str:
    """The text without any of the characters that the spans begin with, and so shorter each time."""
    first = {segment[0] for start, end in spans if (segment := text[start:end].lstrip() or text[start:end])}
    return "".join(character for character in text if character not in first)


def marker_pattern(markers: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for role markers in any case; a marker of letters alone counts only as a whole line."""
    forms = []
    for marker in sorted(markers, key=len, reverse=True):
        form = r"\s+".join(re.escape(word) for word in marker.split())
        forms.append(form if re.search(r"[^\w\s]", marker) else rf"(?m:^[^\S\n]*{form}[^\S\n]*$)")
    return re.compile("|".join(forms), re.IGNORECASE) if forms else None


def bare_tokenizer(raw: dict[str, Any], *, control: frozenset[int]) -> dict[str, Any]:
    """The tokenizer's JSON changed so that no text can become an id in ``control``.

    Added tokens and post-processor go. That alone is not enough: the same strings often stand in the
    model's own vocabulary, where Unigram finds them as pieces, BPE through merges or ``ignore_merges``.
    There they are renamed to something that no text holds. All other text keeps its ids.
    """
    model = raw["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        renamed: object = [
            [f"{UNUSABLE}{at}", *entry[1:]] if at in control else entry for at, entry in enumerate(vocabulary)
        ]
        gone: set[str] = set()
    else:
        gone = {piece for piece, at in vocabulary.items() if at in control}
        renamed = {(f"{UNUSABLE}{at}" if piece in gone else piece): at for piece, at in vocabulary.items()}
    model = {**model, "vocab": renamed}
    if gone and "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _touches(pair, gone)]
    # Text after a control token is not the start of the prompt, so it gets no space of its own in front.
    return {
        **raw,
        "added_tokens": [],
        "post_processor": None,
        "model": model,
        "pre_tokenizer": _never_first(raw.get("pre_tokenizer")),
    }


def _touches(pair: str | Sequence[str], gone: set[str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left in gone or right in gone or left + right in gone


def _never_first(pre_tokenizer: object) -> object:
    """SentencePiece's space before the first word is for the prompt's first word, not for a later piece's."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    if pre_tokenizer.get("type") == "Sequence":
        return {
            **pre_tokenizer,
            "pretokenizers": [_never_first(one) for one in pre_tokenizer["pretokenizers"]],
        }
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        return {**pre_tokenizer, "prepend_scheme": "never"}
    return pre_tokenizer
