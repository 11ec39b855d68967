"""Deletion rules on signals: what one removes, it removes from all of them.

Deleting at random, or choosing the shortest of many edits, teaches the reasoner to write results blind; a rule that all
signals share leaves it one consistent format to compute in.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SENTENCE = re.compile(r"(?:[^.!?;\n]|[.!?;](?=\S))+[.!?;]*")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d")
_FILLERS = (
    "okay", "ok", "so", "now", "well", "hmm", "wait", "alright", "let me see", "let's see", "let me think",
    "let me check", "let me verify", "first of all", "in other words", "that is to say", "of course", "basically",
    "actually", "as we know", "we know that", "note that", "it is clear that", "it follows that",
)  # fmt: skip
_DOUBTS = r"\b(?:wait|hmm|let me (?:check|verify|double[- ]check|see|think)|to be sure|alternatively)\b"
_CLAUSE = re.compile(r",\s+(?:which|because|since|as|where|while|so that)\b[^,.;!?\n]*")
_RARE = 0.05
"""Least share of signals that hold a token for a rule on it: on rarer ones nothing can be measured."""
_ALIKE = 0.6
"""Share of a sentence's words that the question holds, too, above which it counts as a restatement."""


TextKind: TypeAlias = Literal["fillers", "doubts", "restatements", "clauses", "first sentence", "without numbers"]


class Rule(Protocol):
    """Something that is deleted from every signal."""

    @property
    def name(self) -> str:
        """What it deletes, for logs; two rules of one name are the same."""

    @property
    def content(self) -> bool:
        """Whether it deletes what the reasoner may compute with; at most one such rule is learned at a time."""

    def apply(self, signal: str, question: str) -> str:
        """The signal without it."""


@dataclass(frozen=True, slots=True)
class DropWord(Rule):
    """Deletes a word wherever it occurs, or the word next to it.

    >>> DropWord("is").apply("four is nine ;", ""), DropWord("is", "after").apply("four is nine ;", "")
    ('four nine ;', 'four is ;')
    """

    word: str
    which: Literal["itself", "before", "after"] = "itself"

    @property
    @override
    def name(self) -> str:
        return f"the word {self.word!r}" if self.which == "itself" else f"the word {self.which} {self.word!r}"

    @property
    def content(self) -> bool:
        """A word's neighbour differs from signal to signal."""
        return self.which != "itself"

    @override
    def apply(self, signal: str, question: str) -> str:
        words = signal.split()
        shift = {"itself": 0, "before": -1, "after": 1}[self.which]
        gone = {at + shift for at, word in enumerate(words) if word == self.word}
        return " ".join(word for at, word in enumerate(words) if at not in gone)


@dataclass(frozen=True, slots=True)
class DropText(Rule):
    """Deletes fillers, clauses, or whole sentences of a kind.

    >>> DropText("fillers").apply("Okay, so 2 + 2 is 4.", ""), DropText("doubts").apply("It is 4. Wait, is it?", "")
    ('2 + 2 is 4.', 'It is 4.')
    """

    kind: TextKind

    @property
    @override
    def name(self) -> str:
        return self.kind

    @property
    def content(self) -> bool:
        """Sentences without numbers and first sentences may hold steps."""
        return self.kind in ("without numbers", "first sentence")

    @override
    def apply(self, signal: str, question: str) -> str:
        if self.kind == "fillers":
            words = "|".join(re.escape(one) for one in sorted(_FILLERS, key=len, reverse=True))
            return _tidy(re.sub(rf"(?i)\b(?:{words})\b,?\s*", "", signal))
        if self.kind == "clauses":
            return _tidy(_CLAUSE.sub("", signal))
        parts = sentences(signal)
        last = len(parts) - 1  # it holds the result, unless that is doubted once more
        kept = [
            part
            for at, part in enumerate(parts)
            if (at == last and self.kind != "doubts") or not self._drops(part, question, at)
        ]
        return _tidy(" ".join(kept or parts[last:]))

    def _drops(self, sentence: str, question: str, at: int) -> bool:
        if self.kind == "doubts":
            return re.search(_DOUBTS, sentence, re.IGNORECASE) is not None
        if self.kind == "restatements":
            words, asked = _words(sentence), set(_words(question))
            return bool(words) and sum(word in asked for word in words) / len(words) > _ALIKE
        if self.kind == "without numbers":
            return _NUMBER.search(sentence) is None
        return at == 0


def text_rules() -> list[Rule]:
    """The rules for language models, mild ones first."""
    return [DropText(kind) for kind in get_args(TextKind)]


def word_rules(signals: Sequence[str]) -> list[Rule]:
    """Rules for a small vocabulary: every word that is common in these signals, and its neighbours.

    A word's only neighbour has a rule of its own already, and gets no second one.
    """
    common: Counter[str] = Counter()
    beside: dict[tuple[str, int], set[str]] = defaultdict(set)
    for signal in signals:
        words = signal.split()
        common.update(set(words))
        for at, word in enumerate(words):
            for shift in (-1, 1):
                if 0 <= at + shift < len(words):
                    beside[word, shift].add(words[at + shift])
    often = [word for word, count in common.most_common() if count >= _RARE * len(signals)]
    found: list[Rule] = [DropWord(word) for word in often]
    found += [DropWord(word, "before") for word in often if len(beside[word, -1]) > 1]
    found += [DropWord(word, "after") for word in often if len(beside[word, 1]) > 1]
    return found


def apply_all(rules: Iterable[Rule], signal: str, question: str) -> str:
    """The signal without what any of the rules deletes; those on neighbours go by the signal as it was written."""
    ordered = sorted(rules, key=lambda rule: not rule.content)
    for rule in ordered:
        signal = rule.apply(signal, question)
    return signal


def sentences(text: str) -> list[str]:
    r"""The sentences and lines of a text, without whitespace around them.

    >>> sentences("One. Two 3.5; four\nfive")
    ['One.', 'Two 3.5;', 'four', 'five']
    """
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _tidy(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip()
