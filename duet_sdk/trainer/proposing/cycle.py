"""One cycle: fresh signals, an adapted generator that screens rules, the reasoner retrained, accepted or rolled back.

The generator that has read signals with random rules applied finds out by itself which parts it needs: needless ones
cost it no accuracy when they are gone, results cost it all.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from duet_sdk.errors import TrainingError
from duet_sdk.evaluation.intervals import difference_interval
from duet_sdk.trainer.proposing.rules import apply_all, text_rules, word_rules
from duet_sdk.trainer.supervised import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.config import Propose
    from duet_sdk.trainer.journal import Journal
    from duet_sdk.trainer.measure import PairModels
    from duet_sdk.trainer.proposing.rules import Rule


class Tuner(Protocol):
    """Supervised tuning of one of the two models; returns a tuned copy and leaves the given one unchanged."""

    def __call__(self, pair: PairModels, stage: str, rows: Sequence[Example], steps: int) -> PairModels:
        """The pair with that stage tuned."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """How a pair does when both sample."""

    accuracy: float
    tokens: float
    """Mean of a signal."""
    signals: list[str]
    grades: list[float]

    @property
    def right(self) -> list[bool]:
        """Which answers are all right."""
        return [grade >= 1 for grade in self.grades]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a changed pair is kept."""

    kept: bool
    words: str
    """The verdict with what it was made from."""

    @classmethod
    def of(cls, before: Sampled, after: Sampled, *, accept_drop: float) -> Verdict:
        """On samples of the same questions before and after; kept where tokens are saved and accuracy is held."""
        change = difference_interval(after.grades, before.grades)
        kept = change.value >= -accept_drop and after.tokens < before.tokens
        words = (
            f"{'accepted' if kept else 'rolled back'}: accuracy {before.accuracy:.3f} → {after.accuracy:.3f} "
            f"({change.low:+.3f} to {change.high:+.3f} on {len(after.grades)} answers), "
            f"tokens {before.tokens:.1f} → {after.tokens:.1f}"
        )
        return cls(kept, words)


