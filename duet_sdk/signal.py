"""The reasoner's output → the signal: what of it counts, and what a cut one becomes.

Counting and the limit itself live in `duet_sdk.pipeline.counting`, rendering safely in `duet_sdk.rendering`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from duet_sdk.errors import ConfigError, SignalError

THINK_TAGS = ("<think>", "</think>")


class Extractor:
    """Finds the signal in the reasoner's output while it streams.

    ``take="thinking"`` (think handoff): the text inside the first block; with only a closing tag, what stands before
    it; with neither, everything. The first closing tag ends the block, whatever was opened inside, as the reasoner is
    stopped there. ``take="answer"`` (instruct handoff): what stands outside the block.

    Text that a server hands over as reasoning of its own is thinking; tags in it are text.

    Source: arXiv 2605.01111, the extraction of the signal.

    >>> extractor = Extractor("thinking")
    >>> extractor.feed("<thi"), extractor.feed("nk>17 primes</think>So"), extractor.closed
    ('', '17 primes', True)
    >>> extractor.text
    '17 primes'
    """

    def __init__(
        self, take: Literal["thinking", "answer"], *, tags: tuple[str, str] = THINK_TAGS, opened: bool = False
    ) -> None:
        self._take = take
        self._open, self._close = tags
        self._inside = opened
        self._pending = ""
        self._thinking: list[str] = []
        self._outside: list[str] = []
        self.closed = False
        """Whether the block has ended: nothing after it is signal under ``take="thinking"``."""
        self.ended = False
        """Whether nothing that comes now can belong to the signal, so that the reasoner can be stopped."""

    def feed(self, text: str, reasoning: str = "") -> str:
        """Take a piece of output; return the part to show."""
        shown: list[str] = []
        if reasoning:
            self._thinking.append(reasoning)
            if self._take == "thinking":
                shown.append(reasoning)
        if text:
            if self._thinking and not self._inside and not self._outside and self._take == "thinking":
                self._close_block()  # the server's reasoning part is over
            if not self._pending and self._open[0] not in text and self._close[0] not in text:
                self._put(text, shown)  # most pieces: no tag begins in them
            else:
                self._pending += text
                while self._step(shown):
                    pass
        return "".join(shown)

    def _step(self, shown: list[str]) -> bool:
        """Move text from the pending buffer to where it belongs, up to and with the next tag."""
        tag, at = self._next_tag()
        if tag is None:
            # A tag may be split over two pieces: keep back what could be the start of one.
            keep = max(overlap(self._pending, self._open), overlap(self._pending, self._close))
            self._put(self._pending[: len(self._pending) - keep], shown)
            self._pending = self._pending[len(self._pending) - keep :]
            return False
        self._put(self._pending[:at], shown)
        self._pending = self._pending[at + len(tag) :]
        if tag == self._open:
            self._inside = True
        else:
            if not self._inside:
                self._thinking += self._outside
            self._outside.clear()
            self._inside = False
            self._close_block()
        return True

    def _close_block(self) -> None:
        self.closed, self.ended = True, self._take == "thinking"

    def _next_tag(self) -> tuple[str | None, int]:
        if self.closed:
            return None, -1  # the block comes first; later tags are text
        found = [(at, tag) for tag in (self._open, self._close) if (at := self._pending.find(tag)) >= 0]
        return (min(found)[1], min(found)[0]) if found else (None, -1)

    def _put(self, text: str, shown: list[str]) -> None:
        if not text:
            return
        if self._inside:
            self._thinking.append(text)
        else:
            self._outside.append(text)
        wanted = (self._inside or not self.closed) if self._take == "thinking" else not self._inside
        if wanted:
            shown.append(text)

    @property
    def text(self) -> str:
        """The signal as far as it is known, without surrounding whitespace."""
        outside = ("".join(self._outside) + ("" if self._inside else self._pending)).strip()
        if self._take == "thinking" and (self.closed or self._inside or self._thinking):
            return self.thinking
        return outside

    @property
    def thinking(self) -> str:
        """What was thought, without surrounding whitespace."""
        return ("".join(self._thinking) + (self._pending if self._inside else "")).strip()


class LeadingThought:
    """Leaves out a think block at the very start of an answer; tags anywhere else are the answer's own text.

    >>> thought = LeadingThought()
    >>> thought.feed("<think>let me see") + thought.feed("</think>") + thought.feed(" 17") + thought.end()
    ' 17'
    """

    def __init__(self, tags: tuple[str, str] = THINK_TAGS) -> None:
        self._open, self._close = tags
        self._pending = ""
        self._inside = False
        self.is_over = False
        """Whether the answer's own text has begun: from now on `feed` gives back what it is given."""

    def feed(self, text: str, *, last: bool = False) -> str:
        """Take a piece of the answer, perhaps the last; gives what of it to show."""
        if last:
            return self.feed(text) + self.end()
        if self.is_over:
            return text
        self._pending += text
        if not self._inside:
            start = self._pending.lstrip()
            if start.startswith(self._open):
                self._inside, self._pending = True, start[len(self._open) :]
            elif not self._open.startswith(start):
                return self.end()
        if self._inside and (at := self._pending.find(self._close)) >= 0:
            self._inside, self._pending = False, self._pending[at + len(self._close) :]
            return self.end()
        if self._inside:
            self._pending = self._pending[len(self._pending) - overlap(self._pending, self._close) :]
        return ""

    def end(self) -> str:
        """What is left to show when the answer is over."""
        rest = "" if self._inside else self._pending
        self.is_over, self._pending = True, ""
        return rest


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of ``text`` that is a start of ``tag``, at most one less than the tag."""
    start = max(0, len(text) - len(tag) + 1)
    while (start := text.find(tag[0], start)) >= 0:
        if tag.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0


@runtime_checkable
class CutPolicy(Protocol):
    """What becomes of a signal that its limit or deadline cut off."""

    @property
    def name(self) -> str:
        """The policy's name."""

    @property
    def reserve(self) -> float:
        """Share of the limit, in [0, 1), kept back for a closing call; 0 makes none."""

    def cut(self, text: str, *, limit: int) -> str:
        """The signal that a cut text becomes.

        Raises:
            SignalError: the policy is to fail.
        """


