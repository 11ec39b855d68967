"""A gate that scores the question by what can be seen in it; no model is called."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from duet_sdk.errors import ConfigError
from duet_sdk.gate.words import ENGLISH, FAILED, SMALL_TALK, STEPS
from duet_sdk.policies import check_threshold
from duet_sdk.reply import GateDecision
from duet_sdk.request import Request
from duet_sdk.types import Message

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "bias": -2.0,
        "length": 1.2,
        "numbers": 1.6,
        "operators": 1.4,
        "steps": 2.4,
        "parts": 1.0,
        "code": 1.8,
        "tool_error": 2.0,
        "tool_results": 0.8,
        "turns": 0.4,
        "other_language": 0.6,
        "small_talk": -2.0,
    }
)
"""What each feature adds to the score's exponent. Set by hand; fit your own for a calibration file."""

_MOST_CHARACTERS = 4_000
"""Of a longer message its beginning and its end are looked at, half of this each: reading is to stay cheap."""
_LONG_WORDS = 200
"""Words from which on the feature ``length`` is 1; set by hand, like the weights."""
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[^\W\d_{_UNSPACED}]+")
_UNSPACED_LETTER = re.compile(rf"[{_UNSPACED}]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPERATOR = re.compile(
    r"[+=<>≤≥≠×÷√∑∏∫∂∞∈∀∃^%]|(?<=[\w)])\s*[*/]\s*(?=[\w(])|(?<=\d)\s*[-−]\s*(?=\d)|\\(?:frac|sqrt|sum|int|cdot|times|leq?|geq?)\b"
)
_PART = re.compile(r"[?？؟;；]|^[ \t]*(?:[-*•]|\(?\w[.)])\s", re.MULTILINE)
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(
    r"^[ \t]*(?:def |class |import |from \w+ import |return\b|func |fn |let |const |var |public |#include|SELECT\b"
    r"|if ?\(|for ?\()|[;{}][ \t]*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Heuristic:
    """Scores the last user message and the tools' results after it; the reasoner is asked for what looks hard.

    The score is logistic: 1 / (1 + e^-(bias + Σ weight · feature)), every feature in [0, 1], see `features`.

    >>> import asyncio
    >>> ask = lambda text: asyncio.run(Heuristic().decide(Request((Message("user", text),))))
    >>> ask("Hello there!").ask, ask("How many primes lie between 40 and 60? Prove it.").ask
    (False, True)
    """

    threshold: float = 0.5
    """The reasoner is asked at this score and above, in [0, 1]; not calibrated, set it from your own questions."""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    """By feature, and ``bias``; what is left out weighs nothing."""
    name: str = "heuristic"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a threshold out of its range, or a weight of an unknown feature or without a finite value.
        """
        check_threshold("the threshold of the heuristic gate", self.threshold)
        for feature, weight in self.weights.items():
            if feature not in WEIGHTS:
                raise ConfigError(f"the heuristic gate has no feature {feature!r}; it has {', '.join(WEIGHTS)}")
            if not math.isfinite(weight):
                raise ConfigError(f"the weight of {feature!r} must be finite, got {weight}")

    async def decide(self, request: Request) -> GateDecision:
        """Ask where the score reaches the threshold; the reason names the features that speak most for asking."""
        found = features(request)
        parts = {name: self.weights.get(name, 0.0) * value for name, value in found.items()}
        score = _logistic(self.weights.get("bias", 0.0) + math.fsum(parts.values()))
        speaking = sorted((name for name in parts if parts[name] > 0), key=lambda name: -parts[name])[:3]
        reason = ", ".join(speaking) or "nothing in the question calls for the reasoner"
        return GateDecision(score >= self.threshold, self.name, score, self.threshold, reason)


def features(request: Request) -> dict[str, float]:
    """What the heuristic gate sees in a request, each in [0, 1].

    ``length``: words, on a logarithmic scale up to 200 (two characters of a script without spaces count as a word).
    ``numbers``: up to 4. ``operators``: of mathematics, LaTeX included, up to 3. ``steps``: words of work in several
    steps, in some twenty languages, up to 2. ``parts``: questions and list items beyond the first, up to 3.
    ``code``: a fenced block, or lines of code up to 5. ``tool_error``: the last tool's result since the last user
    message reports a failure. ``tool_results``: results since then, up to 3. ``turns``: earlier user messages, up
    to 8. ``other_language``: the text is not recognisably English. ``small_talk``: it is a greeting, thanks or the
    like.
    """
    users = [at for at, message in enumerate(request.messages) if message.role == "user"]
    last = users[-1] if users else len(request.messages) - 1
    text = _ends(request.messages[last].text)
    results = [message for message in request.messages[last + 1 :] if message.role == "tool"]
    prose = _FENCE.sub(" ", text)
    words = _WORD.findall(prose)
    unspaced = len(_UNSPACED_LETTER.findall(prose))
    length = len(words) + unspaced / 2
    return {
        "length": min(1.0, math.log1p(length) / math.log1p(_LONG_WORDS)),
        "numbers": _share(len(_NUMBER.findall(prose)), 4),
        "operators": _share(len(_OPERATOR.findall(prose)), 3),
        "steps": _share(len(STEPS.findall(prose)), 2),
        "parts": _share(len(_PART.findall(prose)) - 1, 3),
        "code": 1.0 if "```" in text else _share(len(_CODE_LINE.findall(prose)), 5),
        "tool_error": float(bool(results) and _failed(results[-1])),
        "tool_results": _share(len(results), 3),
        "turns": _share(len(users) - 1, 8),
        "other_language": float(_other_language(words, unspaced)),
        "small_talk": float(len(prose) < 80 and SMALL_TALK.fullmatch(prose) is not None),
    }


def _ends(text: str) -> str:
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:half]}\n{text[-half:]}"


def _share(count: int, full: int) -> float:
    return min(1.0, max(0, count) / full)


def _logistic(exponent: float) -> float:
    # Of the two forms, the one whose power cannot overflow.
    if exponent >= 0:
        return 1.0 / (1.0 + math.exp(-exponent))
    power = math.exp(exponent)
    return power / (1.0 + power)


def _failed(result: Message) -> bool:
    return FAILED.search(result.text[:500]) is not None


def _other_language(words: list[str], unspaced: int) -> bool:
    """Whether the text is not recognisably English; a few words alone tell nothing."""
    if unspaced > len(words):
        return True
    foreign = sum(not word.isascii() for word in words)
    if words and foreign * 3 > len(words):
        return True
    return len(words) >= 4 and not any(map(ENGLISH.fullmatch, words))
