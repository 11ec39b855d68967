"""The numbers of a prompt that does not fit, as servers write them: what was needed, and the window."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from duet_sdk.types import Json

_GROUPED: Final = re.compile(r"(?<![\w.,\[-])[1-9]\d{0,2}([,_.' \u00a0\u202f])\d{3}(?:\1\d{3}){0,3}(?![\w]|[.,]\d)")
"""A number with separators: ``128,000``, ``1_048_576``, ``128 000``; not within a name or a list."""
_SHORT: Final = re.compile(r"(?<![\w.-])(\d{1,4}(?:\.\d{1,3})?) ?([km])(?![\w-])", re.IGNORECASE)
"""``128k``, ``1M``: thousands and millions, as providers count them."""
_WHOLE: Final = re.compile(r"(?<=\d)\.0+(?![\d.])")
_OWN_CODE: Final = "(2013)"
"""MiniMax's number of this error, which ends its words."""
_TIMES: Final = {"k": 1_000, "m": 1_000_000}
_PLAIN: Final = re.compile(r"(?<![\w.=-])(\d{2,12})(?![\w-]|\.\d| characters)")
"""A number that may be one of tokens, wherever it stands."""


def _phrases(*phrases: str) -> re.Pattern[str]:
    """A pattern of any of these, each with ``#`` where its number stands."""
    return re.compile(
        "|".join(phrase.replace("#", r"(\d{1,12})(?!\d| characters)") for phrase in phrases), re.IGNORECASE
    )


_WINDOW: Final = _phrases(
    r"context[ _](?:length|size|window|limit)[^.\d]{0,40}?(?<!by )#",  # OpenAI, vLLM, SGLang, Fireworks, LM Studio
    r"max(?:imum)?(?: allowed)?[ _](?:input|prompt|model|seq(?:uence)?)[ _]len(?:gth)?[^.\d]{0,15}#",  # xAI, Triton
    r"max(?:imum)?(?: allowed)? length[^.\d]{0,6}#",  # SGLang
    r"max(?:imum)?:? (?:size|input tokens|tokens)(?: is|:)? #",  # GitHub Models, Bedrock
    r"only supports (?:up to )?#",  # Vertex AI
    r"n_ctx\D{0,4}#",
    r"max_num_tokens\D{0,4}#",  # TensorRT-LLM
    r"maximum number of (?:input )?tokens(?: allowed)?[^.\d]{0,6}#",  # Gemini
    r"limit(?: is| of|:)?[^.\d]{0,3}#",  # Kimi, Cerebras, OpenAI's GPT-5, Copilot
    r"(?:maximum of|cannot exceed|less than|at most|<=|>|should be \[1,)\s*#",  # TGI, Cohere, Anthropic, DashScope
    r"#(?: tokens?)? (?:maximum|context)",  # Mistral
)
_TOTAL: Final = _phrases(
    r"total of(?: at least| about)? #",  # SGLang, vLLM
    r"requested:?(?: about| up to)? #(?! output)",  # OpenAI, DeepSeek, OpenRouter, Kimi
)
"""Prompt and output limit together."""
_PROMPT: Final = _phrases(
    r"(?:contains|resulted in|passed|too long:|has|received|given:)(?: at least| about)? #",
    r"(?:prompt|input|request|token count|length)(?: length| tokens| of| is)?:?[ (]{1,2}#",  # Gemini, SGLang, Triton
    r"(?:keep the first|current length is) #",  # LM Studio, Cerebras
)
"""The prompt alone."""
_SUM: Final = re.compile(r"(\d{1,12}) \+ (\d{1,12}) > (\d{1,12})")
"""Prompt, output limit and window: Anthropic."""
_FIELDS: Final = ("n_prompt_tokens", "n_ctx")
"""Fields of an error that hold the prompt's tokens and the window: llama.cpp's server."""
_LEFT: Final = re.compile(
    r"max_(?:completion_|new_|output_)?tokens\W{0,3}must be [^.\d]{0,30}[01], (?:but )?got (-?\d{1,9})", re.I
)
"""vLLM and SGLang, where a prompt fills the window: they complain of the limit that they work out themselves."""


def room_left(words: str) -> int | None:
    """What a server says that the window leaves for the output, in the words of a limit that is too low; else None."""
    found = _LEFT.search(words)
    return int(found[1]) if found else None


def numbers_of(words: str, error: Json, sent: Json) -> tuple[int | None, int | None]:
    """Tokens needed, prompt and output limit together, and the window; None where neither words nor request tell.

    Args:
        words: what the server says.
        error: its error object.
        sent: the request's body.
    """
    prompt_ids, limit = sent.get("prompt"), asked_limit(sent)
    known = len(prompt_ids) if isinstance(prompt_ids, list) else None
    if (left := room_left(words)) is not None:
        return (limit or None, None) if known is None else (known + limit, known + left)
    total, prompt, window = _told(_plain(words), error)
    if known is not None:
        return max(total or prompt or 0, known + limit), window
    if total is None and prompt is not None:
        total = prompt + limit
    return total or limit or None, window


def _told(words: str, error: Json) -> tuple[int | None, int | None, int | None]:
    """Prompt and output limit together, the prompt alone, and the window, as far as the server says them."""
    if summed := _SUM.search(words):
        return int(summed[1]) + int(summed[2]), None, int(summed[3])
    prompt, window = (_count(error.get(name)) for name in _FIELDS)
    window = window or _first(_WINDOW, words)
    if (total := _first(_TOTAL, words)) is None and prompt is None:
        prompt = _first(_PROMPT, words, but=window)
    if total is None and (prompt is None or window is None):
        prompt, window = _by_size(words, prompt, window)
    return total, prompt, window


def _first(pattern: re.Pattern[str], words: str, *, but: int | None = None) -> int | None:
    numbers = (int(found[found.lastindex or 0]) for found in pattern.finditer(words))
    return next((number for number in numbers if number != but), None)


def _by_size(words: str, prompt: int | None, window: int | None) -> tuple[int | None, int | None]:
    """What no phrase tells, by size: of two numbers the larger one is the prompt, else it would fit."""
    others = sorted({int(number) for number in _PLAIN.findall(words)} - {prompt, window})
    if prompt is None and window is None:
        return (others[-1], others[-2]) if len(others) > 1 else (None, None)
    if prompt is None:
        return (others[-1] if others and others[-1] > (window or 0) else None), window
    return prompt, next((number for number in reversed(others) if number < prompt), None)


def _plain(words: str) -> str:
    """The words with every number in plain digits."""
    words = _GROUPED.sub(lambda found: re.sub(r"\D", "", found[0]), words.removesuffix(_OWN_CODE))
    words = _SHORT.sub(lambda found: str(round(float(found[1]) * _TIMES[found[2].lower()])), words)
    return _WHOLE.sub("", words)


def asked_limit(sent: Json) -> int:
    """The output limit that a request asks for, 0 for none."""
    return next((limit for name in ("max_tokens", "max_completion_tokens") if (limit := _count(sent.get(name)))), 0)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 10**12 else None
