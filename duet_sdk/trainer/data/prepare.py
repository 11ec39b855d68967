"""From a run's configuration to the questions it trains and validates on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from duet_sdk.errors import TrainingError
from duet_sdk.evaluation.datasets import read_questions
from duet_sdk.evaluation.grading import ReferenceReader
from duet_sdk.evaluation.question import Question
from duet_sdk.evaluation.rows import MissingColumn, fingerprint, shuffled
from duet_sdk.trainer.boundary import as_training_errors
from duet_sdk.trainer.config import Data
from duet_sdk.trainer.data.overlap import Leak, find_leaks, words_of

_log = logging.getLogger(__name__)

CountTokens = Callable[[Question], int]
"""Tokens of a question's prompt, as the model that needs most of them reads it."""

LEAKS_KEPT = 50
"""Leaks that the report names, as many as a reader looks through; all are counted and dropped."""


@dataclass(slots=True)
class DataReport:
    """What became of the rows; questions are named by their source, and only leaks show words of theirs.

    >>> DataReport(read=10, duplicates=2, train=8).dropped
    2
    """

    read: int = 0
    unreadable: int = 0
    """Dropped, as the grader cannot read their reference: no answer could be right."""
    too_long: int = 0
    """Dropped, as their prompt has more than ``data.max_prompt_tokens``."""
    duplicates: int = 0
    """Dropped, as an earlier question differs from it in whitespace, case or closing marks only."""
    contradictory: int = 0
    """Duplicates whose answer differs from the first one's."""
    leaked: int = 0
    """Dropped, as they share words in a row with a question to be evaluated on."""
    beyond: int = 0
    """Left out by ``data.max_questions``."""
    train: int = 0
    validation: int = 0
    validation_dropped: int = 0
    """Of ``data.validation``, as their reference cannot be read or their prompt is too long; not in the above."""
    fingerprint: str = ""
    """Of the questions trained on, in their order."""
    validation_fingerprint: str = ""
    """Of the questions validated on: the pair's manifest tells by it what its metrics were measured on."""
    rights: str | None = None
    unreadable_sources: list[str] = field(default_factory=list)
    """The first of them."""
    leaks: list[Leak] = field(default_factory=list)
    """The first of them."""

    @property
    def dropped(self) -> int:
        """Rows that are neither trained nor validated on."""
        return self.unreadable + self.too_long + self.duplicates + self.leaked + self.beyond

    def facts(self) -> dict[str, JsonValue]:
        """The report as the run's folder and the pair's manifest keep it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Questions to train and to validate on, and what became of the rest."""

    train: list[Question]
    validation: list[Question]
    report: DataReport


def prepare(
    data: Data, *, seed: int, grader: ReferenceReader | None = None, count_tokens: CountTokens | None = None
) -> Prepared:
    """Read, check, filter, split and order the questions of a run.

    Args:
        data: the section ``data`` of the run.
        seed: decides the order and, without a validation set, which questions are held out.
        grader: says which references cannot be read; None checks none.
        count_tokens: None drops no question for its length.

    Raises:
        TrainingError: a data set cannot be used, or nothing is left to train or validate on.
        MissingExtra: a hub data set is named and ``datasets`` is not installed.
    """
    with as_training_errors():
        return _prepare(data, seed, grader, count_tokens)


def _prepare(data: Data, seed: int, grader: ReferenceReader | None, count_tokens: CountTokens | None) -> Prepared:
    questions = _read(data.train, data, split=data.split)
    report = DataReport(read=len(questions), rights=data.rights)
    questions = _readable(questions, grader, report)
    short = _short(questions, count_tokens, data.max_prompt_tokens)
    report.too_long, questions = len(questions) - len(short), short
    if data.deduplicate:
        questions = _without_duplicates(questions, report)
    evaluation = {name: _evaluation(name, data) for name in data.leak_against}
    validation = None
    if data.validation is not None:
        validation = _given_validation(data.validation, data, grader, count_tokens, report)
        evaluation[data.validation] = validation
    questions = _without_leaks(questions, evaluation, data.leak_ngram, report)
    if not questions:
        raise TrainingError(f"no question of {data.train} is left to train on: {_summary(report)}")
    if validation is None:
        questions, validation = _held_out(questions, data.holdout, seed)
    questions = shuffled(questions, seed)
    if data.max_questions is not None:
        report.beyond = max(0, len(questions) - data.max_questions)
        questions = questions[: data.max_questions]
    report.train, report.validation = len(questions), len(validation)
    report.fingerprint, report.validation_fingerprint = fingerprint(questions), fingerprint(validation)
    _log.info("questions: %s", _summary(report))
    return Prepared(questions, validation, report)


def _read(name: str, data: Data, *, split: str) -> list[Question]:
    try:
        return read_questions(
            name,
            split=split,
            revision=_revision(name, data),
            prompt_column=data.prompt_column,
            answer_column=data.answer_column,
        )
    except MissingColumn as err:
        raise TrainingError(f"{err.what}; set data.prompt_column and data.answer_column to what it has") from err


