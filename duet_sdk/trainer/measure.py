"""How well a trained pair does on held-out questions, with intervals, greedily or sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk.evaluation.intervals import Z95, share_interval
from duet_sdk.trainer.sampling import Decoding, sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from duet_sdk.evaluation.question import Question, QuestionGrader
    from duet_sdk.trainer.prompts import PairPrompts, WrittenSignal


@dataclass(frozen=True, slots=True)
class PairModels:
    """Two models in this process with their prompts, and how long they may write."""

    reasoner: PreTrainedModel
    generator: PreTrainedModel
    prompts: PairPrompts
    signal_tokens: int
    answer_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0

    def signals(self, questions: Sequence[Question]) -> list[WrittenSignal]:
        """What the reasoner writes for each."""
        ids = [self.prompts.ask_ids(question.messages) for question in questions]
        ends = frozenset({self.prompts.closing_id, *_ends(self.reasoner)})
        decoding = self._decoding(self.signal_tokens, ends)
        drawn = sample(self.reasoner, ids, decoding, pad_id=_pad(self.reasoner), seed=self.seed)
        return [self.prompts.signal(one, ends=ends) for one in drawn]

    def answers(self, questions: Sequence[Question], signals: Sequence[str]) -> list[str]:
        """What the generator answers to each with its signal; alone where that is empty."""
        ids = [
            self.prompts.guided_ids(question.messages, signal)
            for question, signal in zip(questions, signals, strict=True)
        ]
        decoding = self._decoding(self.answer_tokens, frozenset(_ends(self.generator)))
        drawn = sample(self.generator, ids, decoding, pad_id=_pad(self.generator), seed=self.seed + 1)
        return [self.prompts.answer_text(one) for one in drawn]

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """What the generator samples to answer this, its end token included; for supervised rows."""
        return (*self.prompts.generator.encode_untrusted(text), _ends(self.generator)[0])

    def _decoding(self, limit: int, ends: frozenset[int]) -> Decoding:
        return Decoding(max_new_tokens=limit, ends=ends, temperature=self.temperature)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A pair on some questions."""

    questions: int
    guided: float
    """Share of right answers with a signal."""
    guided_interval: tuple[float, float]
    """Its 95 % interval (Wilson)."""
    alone: float
    """Share without one."""
    tokens_mean: float
    """Tokens of a signal."""
    tokens_interval: tuple[float, float]
    """The mean's 95 % interval (normal)."""
    empty: float
    """Share of empty signals."""
    right: tuple[float, ...]
    """Grade of each answer with a signal, in the questions' order."""


def evaluate(
    pair: PairModels,
    questions: Sequence[Question],
    grader: QuestionGrader,
    *,
    group: Callable[[int], Hashable] | None = None,
) -> dict[Hashable, Evaluation]:
    """The pair on all questions (key None), and on each group of them.

    Args:
        pair: the models.
        questions: what is asked.
        grader: grades answers.
        group: the group of the question at a place.
    """
    signals = pair.signals(questions)
    guided = grader.grade(questions, pair.answers(questions, [signal.text for signal in signals]))
    alone = grader.grade(questions, pair.answers(questions, ["" for _ in questions]))
    places: dict[Hashable, list[int]] = {None: list(range(len(questions)))}
    for at in range(len(questions) if group is not None else 0):
        places.setdefault(group(at) if group is not None else None, []).append(at)
    return {
        key: _summary([signals[at] for at in chosen], [guided[at] for at in chosen], [alone[at] for at in chosen])
        for key, chosen in places.items()
    }


def _summary(signals: Sequence[WrittenSignal], guided: Sequence[float], alone: Sequence[float]) -> Evaluation:
    number = len(signals)
    lengths = [signal.tokens for signal in signals]
    mean = sum(lengths) / number
    deviation = math.sqrt(sum((length - mean) ** 2 for length in lengths) / max(number - 1, 1))
    half = Z95 * deviation / math.sqrt(number)
    share = share_interval(sum(guided), number)
    return Evaluation(
        questions=number,
        guided=share.value,
        guided_interval=(share.low, share.high),
        alone=sum(alone) / number,
        tokens_mean=mean,
        tokens_interval=(mean - half, mean + half),
        empty=sum(not signal.text for signal in signals) / number,
        right=tuple(guided),
    )


def _ends(model: PreTrainedModel) -> list[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    return own if isinstance(own, list) else [] if own is None else [own]


def _pad(model: PreTrainedModel) -> int:
    own: int | None = getattr(model.generation_config, "pad_token_id", None)
    return own if own is not None else min(_ends(model), default=0)