@dataclass(frozen=True, slots=True)
class Cycle:
    """What every cycle works with."""

    settings: Propose
    grader: QuestionGrader
    tune: Tuner
    journal: Journal

    def run(self, pair: PairModels, questions: Sequence[Question], held: Sequence[Question], number: int) -> PairModels:
        """The pair after a cycle: retrained where that held its accuracy on ``held``, else as it was."""
        fresh = replace(pair, temperature=1.0, seed=pair.seed + 1000 * number)
        before = self.measure_held(fresh, held)
        seen = self.measure(fresh, questions)
        if not any(seen.right):
            raise TrainingError(
                f"none of the {len(questions)} signals sampled leads to a correct answer, so there is nothing to "
                "shorten; use a stronger generator or easier questions"
            )
        candidates = word_rules(seen.signals) if self.settings.rules == "tokens" else text_rules()
        candidates = [rule for rule in candidates if self._saves(rule, seen.signals, questions) > 0]
        self._tell(number, "proposal", f"{len(candidates)} rules: {', '.join(rule.name for rule in candidates)}")
        if not candidates:
            return pair
        adapted = self._adapt(fresh, questions, seen, candidates, number)
        chosen = self._screen(adapted, questions, seen, candidates, number)
        waiting = deque([chosen] if chosen else [])
        for attempt in range(self.settings.back_tracks + 1):
            if not waiting:
                break
            chosen = waiting.popleft()
            learned = self._learn(fresh, questions, seen, chosen)
            verdict = Verdict.of(before, self.measure_held(learned, held), accept_drop=self.settings.accept_drop)
            self._tell(
                number,
                "verdict",
                f"{verdict.words} with {', '.join(rule.name for rule in chosen)}",
                attempt=attempt,
                accepted=verdict.kept,
            )
            if verdict.kept:
                return replace(learned, temperature=pair.temperature, seed=pair.seed)
            # Either half may be what did harm.
            half = len(chosen) // 2
            waiting.extend(part for part in (chosen[:half], chosen[half:]) if half)
        return pair

    def measure(self, pair: PairModels, questions: Sequence[Question]) -> Sampled:
        """Sampled accuracy and length on questions, one at least."""
        written = pair.signals(questions)
        texts = [signal.text for signal in written]
        grades = self.grader.grade(questions, pair.answers(questions, texts))
        tokens = sum(signal.tokens for signal in written) / len(written)
        return Sampled(sum(grades) / len(grades), tokens, texts, grades)

    def measure_held(self, pair: PairModels, held: Sequence[Question]) -> Sampled:
        """The same on held-out questions, over and over until there are ``propose.held`` answers.

        Raises:
            TrainingError: nothing is held out.
        """
        if not held:
            raise TrainingError("proposals are judged on held-out questions, but there are none; set data.holdout")
        number = max(self.settings.held, len(held))
        return self.measure(pair, [held[at % len(held)] for at in range(number)])

    def _saves(self, rule: Rule, signals: Sequence[str], questions: Sequence[Question]) -> float:
        """Words that a rule deletes from a signal."""
        lost = (
            len(signal.split()) - len(rule.apply(signal, question.text).split())
            for signal, question in zip(signals, questions, strict=True)
        )
        return sum(lost) / len(signals)

    def _adapt(
        self, pair: PairModels, questions: Sequence[Question], seen: Sampled, rules: Sequence[Rule], number: int
    ) -> PairModels:
        """The generator tuned on right signals with a random half of a random share of the rules applied."""
        rng = random.Random(pair.seed + number)
        rows = []
        for question, signal, right in zip(questions, seen.signals, seen.right, strict=True):
            if right:
                share = rng.random()
                drawn = [rule for rule in rules if rng.random() < share / 2]
                rows.append(_answer_row(pair, question, apply_all(drawn, signal, question.text)))
        return self.tune(pair, "generator", rows, self.settings.adapt_steps) if rows else pair

    def _screen(
        self, pair: PairModels, questions: Sequence[Question], seen: Sampled, rules: Sequence[Rule], number: int
    ) -> list[Rule]:
        """Rules without whose words the adapted generator answers as well, as many as hold together.

        Those that save most come first, one that deletes content at most.
        """
        places = [at for at, right in enumerate(seen.right) if right]
        asked, signals = [questions[at] for at in places], [seen.signals[at] for at in places]

        def accuracy(chosen: Sequence[Rule]) -> float:
            pruned = [apply_all(chosen, one, question.text) for one, question in zip(signals, asked, strict=True)]
            return sum(self.grader.grade(asked, pair.answers(asked, pruned))) / len(asked)

        whole = accuracy([])
        passed: list[Rule] = []
        for rule in rules:
            found = accuracy([rule])
            good = found >= self.settings.screen_accuracy * whole
            self._tell(number, "screen", f"{rule.name}: {found:.3f} of {whole:.3f}", passed=good)
            if good:
                passed.append(rule)
        passed.sort(key=lambda rule: -self._saves(rule, signals, asked))
        chosen: list[Rule] = []
        for rule in passed:
            if len(chosen) == self.settings.max_rules or (rule.content and any(one.content for one in chosen)):
                continue
            if accuracy([*chosen, rule]) >= self.settings.screen_accuracy * whole:
                chosen.append(rule)
        return chosen

    def _learn(
        self, pair: PairModels, questions: Sequence[Question], seen: Sampled, rules: Sequence[Rule]
    ) -> PairModels:
        """Both tuned on the reasoner's right signals under one rule set."""
        pruned = [
            (question, apply_all(rules, signal, question.text))
            for question, signal, right in zip(questions, seen.signals, seen.right, strict=True)
            if right
        ]
        writing = [
            Example(pair.prompts.ask_ids(question.messages), pair.prompts.signal_ids(text)) for question, text in pruned
        ]
        learned = self.tune(pair, "reasoner", writing, self.settings.tune_steps)
        reading = [_answer_row(pair, question, text) for question, text in pruned]
        return self.tune(learned, "generator", reading, self.settings.adapt_steps)

    def _tell(self, number: int, kind: str, what: str, **facts: bool | int) -> None:
        self.journal.decision(kind, what, cycle=number, **facts)


def _answer_row(pair: PairModels, question: Question, signal: str) -> Example:
    return Example(pair.prompts.guided_ids(question.messages, signal), pair.answer_ids(question.answer))
