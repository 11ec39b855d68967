"""Where evaluation's errors become training's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from duet_sdk.errors import EvaluationError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def as_training_errors() -> Iterator[None]:
    """Raise what went wrong with a run's questions or their grader as a TrainingError, with the same words.

    >>> with as_training_errors():
    ...     raise EvaluationError("the grader hung")
    Traceback (most recent call last):
    duet_sdk.errors.TrainingError: the grader hung
    """
    try:
        yield
    except EvaluationError as error:
        raise TrainingError(str(error)) from error
