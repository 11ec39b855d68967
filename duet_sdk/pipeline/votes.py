"""Choosing one of several answers to the same question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from duet_sdk.errors import InvalidRequest
from duet_sdk.types import Vote

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def choose(answers: Sequence[str], vote: Vote) -> tuple[int, float]:
    r"""The winner's index and the share of answers that agree with it, in (0, 1].

    >>> choose(["17", "It is \\boxed{17}.", "19"], "majority")
    (0, 0.6666666666666666)

    Raises:
        InvalidRequest: the user's function failed or named no answer.
    """
    forms = [normalise(answer) for answer in answers]
    if callable(vote):
        try:
            winner = vote(answers)
        except Exception as error:
            raise InvalidRequest(f"the vote failed with {type(error).__name__}; it must give an index") from error
        if type(winner) is not int or not 0 <= winner < len(answers):
            raise InvalidRequest(f"vote must give an index from 0 to {len(answers) - 1}, got {winner!r}")
    else:
        # On a tie the form that came first wins.
        winner = forms.index(Counter(forms).most_common(1)[0][0])
    return winner, forms.count(forms[winner]) / len(forms)


def normalise(answer: str) -> str:
    """The form in which answers are compared: the last boxed part if there is one, case and blanks folded."""
    boxed = _BOXED.findall(answer)
    text = boxed[-1] if boxed else answer
    return " ".join(text.casefold().split()).strip(" .!?,;:*")
