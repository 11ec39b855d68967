"""The toy's questions: chains of arithmetic on a dial of ten marks, put into words.

    dial at four . add three monday , double tuesday . now ?

Chains have 0 to 3 operations. The generator learns to answer short ones alone; longer ones need a signal. Held out for
evaluation are sequences of operators and pairs of opening and question that training never shows, at seen lengths.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk import Message
from duet_sdk.evaluation import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OPERATORS = ("add", "take", "double")
OPENINGS = ("dial at", "start from", "mark is")
QUESTIONS = ("now ?", "where ?", "tell it .")
BRIEFLY = "briefly"
MARKS = 10
MOST_MOVED = 3
"""Marks that one operation adds or takes at most: so few facts of arithmetic are learned in minutes."""
SEEN_LENGTHS = range(4)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a chain, and what the dial shows before and after it."""

    day: str
    before: int
    operator: str
    operand: int | None
    after: int

    @property
    def done(self) -> str:
        """The operation in words."""
        return self.operator if self.operand is None else f"{self.operator} {NUMBERS[self.operand]}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A question of the family with all that is true of it."""

    start: int
    steps: tuple[Step, ...]
    opening: int
    closing: int
    brief: bool = False
    """Whether the question asks to be brief."""

    @property
    def answer(self) -> str:
        """The mark at the end, in a word."""
        return NUMBERS[self.steps[-1].after if self.steps else self.start]

    @property
    def text(self) -> str:
        """The question."""
        steps = " , ".join(f"{step.done} {step.day}" for step in self.steps)
        middle = f" {steps} ." if steps else ""
        end = f" {BRIEFLY}" if self.brief else ""
        return f"{OPENINGS[self.opening]} {NUMBERS[self.start]} .{middle} {QUESTIONS[self.closing]}{end}"

    @property
    def held_out(self) -> bool:
        """Whether it belongs to evaluation: its operators in their order, or its wording, are never trained on."""
        return self._unseen_operators or self._unseen_wording

    @property
    def _unseen_operators(self) -> bool:
        code = 0
        for step in self.steps:
            code = code * len(OPERATORS) + OPERATORS.index(step.operator)
        return len(self.steps) >= 2 and (code * 7 + len(self.steps)) % 5 == 0

    @property
    def _unseen_wording(self) -> bool:
        return (self.opening + self.closing) % len(OPENINGS) == 2

    def question(self) -> Question:
        """As the trainer takes it."""
        return Question((Message("user", self.text),), self.answer)

    def trace(self, *, style: Sequence[str]) -> str:
        """The steps written out, each ``verbose``, ``terse`` or left out (``none``)."""
        parts = [_STYLES[form](step) for form, step in zip(style, self.steps, strict=True)]
        return " ".join(part for part in parts if part)


def _verbose(step: Step) -> str:
    return f"{step.day} {NUMBERS[step.before]} {step.done} is {NUMBERS[step.after]} ;"


def _terse(step: Step) -> str:
    return f"{step.day} {NUMBERS[step.after]}"


def _none(_step: Step) -> str:
    return ""


_STYLES: Mapping[str, Callable[[Step], str]] = {"verbose": _verbose, "terse": _terse, "none": _none}


def chain(rng: random.Random, length: int) -> Chain:
    """A random chain of this length, held out or not."""
    start = value = rng.randrange(MARKS)
    steps = []
    for day in DAYS[:length]:
        operator = rng.choice(OPERATORS)
        operand = None if operator == "double" else rng.randrange(1, MOST_MOVED + 1)
        change = value if operand is None else operand if operator == "add" else -operand
        steps.append(Step(day, value, operator, operand, (value + change) % MARKS))
        value = steps[-1].after
    return Chain(start, tuple(steps), rng.randrange(len(OPENINGS)), rng.randrange(len(QUESTIONS)))


def chains(seed: int, number: int, *, lengths: Sequence[int] = SEEN_LENGTHS, held_out: bool = False) -> list[Chain]:
    """Chains for training or for evaluation, each length equally likely."""
    rng = random.Random(seed)
    found: list[Chain] = []
    while len(found) < number:
        one = chain(rng, rng.choice(list(lengths)))
        if one.held_out == held_out:
            found.append(one)
    return found
