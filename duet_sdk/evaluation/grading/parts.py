"""How answers reach a user's function: a few at a time, and each alone where that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from duet_sdk.evaluation.grading.protocol import Attempt, Grade

MOST_TOGETHER = 8
"""Answers of one call. What hangs is noticed at the limit of all of them: with a whole round it would take hours."""


def parts_of(attempts: Sequence[Attempt]) -> list[Sequence[Attempt]]:
    """The attempts in their order, at most `MOST_TOGETHER` in a part."""
    return [attempts[at : at + MOST_TOGETHER] for at in range(0, len(attempts), MOST_TOGETHER)]


def grade_part(part: Sequence[Attempt], ask: Callable[[Sequence[Attempt]], list[Grade] | str]) -> list[Grade]:
    """The grades of a part; where it fails as a whole, only those that cause it count as wrong.

    Args:
        part: at least one attempt.
        ask: gives a grade for each, or what went wrong.
    """
    found = ask(part)
    if not isinstance(found, str):
        return found
    if len(part) == 1:
        return [Grade(0.0, read=False, fault=found)]
    return [grade for attempt in part for grade in grade_part([attempt], ask)]
