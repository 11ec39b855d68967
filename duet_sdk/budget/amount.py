"""What a ledger counts: money, tokens of each stage, requests; and the limits on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Final, TypeAlias

from duet_sdk._checks import whole
from duet_sdk.budget.window import window_of
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.types import Json

Units: TypeAlias = tuple[int, int, int, int]
"""An amount as it is stored: nano-USD, reasoner tokens, generator tokens, requests."""

DIMENSIONS: Final = ("usd", "reasoner_tokens", "generator_tokens", "requests")
NOTHING: Final[Units] = (0, 0, 0, 0)
MOST: Final = 9 * 10**15
"""Of every unit: 9 million USD, or that many tokens. Up to here a double, as Redis computes in, is exact."""
_NAMES: Final = {name: f"an amount's {name}" for name in DIMENSIONS}
_NANO_DIGITS: Final = 9
"""Decimal places of a USD amount: ledgers count in nano-USD."""
_EXACT: Final = Context(prec=60, rounding=ROUND_CEILING)
_ZERO: Final = Decimal(0)
_LIMITS_FIELDS: Final = (*DIMENSIONS, "window")
_MOST_USD: Final = Decimal(MOST).scaleb(-_NANO_DIGITS)


@dataclass(frozen=True, slots=True)
class Amount:
    """What an attempt may spend at most, or has spent.

    >>> Amount(usd=Decimal("0.031"), reasoner_tokens=840).units
    (31000000, 840, 0, 0)
    """

    usd: Decimal | None = _ZERO
    """USD, rounded up to the next nano-USD (10⁻⁹). None if the price is unknown."""
    reasoner_tokens: int = 0
    """Input and output tokens that the reasoner is billed for."""
    generator_tokens: int = 0
    """Input and output tokens that the generator is billed for."""
    requests: int = 0
    """Requests of a caller, however many attempts each takes."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidRequest: a value that is negative, not finite, or not a number.
        """
        if self.usd is not None and self.usd is not _ZERO:
            object.__setattr__(self, "usd", _usd(self.usd, "an amount's usd", InvalidRequest))
        for name in DIMENSIONS[1:]:
            whole(_NAMES[name], getattr(self, name), at_least=0, error=InvalidRequest)

    def capped(self) -> Amount:
        """The amount, of nothing more than a ledger counts: a server may report any number."""
        usd = None if self.usd is None else min(self.usd, _MOST_USD)
        return Amount(usd, *(min(getattr(self, name), MOST) for name in DIMENSIONS[1:]))

    @property
    def units(self) -> Units:
        """The amount as it is stored; an unknown price counts as nothing.

        Raises:
            InvalidRequest: more of something than a ledger can count.
        """
        units = (_nano(self.usd), self.reasoner_tokens, self.generator_tokens, self.requests)
        if max(units) > MOST:
            name = DIMENSIONS[units.index(max(units))]
            raise InvalidRequest(
                f"an amount's {name} is {getattr(self, name)}; a ledger counts up to 9 million USD and "
                f"{MOST:.0e} tokens or requests at once"
            )
        return units


@dataclass(frozen=True, slots=True)
class Limit:
    """The most a scope may spend in each window; None leaves that kind of spending unlimited.

    >>> Limit(usd=Decimal("1"), window="day")
    Limit(usd=Decimal('1'), reasoner_tokens=None, generator_tokens=None, requests=None, window='day')
    """

    usd: Decimal | None = None
    """USD; at least 0, which lets only free models through."""
    reasoner_tokens: int | None = None
    """Input and output tokens of the reasoner."""
    generator_tokens: int | None = None
    """Input and output tokens of the generator."""
    requests: int | None = None
    """Requests of a caller."""
    window: str | None = None
    """``minute``, ``hour``, ``day`` or ``month`` by the UTC calendar, ``rolling:24h`` or another time (``s``, ``m``,
    ``h``, ``d``; 1 s to 31 d); None for the scope's whole life."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: no limit at all, a value that is negative, not finite or beyond what a ledger counts, or an
                unknown window.
        """
        if self.usd is not None:
            object.__setattr__(self, "usd", _usd(self.usd, "a limit's usd", ConfigError))
        for name in DIMENSIONS[1:]:
            if (value := getattr(self, name)) is not None:
                whole(f"a limit's {name}", value, at_least=0)
        given = [value for value in self.units if value is not None]
        if not given:
            raise ConfigError(f"a limit must limit at least one of {', '.join(DIMENSIONS)}")
        if max(given) > MOST:
            raise ConfigError(
                f"a limit can be at most 9 million USD and {MOST:.0e} tokens or requests; omit it for none"
            )
        window_of(self.window)

    @property
    def units(self) -> tuple[int | None, int | None, int | None, int | None]:
        """The limit as it is stored: nano-USD, reasoner tokens, generator tokens, requests; None for no limit."""
        usd = None if self.usd is None else _nano(self.usd)
        return usd, self.reasoner_tokens, self.generator_tokens, self.requests


@dataclass(frozen=True, slots=True)
class Balance:
    """The state of a scope in its current window: ``spent - overrun + held`` is never above the limit.

    A limit that was lowered below that lets nothing through until it fits again.
    """

    spent: Amount
    """Settled and expired, all overrun included."""
    held: Amount
    """Reserved for attempts in progress."""
    overrun: Amount
    """The part of ``spent`` that no hold covered: models that billed more than they were allowed to."""
    limit: Limit | None
    """None where the scope is only counted."""

    @property
    def remaining(self) -> Limit | None:
        """What may still be held in this window, at least 0 of each; None where the scope is only counted."""
        if self.limit is None:
            return None
        usd, *counts = (
            None if most is None else max(0, most - spent - held)
            for most, spent, held in zip(self.limit.units, self.spent.units, self.held.units, strict=True)
        )
        reasoner, generator, requests = counts
        return Limit(None if usd is None else usd_of(usd), reasoner, generator, requests, self.limit.window)


def limit_of(given: Limit | Json | None) -> Limit | None:
    """A limit, which may be given as a dict with its fields.

    Raises:
        ConfigError: it is neither, or has a field that a limit has not.
    """
    if given is None or isinstance(given, Limit):
        return given
    shown: object = given  # callers pass a bare number, too
    if not isinstance(shown, Mapping):
        raise ConfigError(
            "a limit must be a Limit, such as Limit(usd=Decimal(5), window='day'), or a dict with its fields, got "
            f"{type(shown).__name__}"
        )
    for name in shown:
        if name not in _LIMITS_FIELDS:
            close = get_close_matches(str(name), _LIMITS_FIELDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its fields are {', '.join(_LIMITS_FIELDS)}"
            raise ConfigError(f"a limit has no field {name!r}; {hint}")
    return Limit(**shown)


def amount_of(units: Units, *, priced: bool = True) -> Amount:
    """The amount that these units stand for."""
    return Amount(usd_of(units[0]) if priced else None, *units[1:])


def usd_of(nano: int) -> Decimal:
    """Nano-USD as an exact decimal, without trailing zeros."""
    whole, rest = divmod(abs(nano), 10**_NANO_DIGITS)
    text = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    return Decimal(text if nano >= 0 else f"-{text}")


def _nano(usd: Decimal | None) -> int:
    if not usd:
        return 0
    if usd.adjusted() > _NANO_DIGITS:
        return MOST + 1  # spelled out, 1E+999999 would fill the memory
    return int(usd.scaleb(_NANO_DIGITS, _EXACT).to_integral_value(ROUND_CEILING, _EXACT))


def _usd(given: object, what: str, refuse: type[ConfigError | InvalidRequest]) -> Decimal:
    try:
        usd = given if isinstance(given, Decimal) else Decimal(str(given))
    except InvalidOperation:
        usd = Decimal("nan")
    if not usd.is_finite() or usd < 0:
        raise refuse(f"{what} must be a number of USD, at least 0, got {given!r}")
    return usd
