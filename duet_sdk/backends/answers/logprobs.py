"""Log-probabilities, in the form of either endpoint of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from duet_sdk.types import TokenLogprob

_LEAST: Final = -9999.0
"""What vLLM writes for minus infinity, which JSON has no word for."""


def logprobs_in(given: object) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of a choice; what is not one is left out."""
    if not isinstance(given, Mapping):
        return ()
    if isinstance(content := given.get("content"), list):
        return tuple(
            TokenLogprob(token, _number(item.get("logprob"), _LEAST), tuple(_tops(item.get("top_logprobs"))))
            for item in content
            if isinstance(item, Mapping) and isinstance(token := item.get("token"), str)
        )
    tokens, scored, tops = given.get("tokens"), given.get("token_logprobs"), given.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(scored, list):
        return ()
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    return tuple(
        # The first token of a text has nothing before it, and null for its probability.
        TokenLogprob(token, _number(logprob, 0.0), tuple(_pairs(top.items())) if isinstance(top, Mapping) else ())
        for token, logprob, top in zip(tokens, scored, tops, strict=False)
        if isinstance(token, str)
    )


def _tops(given: object) -> Iterable[tuple[str, float]]:
    items = given if isinstance(given, list) else ()
    return _pairs((item.get("token"), item.get("logprob")) for item in items if isinstance(item, Mapping))


def _pairs(given: Iterable[tuple[object, object]]) -> Iterable[tuple[str, float]]:
    return ((token, _number(logprob, _LEAST)) for token, logprob in given if isinstance(token, str))


def _number(given: object, otherwise: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return otherwise
    return float(given) if math.isfinite(given) and abs(given) < -_LEAST else otherwise
