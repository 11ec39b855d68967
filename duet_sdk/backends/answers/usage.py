"""What a server says that a call used, wherever it says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from duet_sdk.backends.answers import spellings
from duet_sdk.backends.answers.numbers import MOST_TOKENS, amount, count
from duet_sdk.reply import StageUsage

_NUMBERS = ("prompt_tokens", "completion_tokens", "total_tokens")


def usage_in(value: Mapping[str, object]) -> tuple[StageUsage | None, Decimal | None]:
    """Tokens and USD by an answer, an event, or a choice; None for what it does not tell."""
    for path in spellings.USAGES:
        if isinstance(given := at(value, path), Mapping):
            return usage_of(given), _first_amount(given)
    return None, None


def usage_of(given: Mapping[str, object]) -> StageUsage | None:
    """The tokens of a usage object; None where it does not tell them, or where all of them are 0: a placeholder."""
    if (plain := _plain(given)) is not None:
        return plain
    prompt, output = _first(given, spellings.INPUT_TOKENS), _first(given, spellings.OUTPUT_TOKENS)
    total = _first(given, spellings.TOTAL_TOKENS)
    if prompt is not None and total is None and at(given, spellings.INPUT_TOKENS[0]) is None:
        # Anthropic's own form, which has no total: its input is what neither came from the cache nor went there.
        prompt += sum(count(given.get(name)) or 0 for name in spellings.BESIDE_INPUT)
    if output is None and prompt is not None and total is not None and total > prompt:
        output = total - prompt
    if prompt is None or output is None or not (prompt or output):
        return None
    cached = _most(given, spellings.CACHED_TOKENS)
    written = _most(given, spellings.CACHE_WRITE_TOKENS)
    thought = _most(given, spellings.REASONING_TOKENS)
    return settled(prompt, output, total, cached=cached, written=written, thought=thought)


def _plain(given: Mapping[str, object]) -> StageUsage | None:
    """A usage that tells OpenAI's three numbers and nothing else, as most do: no search among spellings."""
    prompt, output, total = given.get("prompt_tokens"), given.get("completion_tokens"), given.get("total_tokens")
    if type(prompt) is not int or type(output) is not int or type(total) is not int:
        return None
    if prompt < 0 or output < 0 or not 0 < total <= MOST_TOKENS or total != prompt + output:
        return None
    if len(given) > len(_NUMBERS) and any(told is not None for name, told in given.items() if name not in _NUMBERS):
        return None
    return StageUsage(prompt, output)


def settled(
    prompt: int, output: int, total: int | None, *, cached: int | None, written: int | None, thought: int | None
) -> StageUsage:
    """A usage whose parts are within their wholes.

    Some servers count thinking, or what the cache held, outside of the rest; ``total`` tells. Source: for thinking
    https://docs.x.ai/docs/guides/reasoning and Gemini's OpenAI endpoint, which tells it in the total alone; for the
    cache https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching#tracking-cache-performance.
    """
    beside = 0 if total is None else total - prompt - output
    if beside > 0:
        if beside == (cached or 0) + (written or 0) != (thought or 0):
            prompt += beside
        else:
            output += beside
            thought = thought or beside
    elif thought is not None and thought > output:
        output += thought
    return StageUsage(prompt, output, cached, cache_write_tokens=written, reasoning_tokens=thought)


def at(value: object, path: spellings.Path) -> object:
    """What stands under these names, None where nothing does."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _first(given: Mapping[str, object], paths: Iterable[spellings.Path]) -> int | None:
    """The count under the first of these names that is there."""
    told = (found for path in paths if (found := at(given, path)) is not None)
    return count(next(told, None))


def _most(given: Mapping[str, object], paths: Iterable[spellings.Path]) -> int | None:
    """The largest of the counts under these names: gateways write 0 under one that they do not fill in."""
    told = [found for path in paths if (found := count(at(given, path))) is not None]
    return max(told, default=None)


def _first_amount(given: Mapping[str, object]) -> Decimal | None:
    for path in spellings.COST_USD:
        if path[0] in given and (usd := amount(at(given, path))) is not None:
            return usd
    return None