def _given_validation(
    name: str, data: Data, grader: ReferenceReader | None, count_tokens: CountTokens | None, report: DataReport
) -> list[Question]:
    """The questions of ``data.validation``, filtered as those to train on are."""
    given = _read(name, data, split=data.validation_split)
    kept = _short(_readable(given, grader, None), count_tokens, data.max_prompt_tokens)
    report.validation_dropped = len(given) - len(kept)
    if not kept:
        raise TrainingError(
            f"no question of {name} is left to validate on: {len(given)} read, all over data.max_prompt_tokens "
            f"({data.max_prompt_tokens}) or with unreadable answers"
        )
    return kept


def _short(questions: list[Question], count_tokens: CountTokens | None, most: int) -> list[Question]:
    """Those whose prompts have at most so many tokens."""
    if count_tokens is None:
        return questions
    return [question for question in questions if count_tokens(question) <= most]


def _revision(name: str, data: Data) -> str | None:
    """``data.revision`` is one of the set trained on; another set has no such revision."""

    def repository(one: str) -> str:
        return one.partition("#")[0].partition(":")[0]

    return data.revision if repository(name) == repository(data.train) else None


def _evaluation(name: str, data: Data) -> list[Question]:
    """An evaluation set; its columns may have other names, and its answers do not matter here."""
    for column in dict.fromkeys((data.prompt_column, "prompt", "question", "problem", "Question")):
        try:
            return read_questions(
                name,
                split=data.validation_split,
                revision=_revision(name, data),
                prompt_column=column,
                answer_column=None,
            )
        except MissingColumn as err:
            last = err
    raise TrainingError(
        f"data.leak_against: {last.what}; name its questions' column as in data.prompt_column, or question"
    )


def _readable(questions: list[Question], grader: ReferenceReader | None, report: DataReport | None) -> list[Question]:
    if grader is None:
        return questions
    bad = set(grader.unreadable([question.answer for question in questions]))
    sources = [questions[at].source for at in sorted(bad)]
    if len(bad) == len(questions):
        raise TrainingError(
            f"the grader {grader.name!r} can read none of the {len(questions)} reference answers (the first is "
            f"{sources[0]}); choose another grader or answer column"
        )
    if bad:
        _log.warning(
            "the grader %r cannot read %d of %d reference answers, and their questions are dropped: %s%s",
            grader.name, len(bad), len(questions), "; ".join(sources[:5]), " …" if len(bad) > 5 else "",
        )  # fmt: skip
    if report is not None:
        report.unreadable, report.unreadable_sources = len(bad), sources[:LEAKS_KEPT]
    return [question for at, question in enumerate(questions) if at not in bad]


def _without_duplicates(questions: Sequence[Question], report: DataReport) -> list[Question]:
    first: dict[str, Question] = {}
    for question in questions:
        # Signs count: 2 + 3 and 2 - 3 are different questions.
        key = " ".join(question.text.casefold().split()).rstrip(" .?!:")
        known = first.setdefault(key, question)
        if known is not question:
            report.duplicates += 1
            report.contradictory += known.answer.strip() != question.answer.strip()
    if report.contradictory:
        _log.warning("%d questions are in the data twice with different answers", report.contradictory)
    return list(first.values())


def _without_leaks(
    questions: list[Question], evaluation: dict[str, list[Question]], ngram: int, report: DataReport
) -> list[Question]:
    leaks = find_leaks(questions, evaluation, ngram=ngram)
    report.leaked, report.leaks = len(leaks), list(leaks.values())[:LEAKS_KEPT]
    if leaks:
        _log.warning(
            "%d questions share %d words in a row with an evaluation set and are dropped; the first: %s like %s",
            len(leaks), ngram, report.leaks[0].source, report.leaks[0].against,
        )  # fmt: skip
    return [question for at, question in enumerate(questions) if at not in leaks]


def _held_out(questions: list[Question], count: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on and those held out; which these are does not depend on the order of rows."""
    if count >= len(questions):
        raise TrainingError(
            f"data.holdout keeps {count} questions back and there are {len(questions)}; lower it, or name a "
            "data.validation set"
        )

    def place(at: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{' '.join(words_of(questions[at].text))}".encode()).digest()

    chosen = set(sorted(range(len(questions)), key=place)[:count])
    held = [question for at, question in enumerate(questions) if at in chosen]
    return [question for at, question in enumerate(questions) if at not in chosen], held


def _summary(report: DataReport) -> str:
    return (
        f"{report.read} read; dropped: {report.unreadable} with unreadable answers, {report.too_long} too long, "
        f"{report.duplicates} duplicates, {report.leaked} leaked, {report.beyond} beyond data.max_questions; "
        f"{report.train} to train, {report.validation} to validate ({report.validation_dropped} of their set dropped)"
    )
