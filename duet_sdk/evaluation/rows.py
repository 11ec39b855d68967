"""Questions from rows, and what identifies many of them in their order."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from duet_sdk.errors import DataError
from duet_sdk.evaluation.question import Question
from duet_sdk.types import Message, Role

_ROLES = ("system", "user", "assistant")


class MissingColumn(DataError):
    """A row has no column of the name that was given; names differ between data sets, so another may do.

    Attributes:
        what: which row has which columns, without what to do about it.
    """

    def __init__(self, what: str, *, instead: str = "set prompt_column and answer_column") -> None:
        super().__init__(f"{what}; {instead}")
        self.what = what


def question_of(
    row: Mapping[str, object], *, source: str, prompt_column: str = "prompt", answer_column: str | None = "answer"
) -> Question:
    """The question in a row of a data set.

    >>> question_of({"prompt": "1 + 1?", "answer": 2, "level": "easy"}, source="a.jsonl, line 1").answer
    '2'

    Raises:
        MissingColumn: a column is missing.
        DataError: a column is empty or cannot be used; names the source, the column and what it holds.
    """
    for name in (prompt_column, answer_column):
        if name is not None and name not in row:
            known = ", ".join(repr(column) for column in row) or "none"
            raise MissingColumn(f"{source} has no column {name!r}, it has {known}")
    messages = _messages(row[prompt_column], f"{source}, column {prompt_column!r}")
    answer = "" if answer_column is None else _answer(row[answer_column], f"{source}, column {answer_column!r}")
    columns = {name: _plain(value) for name, value in row.items() if name not in (prompt_column, answer_column)}
    return Question(messages, answer, source, columns)


def fingerprint(questions: Iterable[Question]) -> str:
    """SHA-256 of prompts, answers and other columns: equal for the same questions in the same order.

    >>> one, two = (question_of({"prompt": text, "answer": "1"}, source="") for text in "ab")
    >>> fingerprint([one, two]) == fingerprint([two, one])
    False
    """
    digest = hashlib.sha256()
    for question in questions:
        chat = [[message.role, message.text] for message in question.messages]
        row = [chat, question.answer, dict(question.columns)]
        digest.update(json.dumps(row, ensure_ascii=True, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def shuffled(questions: Sequence[Question], seed: int) -> list[Question]:
    """The questions in an order that only they and the seed decide, on every machine and process.

    >>> from duet_sdk.types import Message
    >>> questions = [Question((Message("user", text),), "1") for text in "abcd"]
    >>> [question.text for question in shuffled(questions, seed=0)]
    ['c', 'a', 'b', 'd']
    """
    order = list(questions)
    random.Random(seed).shuffle(order)
    return order


def _messages(given: object, where: str) -> tuple[Message, ...]:
    if isinstance(given, str):
        if not given.strip():
            raise DataError(f"{where} is empty; drop the row or fill it")
        return (Message("user", given),)
    if not isinstance(given, list) or not given:
        raise DataError(f"{where} must be a string or a list of chat messages, got {_kind(given)}")
    messages = []
    for at, message in enumerate(given):
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in _ROLES or not isinstance(content, str) or not content.strip():
            raise DataError(f"{where}, message {at} must have a role (system, user, assistant) and text content")
        messages.append(Message(cast("Role", role), content))
    if messages[-1].role != "user":
        raise DataError(f"{where} ends with a message of the {messages[-1].role}; it must end with the user's")
    return tuple(messages)


def _answer(given: object, where: str) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise DataError(f"{where} must be a string or a number, got {_kind(given)}")
    if not str(given).strip():
        raise DataError(f"{where} is empty; drop the row or fill it")
    return str(given)


def _plain(value: object) -> JsonValue:
    """A value as JSON has it: graders in another process get it as JSON."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
