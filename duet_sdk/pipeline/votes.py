"""Choosing one of several answers to the same question."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from duet_sdk.errors import InvalidRequest
from duet_sdk.types import ToolCall, Vote

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_STATED = re.compile(r"\banswer\b(?:\s+is\b|\s*:)\s*:?\s*(.+?)(?:\.\s|\n|$)", re.IGNORECASE)
_NUMBER = re.compile(r"([-+]?) ?[$€£]? ?((?:\d{1,3}(?:,\d{3})+|\d{1,100})?(?:\.\d{1,100})?)( ?%)?")
_CHOICE = re.compile(r"\(?([a-z])\)(?: .*)?|([a-z])[.:]?", re.DOTALL)
_AROUND = " \t\n*_`\"'"


def choose(answers: Sequence[str], vote: Vote, *, calls: Sequence[Sequence[ToolCall]] = ()) -> tuple[int, float]:
    r"""The winner's index and the share of answers that agree with it, in (0, 1].

    Args:
        answers: their texts.
        vote: ``"majority"``, where the form that came first wins a tie, or the user's function of the texts.
        calls: the tools that each answer calls; answers that call tools agree where their calls do.

    >>> choose(["17", "It is \\boxed{17}.", "19"], "majority")
    (0, 0.6666666666666666)

    Raises:
        InvalidRequest: the user's function failed or named no answer.
    """
    made = [calls[at] if at < len(calls) else () for at in range(len(answers))]
    forms = [_called(own) if own else normalise(answer) for answer, own in zip(answers, made, strict=True)]
    if callable(vote):
        try:
            winner = vote(answers)
        except Exception as error:
            raise InvalidRequest(f"the vote failed with {type(error).__name__}; it must return an index") from error
        if type(winner) is not int or not 0 <= winner < len(answers):
            raise InvalidRequest(f"vote must return an index from 0 to {len(answers) - 1}, got {winner!r}")
    else:
        # An answer that says nothing is no candidate, however many there are, unless all do.
        said = [form for answer, own, form in zip(answers, made, forms, strict=True) if own or answer.strip()]
        winner = forms.index(Counter(said or forms).most_common(1)[0][0])
    return winner, forms.count(forms[winner]) / len(forms)


def normalise(answer: str) -> str:
    r"""The form in which answers are compared.

    That is the last boxed part, else what follows the last "answer is" or "answer:", else the whole text. Of that, a
    number counts by its value whatever its commas, currency and zeros, a choice by its letter, and any other text by
    its words, case and whitespace normalised, without surrounding punctuation.

    >>> [normalise(text) for text in ("$1,000.00", "The answer is (B).", "B) Paris", "  Paris! ")]
    ['1000', 'b', 'b', 'paris']
    """
    boxed = _BOXED.findall(answer)
    stated = boxed or _STATED.findall(answer)
    text = (stated[-1] if stated else answer).casefold()
    text = " ".join(text.replace("\\$", "$").replace("\\%", "%").split())
    text = text.removeprefix("\\(").removesuffix("\\)").strip(_AROUND).rstrip(".!?,;:" + _AROUND).removesuffix("$")
    if (number := _NUMBER.fullmatch(text)) and number[2]:
        return _value(number[1], number[2]) + (number[3] or "").strip()
    if choice := _CHOICE.fullmatch(text):
        return choice[1] or choice[2]
    return text.lstrip("$")


def _value(sign: str, digits: str) -> str:
    whole, _, fraction = digits.replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def _called(calls: Sequence[ToolCall]) -> str:
    """The form of an answer that calls tools: names and arguments, however these are written."""
    return "\n".join(f"{call.name} {_arguments(call.arguments)}" for call in calls)


def _arguments(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text
