"""Rows of a JSONL file or a hub data set, as questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from duet_sdk.errors import DataError, MissingExtra
from duet_sdk.evaluation.question import Question
from duet_sdk.evaluation.rows import MissingColumn, question_of

MOST_TOLD = 3
"""Bad rows that one error names: enough to see a pattern, few enough to read."""

_HUB_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?::([\w.-]+))?", re.ASCII)
_SPLIT = re.compile(r"(.+)#([\w.\-\[\]:%]+)", re.DOTALL)


def read_questions(
    name: str,
    *,
    split: str = "train",
    revision: str | None = None,
    prompt_column: str = "prompt",
    answer_column: str | None = "answer",
) -> list[Question]:
    """All questions of a data set, in its order.

    Args:
        name: a JSONL file (``….jsonl``, ``….json``), a folder that ``datasets`` can load, or a hub data set
            ``owner/name`` or ``owner/name:subset``; ``#split`` after a folder or hub name takes precedence over
            ``split``.
        split: of a folder or hub data set.
        revision: branch, tag or commit of a hub data set.
        prompt_column: the question: a text, or chat messages.
        answer_column: the right answer: a text or a number; None if it is not needed.

    Raises:
        MissingColumn: the first row that cannot be used lacks a column.
        DataError: there is no such data set, it is empty, or rows cannot be used; names the file, its lines and
            columns.
        MissingExtra: it is not a file, and ``datasets`` is not installed.
    """
    if named := _SPLIT.fullmatch(name):
        name, split = named[1], named[2]
    path = Path(name).expanduser()
    is_file = _is_file(path)
    rows = _lines(path) if is_file else _hub_rows(name, split, revision)
    questions: list[Question] = []
    flaws: list[DataError] = []
    for source, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            questions.append(question_of(row, source=source, prompt_column=prompt_column, answer_column=answer_column))
        except DataError as err:
            flaws.append(err)
            if len(flaws) > MOST_TOLD:
                break
    if flaws:
        if isinstance(flaws[0], MissingColumn):
            raise flaws[0]
        more = "; and there are more" if len(flaws) > MOST_TOLD else ""
        raise DataError("; ".join(map(str, flaws[:MOST_TOLD])) + more)
    if not questions:
        where = f"{path} holds no rows" if is_file else f"{name!r} has no rows in split {split!r}"
        raise DataError(f"{where}")
    return questions


def is_hub_set(name: str) -> bool:
    """Whether a name is read as a data set of the hub, and not as a file or folder of this machine.

    >>> is_hub_set("owner/name:subset#test"), is_hub_set("questions.jsonl")
    (True, False)
    """
    named = _SPLIT.fullmatch(name)
    place = named[1] if named else name
    path = Path(place).expanduser()
    return not _is_file(path) and not path.exists() and _HUB_NAME.fullmatch(place) is not None


def _is_file(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json", ".ndjson")


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, object] | DataError]]:
    """The rows of a JSONL file; a line that is not one comes as its error, so that several can be reported at once."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, written in enumerate(file, start=1):
                line = written.removeprefix("\ufeff")  # a byte order mark; files put together have several
                if not line.strip():
                    continue
                source = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as err:
                    reason = (
                        f"{err.msg} at character {err.pos}" if isinstance(err, json.JSONDecodeError) else "too deep"
                    )
                    yield source, DataError(f"{source} is not JSON: {reason}; a file has one object per line")
                    continue
                if isinstance(row, dict):
                    yield source, row
                else:
                    kind = type(row).__name__
                    yield (
                        source,
                        DataError(f"{source} holds a {kind}, not an object; a file has one object per line"),
                    )
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not UTF-8 text (byte {err.start}); convert it") from err
    except OSError as err:
        raise DataError(f"the questions in {path.absolute()} cannot be read: {err.strerror or err}") from err


def _hub_rows(name: str, split: str, revision: str | None) -> Iterable[tuple[str, Mapping[str, object]]]:
    data = _load(name, split, revision)
    return ((f"{name}, {split}, row {at}", row) for at, row in enumerate(data))


def _load(name: str, split: str, revision: str | None) -> Any:
    folder = Path(name).expanduser()
    match = _HUB_NAME.fullmatch(name)
    is_folder = bool(name) and folder.is_dir()
    if folder.is_file():
        raise DataError(
            f"{name} is a file, and a file of questions must be .jsonl: one JSON object per line; convert it"
        )
    if not is_folder and match is None:
        raise DataError(
            f"{name!r} is neither a JSONL file (….jsonl), nor an existing folder, nor a hub data set (owner/name)"
        )
    try:
        import datasets
    except ImportError as err:
        raise MissingExtra(f"reading the data set {name!r}, which is not a JSONL file,", extra="train") from err
    path, subset = (str(folder), None) if is_folder or match is None else match.groups()
    try:
        return datasets.load_dataset(path, subset, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as err:
        at = f" at revision {revision!r}" if revision else ""
        # The first line names what is missing; the rest repeats the library's inner steps.
        reason = str(err).strip().partition("\n")[0][:300]
        raise DataError(
            f"the data set {name!r}{at}, split {split!r}, cannot be loaded ({type(err).__name__}: {reason}); check its "
            "name and split, the connection, and HF_TOKEN for a private one"
        ) from err
