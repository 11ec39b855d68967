"""What pydantic found wrong with a table, in words that say what was probably meant."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import Any, cast, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from duet_sdk.pricing import PRICE_KEYS, TokenPrice

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a key that a model, or a dataclass, has no field for."""


def explain(error: ValidationError, what: str, table: type) -> str:
    """One clause for each problem: which key, what is wrong, and what was probably meant.

    Args:
        error: of pydantic.
        what: what was read.
        table: the class that it was read as.
    """
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    misspelt = {problem["loc"][:-1] for problem in problems if problem["type"] in _UNKNOWN}
    clauses = []
    for problem in problems:
        place = problem["loc"]
        if problem["type"] == "missing" and place[:-1] in misspelt:
            continue  # most likely the key that is misspelt
        where = ".".join(str(part) for part in place if not str(part).startswith("<"))
        clause = f"{where}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        if problem["type"] in _UNKNOWN:
            known = _known_keys(place, table)
            close = get_close_matches(str(place[-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            clause = f"{where} is not {'a setting' if what == 'the settings' else 'an option'}; {hint}"
        clauses.append(clause)
    return f"{what} cannot be used: " + "; ".join(clauses)


def _known_keys(place: tuple[int | str, ...], table: type) -> list[str]:
    """The keys that can stand where an unknown one stands."""
    for part in place[:-1]:
        if (kind := fields_of(table).get(str(part))) is not None:
            table = table_in(kind) or table
    return list(PRICE_KEYS if table is TokenPrice else fields_of(table))


def fields_of(table: type) -> dict[str, Any]:
    """The fields of a table's class, with their types."""
    if issubclass(table, BaseModel):
        return {name: field.annotation for name, field in table.model_fields.items()}
    kinds = get_type_hints(table)
    return {field.name: kinds[field.name] for field in dataclasses.fields(cast("Any", table))}


def table_in(annotation: object) -> type | None:
    """The class of a table inside a field's type, such as ``TokenPrice`` in ``dict[str, TokenPrice]``."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return annotation
    return next((found for part in get_args(annotation) if (found := table_in(part))), None)
