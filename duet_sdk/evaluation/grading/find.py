"""From a user's name, object or function to a grader."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from duet_sdk.errors import ConfigError
from duet_sdk.evaluation.grading.base import DEFAULT_LIMIT_S, Grader
from duet_sdk.evaluation.grading.functions import CalledFunction, RewardFunction
from duet_sdk.evaluation.grading.mathematics import MathVerify
from duet_sdk.evaluation.grading.plain import Exact, MultipleChoice

GraderLike: TypeAlias = str | Grader | Callable[..., Sequence[float | None]]
"""A name (``math``, ``exact``, ``choice``, ``module:function``), a grader, or a function in TRL's signature."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)


def find_grader(
    named: GraderLike, *, limit_s: float = DEFAULT_LIMIT_S, processes: int = 1, beside: Path | None = None
) -> Grader:
    """The grader for a name, an object or a function.

    >>> find_grader("exact").name
    'exact'

    Args:
        named: see `GraderLike`.
        limit_s: seconds for one answer, where the grader could hang.
        processes: how many grade at the same time, for ``math`` and ``module:function``.
        beside: folder in which modules of functions are looked for first, such as that of the run's file.

    Raises:
        ConfigError: the name is unknown.
        MissingExtra: math-verify is not installed.
        EvaluationError: the function named cannot be imported.
    """
    match named:
        case "math":
            return MathVerify(limit_s=limit_s, processes=processes)
        case "exact":
            return Exact()
        case "choice":
            return MultipleChoice()
        case str() if _FUNCTION.fullmatch(named):
            grader = RewardFunction(named, limit_s=limit_s, processes=processes, beside=beside)
            grader.start()
            return grader
        case str():
            raise ConfigError(
                f"there is no grader {named!r}; known: 'math', 'exact', 'choice', and 'module:function' for "
                "a function of your own in TRL's reward signature"
            )
        case _ if hasattr(named, "grade"):
            return cast("Grader", named)
        case _:
            return _function(cast("Callable[..., Any]", named), limit_s)


def _function(function: Callable[..., Any], limit_s: float) -> Grader:
    if not callable(function):
        raise ConfigError(f"a grader is a name, an object with `grade`, or a function, got {type(function).__name__}")
    return CalledFunction(function, limit_s=limit_s)
