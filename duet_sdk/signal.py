"""The reasoner's output → the signal: what of it counts, and what a cut one becomes.

Counting and the limit itself live in `duet_sdk.pipeline.counting`, rendering safely in `duet_sdk.rendering`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from duet_sdk.errors import ConfigError, SignalError
from duet_sdk.think_tags import BLOCKS, Family, LeadingThought, gather, overlap, split


@dataclass(frozen=True, slots=True)
class _Tags:
    """The tags that are looked for in a reasoner's output."""

    families: Mapping[str, Family]
    """By opening tag."""
    marks: tuple[str, ...]
    begins: re.Pattern[str]
    """The first character of any."""

    @classmethod
    def of(cls, families: Sequence[Family]) -> _Tags:
        marks = tuple(dict.fromkeys(mark for family in families for mark in (*family.opens, *family.closes)))
        first = "".join(sorted({mark[0] for mark in marks}))
        opened = {mark: family for family in families for mark in family.opens}
        return cls(opened, marks, re.compile(f"[{re.escape(first)}]"))


_ALL_TAGS: Final = _Tags.of(BLOCKS)


class Extractor:
    """Finds the signal in the reasoner's output while it streams.

    ``take="thinking"`` (think handoff): the text inside the first block; with only a closing tag, what stands before
    it; with neither, everything. The first closing tag ends the block, whatever was opened inside, as the reasoner is
    stopped there. ``take="answer"`` (instruct handoff): what `duet_sdk.think_tags.split` takes for the answer.

    Text that a server hands over as reasoning of its own is thinking; tags in it are text.

    Source: arXiv 2605.01111, the extraction of the signal.

    >>> extractor = Extractor("thinking")
    >>> extractor.feed("<thi"), extractor.feed("nk>17 primes</think>So"), extractor.closed
    ('', '17 primes', True)
    >>> extractor.text
    '17 primes'

    Args:
        take: which part is the signal.
        tags: the block's, where they are known; by default those of every family count.
        opened: the reasoner's template opens the block.
    """

    def __init__(
        self, take: Literal["thinking", "answer"], *, tags: tuple[str, str] | None = None, opened: bool = False
    ) -> None:
        self._leading = LeadingThought() if take == "answer" else None
        self._tags = _ALL_TAGS if tags is None else _Tags.of((Family(tags[:1], tags[1:]),))
        self._marks = self._tags.marks
        self._inside = opened
        self._pending = ""
        self._thinking: list[str] = []
        self._outside: list[str] = []
        self.closed = False
        """Whether the block has ended: nothing after it is signal under ``take="thinking"``."""

    @property
    def ended(self) -> bool:
        """Whether nothing that comes now can belong to the signal, so that the reasoner can be stopped."""
        return self.closed

    def feed(self, text: str, reasoning: str = "") -> str:
        """Take a piece of output; return the part to show."""
        if self._leading is not None:
            if reasoning:
                gather(self._thinking, reasoning)
            gather(self._outside, text)
            return self._leading.feed(text, reasoning)
        shown: list[str] = []
        if reasoning:
            gather(self._thinking, reasoning)
            shown.append(reasoning)
        if text:
            if self._thinking and not self._inside and not self._outside:
                self.closed = True  # the server's reasoning part is over
            if not self._pending and self._tags.begins.search(text) is None:
                self._put(text, shown)  # most pieces: no tag begins in them
            else:
                self._pending += text
                while self._step(shown):
                    pass
        return "".join(shown)

    def _step(self, shown: list[str]) -> bool:
        """Move text from the pending buffer to where it belongs, up to and with the next tag."""
        marks = () if self.closed else self._marks
        found = [(at, mark) for mark in marks if (at := self._pending.find(mark)) >= 0]
        if not found:
            # A tag may be split over two pieces: keep back what could be the start of one.
            keep = max((overlap(self._pending, mark) for mark in marks), default=0)
            self._put(self._pending[: len(self._pending) - keep], shown)
            self._pending = self._pending[len(self._pending) - keep :]
            return False
        at, mark = min(found)
        self._put(self._pending[:at], shown)
        self._pending = self._pending[at + len(mark) :]
        if (family := self._tags.families.get(mark)) is not None:
            self._inside, self._marks = True, (*family.opens, *family.closes)
            return True
        if not self._inside:
            self._thinking += self._outside
        self._outside.clear()
        self._inside, self.closed = False, True
        return True

    def _put(self, text: str, shown: list[str]) -> None:
        if not text:
            return
        gather(self._thinking if self._inside else self._outside, text)
        if self._inside or not self.closed:
            shown.append(text)

    @property
    def text(self) -> str:
        """The signal as far as it is known, without surrounding whitespace."""
        if self._leading is not None:
            return self._split()[1]
        if self.closed or self._inside or self._thinking:
            return self.thinking
        return ("".join(self._outside) + self._pending).strip()

    @property
    def thinking(self) -> str:
        """What was thought, without surrounding whitespace."""
        if self._leading is not None:
            return self._split()[0]
        return ("".join(self._thinking) + (self._pending if self._inside else "")).strip()

    def _split(self) -> tuple[str, str]:
        thought, answer = split("".join(self._outside), anywhere=not self._thinking)
        return "".join([*self._thinking, thought]).strip(), answer.strip()


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
