"""Numbers that a server writes: as numbers or as text, and never believed beyond reason."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

MOST_TOKENS: Final = 10**9
"""No call has a billion tokens: the largest windows hold ten million."""
MOST_USD: Final = Decimal(100_000)
"""No call costs so much: it would be a billion tokens at the highest price of a token."""
_MOST_CHARS: Final = 40
"""Of a number written as text: all that an amount needs, and too few to take time."""


def count(given: object) -> int | None:
    """A count of tokens, None where it is none: below zero, beyond reason, a fraction, a truth value.

    >>> count(12), count(12.0), count("12"), count(-1), count(True), count(1e30)
    (12, 12, 12, None, None, None)
    """
    if isinstance(given, str):
        given = int(given) if len(given) <= _MOST_CHARS and given.isascii() and given.isdigit() else None
    elif isinstance(given, float):
        given = int(given) if 0 <= given <= MOST_TOKENS and given.is_integer() else None
    return given if type(given) is int and 0 <= given <= MOST_TOKENS else None


def position(given: object) -> int | None:
    """A number in a list, from 0; None where it is none."""
    return count(given)


def amount(given: object) -> Decimal | None:
    """An amount of USD, None where it is none.

    >>> amount(0.5), amount("1e-3"), amount(-1), amount("NaN"), amount(1e30)
    (Decimal('0.5'), Decimal('0.001'), None, None, None)
    """
    if (
        given is None
        or isinstance(given, bool)
        or not isinstance(given, int | float | str)
        or (isinstance(given, str) and len(given) > _MOST_CHARS)
    ):
        return None
    if isinstance(given, int) and not 0 <= given <= MOST_USD:
        return None  # longer ones cannot even be written
    try:
        usd = Decimal(str(given))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() and 0 <= usd <= MOST_USD else None
