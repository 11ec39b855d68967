r"""Graders that compare texts; they run where they are called, as their work is bounded by the text's length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from typing_extensions import override

from duet_sdk.evaluation.grading.base import Grade, Grader, Submission

LONGEST_ANSWER = 200
"""Characters of a final answer: a longer last line is prose, and states none."""

_BOXES_TRIED = 4
"""Boxes looked into from the end: a text of unclosed ones must not cost the square of its length."""
_STATED = re.compile(r"\banswer\b(?:\s+is\b|\s*:)[\s:*_]*(.+?)(?:\.\s|\n|$)|####\s*(.+?)(?:\n|$)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_AROUND = " \t\n*_`\"'$"
_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:]+(?:\s.*)?)?", re.DOTALL)
_LAST_LETTER = re.compile(r"(?<![\w'’])[(\[]?([A-Z])[)\].:]?(?![\w'’])")


class Exact(Grader):
    r"""Right where the final answer is the reference: numbers by value, texts by their words.

    The final answer is the last ``\boxed{…}``, else what follows the last "answer is", "answer:" or "####", else the
    last line that is not empty.

    >>> right, wrong = Exact().grade([Submission("So \\boxed{1,200.0}", "1200"), Submission("12", "1200")])
    >>> right.score, wrong.score
    (1.0, 0.0)
    """

    name = "exact"

    @override
    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:
        return [_compare(final_answer(submission.answer), submission.reference) for submission in submissions]

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of empty references."""
        return [at for at, reference in enumerate(references) if not plain_form(_reference(reference))]

    def close(self) -> None:
        """Nothing to do: it holds nothing."""


class MultipleChoice(Grader):
    r"""Right where the chosen letter is the reference's: "(C)", "C.", ``\boxed{C}``, "the answer is C".

    Without any of these forms the last capital letter on its own counts, except "A" and "I" as words.

    >>> right, wrong = MultipleChoice().grade([Submission("The answer is (c).", "C"), Submission("D", "C")])
    >>> right.score, wrong.score
    (1.0, 0.0)

    Args:
        letters: how many choices there are, from A on.
    """

    name = "choice"

    def __init__(self, letters: int = 10) -> None:
        self._known = {chr(ord("A") + at) for at in range(letters)}

    @override
    def grade(self, submissions: Sequence[Submission]) -> list[Grade]:
        grades = []
        for submission in submissions:
            chosen = self._choice(submission.answer)
            right = chosen is not None and chosen == self._letter(_reference(submission.reference))
            grades.append(Grade(float(right), read=chosen is not None))
        return grades

    def unreadable(self, references: Sequence[str]) -> list[int]:
        """The places of references that name no letter of the choices."""
        return [at for at, reference in enumerate(references) if self._letter(_reference(reference)) is None]

    def close(self) -> None:
        """Nothing to do: it holds nothing."""

    def _choice(self, text: str) -> str | None:
        stated = stated_answer(text)
        if stated is not None and (letter := self._letter(stated)) is not None:
            return letter
        if len(only := text.strip(_AROUND + "()[].:")) == 1:
            return self._letter(only)
        alone = [match for match in _LAST_LETTER.finditer(text) if match[1] in self._known]
        marked = [match for match in alone if match[0] != match[1] or match[1] not in "AI"]
        return marked[-1][1] if marked else None

    def _letter(self, text: str) -> str | None:
        match = _LETTER.fullmatch(text.strip(_AROUND).removeprefix(r"\text{").removesuffix("}"))
        letter = match[1].upper() if match else None
        return letter if letter in self._known else None


def final_answer(text: str) -> str | None:
    r"""The answer that a text ends in, None where it states none.

    >>> final_answer("First \\boxed{1}, then \\boxed{\\frac{1}{2}}"), final_answer("Thus 4.\n#### 17"), final_answer("")
    ('\\frac{1}{2}', '17', None)
    """
    if (stated := stated_answer(text)) is not None:
        return stated
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines and len(lines[-1]) <= LONGEST_ANSWER else None


def stated_answer(text: str) -> str | None:
    r"""The last ``\boxed{…}``, else what follows the last "answer is", "answer:" or "####"; None without any."""
    if (boxed := _last_boxed(text)) is not None:
        return boxed
    stated = list(_STATED.finditer(text))
    return (stated[-1][1] or stated[-1][2]) if stated else None


def plain_form(text: str) -> str:
    """The form in which answers are compared.

    >>> [plain_form(text) for text in ("$1,000.00", "  The  Moon. ", "-0", "½")]
    ['1000', 'the moon', '0', '1⁄2']
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\\$", "$").split())
    folded = folded.strip(_AROUND).rstrip(".!,;:" + _AROUND)
    return _number(folded) or folded


def _compare(found: str | None, reference: str) -> Grade:
    if found is None or not (form := plain_form(found)):
        return Grade(0.0, read=False)
    return Grade(float(form == plain_form(_reference(reference))))


def _reference(text: str) -> str:
    """Data sets write references bare, boxed, or after a worked solution."""
    if (boxed := _last_boxed(text)) is not None:
        return boxed
    return text.rpartition("####")[2] if "####" in text else text


def _last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{…}`` that is closed; braces inside it count."""
    start = len(text)
    for _ in range(_BOXES_TRIED):
        start = text.rfind("\\boxed{", 0, start)
        if start < 0:
            return None
        depth = 0
        for at in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : at].strip()
    return None


def _number(text: str) -> str | None:
    if not any(letter.isdigit() for letter in text) or _NUMBER.fullmatch(text) is None:
        return None
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    # Not `normalize`, which rounds to the context's digits.
    number = f"{value:f}"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return number if number.strip("-0.") else "0"