@dataclass(frozen=True, slots=True)
class Keep:
    """The cut text as it is."""

    name: str = "keep"
    reserve: float = 0.0

    def cut(self, text: str, *, limit: int) -> str:
        """The text, without a character that the cut left half."""
        return _whole_characters(text)


_SENTENCE_END = re.compile(r"(?:(?<!\d)[.!?]|(?<=\d)[.!?](?=\s)|[。！？…])[\"'”’)\]]*(?=\s|$)|\n")


@dataclass(frozen=True, slots=True)
class Sentence:
    """The text up to its last whole sentence or line; the text itself where it holds none.

    >>> Sentence().cut("There are 17. They are 2, 3, 5 an", limit=12)
    'There are 17.'
    """

    name: str = "sentence"
    reserve: float = 0.0

    def cut(self, text: str, *, limit: int) -> str:
        """The text up to its last whole sentence."""
        text = _whole_characters(text)
        end = max((match.end() for match in _SENTENCE_END.finditer(text)), default=0)
        return text[:end].rstrip() or text


@dataclass(frozen=True, slots=True)
class WrapUp:
    """The reasoner is told to stop and writes a short final text out of a reserved share of the same limit.

    Where even that is cut, or fails, the text is trimmed to its last whole sentence.
    """

    reserve: float = 0.25
    name: str = "wrap_up"

    def __post_init__(self) -> None:
        """Check the share.

        Raises:
            ConfigError: a share outside (0, 1).
        """
        if not 0 < self.reserve < 1:
            raise ConfigError(f"the share that wrap_up reserves must be between 0 and 1, got {self.reserve}")

    def cut(self, text: str, *, limit: int) -> str:
        """The text up to its last whole sentence."""
        return Sentence().cut(text, limit=limit)


@dataclass(frozen=True, slots=True)
class Fail:
    """A cut signal is an error."""

    name: str = "error"
    reserve: float = 0.0

    def cut(self, text: str, *, limit: int) -> str:
        """Never returns a text.

        Raises:
            SignalError: always.
        """
        raise SignalError(
            f"the signal was cut at its limit of {limit} tokens and on_cut is 'error'; "
            "raise signal_tokens, or choose on_cut='sentence'"
        )


_POLICIES: dict[str, CutPolicy] = {p.name: p for p in (Keep(), Sentence(), WrapUp(), Fail())}


def cut_policy(given: str | CutPolicy) -> CutPolicy:
    """The cut policy of that name, or the user's own.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(given, str):
        if given not in _POLICIES:
            raise ConfigError(f"on_cut {given!r} is unknown; known: {', '.join(_POLICIES)}")
        return _POLICIES[given]
    if not isinstance(given, CutPolicy):
        raise ConfigError(f"on_cut must be a name or a CutPolicy, got {type(given).__name__}")
    reserve: object = given.reserve
    if not isinstance(reserve, int | float) or not 0 <= reserve < 1:
        raise ConfigError(f"the cut policy {given.name!r} reserves {reserve!r} of the limit; it must be in [0, 1)")
    return given


def _whole_characters(text: str) -> str:
    """The text without the replacement marks that a server writes for a character it could not finish."""
    return text.rstrip("�").rstrip()
