"""Questions to train on that are, in part, questions to be evaluated on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from duet_sdk.evaluation.question import Question

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Leak:
    """A question to train on that shares words in a row with one to be evaluated on."""

    source: str
    """Where the question to train on is from."""
    against: str
    """Where the question to be evaluated on is from; the first that matched."""
    words: str
    """The words they share; the first run of them."""


def words_of(text: str) -> list[str]:
    r"""The words of a text for comparing: in lower case, digits included, signs left out.

    >>> words_of("What is $2\\frac{1}{2} + X_1$?")
    ['what', 'is', '2', 'frac', '1', '2', 'x_1']
    """
    return _WORD.findall(text.casefold())


def find_leaks(
    questions: Sequence[Question], evaluation: Mapping[str, Sequence[Question]], *, ngram: int = 13
) -> dict[int, Leak]:
    """The questions, by their place, that share ``ngram`` words in a row with a question of an evaluation set.

    An evaluation question of fewer words leaks where a question contains all of it, as words in a row. Those of fewer
    than four words are compared as a whole.

    >>> from duet_sdk.types import Message
    >>> train = [Question((Message("user", "How many primes are below sixty, please?"),), "17")]
    >>> test = {"test": [Question((Message("user", "How many primes are below sixty?"),), "17", "test, row 0")]}
    >>> find_leaks(train, test)[0].words
    'how many primes are below sixty'

    Args:
        questions: those to train on.
        evaluation: evaluation sets by name.
        ngram: words in a row that make a leak.
    """
    index = _Index(ngram)
    for rows in evaluation.values():
        for row in rows:
            index.add(row)
    found = {}
    for at, question in enumerate(questions):
        if (leak := index.find(question)) is not None:
            found[at] = leak
    return found


class _Index:
    """Runs of words of evaluation questions, by how long they are."""

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        self._runs: dict[int, dict[tuple[str, ...], str]] = {}
        self._whole: dict[tuple[str, ...], str] = {}

    def add(self, question: Question) -> None:
        words = words_of(question.text)
        self._whole.setdefault(tuple(words), question.source)
        if len(words) >= 4:
            size = min(self._ngram, len(words))
            runs = self._runs.setdefault(size, {})
            for run in _runs(words, size):
                runs.setdefault(run, question.source)

    def find(self, question: Question) -> Leak | None:
        words = words_of(question.text)
        if (against := self._whole.get(tuple(words))) is not None:
            return Leak(question.source, against, " ".join(words[: self._ngram]))
        for size, known in self._runs.items():
            for run in _runs(words, size):
                if (against := known.get(run)) is not None:
                    return Leak(question.source, against, " ".join(run))
        return None


def _runs(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + size]) for at in range(len(words) - size + 1))
