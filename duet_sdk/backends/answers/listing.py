"""What servers answer besides completions: their lists of models, and what their tokenizers make of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_LISTS: Final = ("data", "models", "result")
"""Where a list of models stands: OpenAI and most, llama.cpp and Ollama (next to the first), Cloudflare. Together sends
the bare list."""
_NAMES: Final = ("id", "name", "model")
"""Which field of a model is its name: OpenAI and most, Ollama's and Gemini's own lists, llama.cpp."""
MOST_MODELS: Final = 10_000
"""Of a list: OpenRouter, which has the longest known, lists some hundred."""


def model_cards(listed: object) -> dict[str, Mapping[str, object]] | None:
    """What a list says about each model, by its name; None where it is not a list.

    >>> model_cards({"data": [{"id": "m", "max_model_len": 4096}]})
    {'m': {'id': 'm', 'max_model_len': 4096}}
    """
    if isinstance(listed, Mapping):
        listed = next((found for name in _LISTS if isinstance(found := listed.get(name), list)), None)
    if not isinstance(listed, list):
        return None
    cards: dict[str, Mapping[str, object]] = {}
    for card in listed[:MOST_MODELS]:
        if isinstance(card, Mapping):
            name = next((named for field in _NAMES if isinstance(named := card.get(field), str) and named), None)
            if name is not None:
                cards.setdefault(name, card)
        elif isinstance(card, str) and card:
            cards.setdefault(card, {})
    return cards


def token_ids(answer: object) -> list[int] | None:
    """Token ids as a tokenizer's endpoint sends them; None where these are none.

    vLLM and SGLang send ``tokens``; llama.cpp there objects with an ``id``, where their pieces are asked for, and Text
    Generation Inference a bare list of such objects.

    >>> token_ids({"tokens": [1, 2], "count": 2}), token_ids([{"id": 1, "text": "a"}]), token_ids({"tokens": ["a"]})
    ([1, 2], [1], None)
    """
    found = answer.get("tokens") if isinstance(answer, Mapping) else answer
    if not isinstance(found, list):
        return None
    if found and all(isinstance(token, Mapping) for token in found):
        found = [token.get("id") for token in found]
    return found if set(map(type, found)) <= {int} else None
