"""(model, usage) → USD as an exact decimal, or None if the price is unknown.

Order: the user's own prices, what the provider says the call cost, what the backend knows of itself (a model in this
process is free), the published prices of the package genai-prices (extra ``prices``), else None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext
from typing import TypeAlias

from duet_sdk.errors import ConfigError
from duet_sdk.policies import STRICT
from duet_sdk.reply import StageUsage

_MILLION = Decimal(1_000_000)
# Of our own, as the caller's may be coarse or trap what is inexact. 60 digits hold every product of a price and a
# number of tokens; what they cannot hold is rounded up, so that no amount is below the real cost.
_EXACT = Context(prec=60, rounding=ROUND_CEILING)
_HOUR_S = Decimal(3600)
_SMALLEST_USD = Decimal("1e-12")
_LOCAL = frozenset({"scripted", "transformers", "vllm", "vllm-engine"})


def _usd(name: str, given: object) -> Decimal:
    try:
        usd = Decimal(str(given))
    except InvalidOperation:
        usd = Decimal("nan")
    if not usd.is_finite() or usd < 0:
        raise ConfigError(f"{name} must be a number of USD of at least 0, got {given!r}")
    return usd


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD for a million tokens.

    >>> PriceBook({"litellm/x": TokenPrice("0.15", "0.60")}).cost(
    ...     "litellm/x", StageUsage(input_tokens=1000, output_tokens=100), seconds=1.0
    ... )
    Decimal('0.00021')
    """

    input_usd: Decimal
    output_usd: Decimal
    cached_usd: Decimal | None = None
    """Input tokens that the server had cached; None bills them like the others, which is never too little."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Take numbers of any kind, exactly as written.

        Raises:
            ConfigError: a price that is negative or not a number.
        """
        object.__setattr__(self, "input_usd", _usd("input_usd", self.input_usd))
        object.__setattr__(self, "output_usd", _usd("output_usd", self.output_usd))
        if self.cached_usd is not None:
            object.__setattr__(self, "cached_usd", _usd("cached_usd", self.cached_usd))


@dataclass(frozen=True, slots=True)
class GpuHour:
    """USD for an hour of the hardware that a model keeps busy; a call costs its share of the time."""

    usd: Decimal

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Take a number of any kind, exactly as written.

        Raises:
            ConfigError: a price that is negative or not a number.
        """
        object.__setattr__(self, "usd", _usd("a price by the hour", self.usd))


Price: TypeAlias = TokenPrice | GpuHour
"""What a model costs, by its tokens or by the time it takes."""
FREE = TokenPrice(Decimal(0), Decimal(0))
_NOTHING = Decimal(0)


class PriceBook:
    """Finds what a call cost, and what it can cost at most.

    Args:
        own: prices by full model name (``backend/model``) or by the model alone; they override every other source.
    """

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._own = dict(own or {})
        for name, price in self._own.items():
            if not isinstance(price, TokenPrice | GpuHour):
                raise ConfigError(f"the price of {name!r} must be a TokenPrice or GpuHour, got {type(price).__name__}")

    def cost(
        self,
        model: str,
        usage: StageUsage,
        *,
        seconds: float,
        reported_usd: Decimal | None = None,
        backend_price: Price | None = None,
    ) -> Decimal | None:
        """What a call cost, None if its price is unknown.

        Prices by the hour are rounded up to the next 10⁻¹² USD, all others are exact. A reported amount that is
        negative or not a number counts as not reported, cached tokens beyond the input as input.
        """
        own = self._find(model)
        if own is None and reported_usd is not None and reported_usd.is_finite() and reported_usd >= 0:
            return reported_usd
        price, cached_tokens = own or backend_price, min(usage.cached_tokens or 0, usage.input_tokens)
        if price is None:
            return _published(model, usage.input_tokens, usage.output_tokens, cached_tokens)
        return _apply(price, usage.input_tokens, usage.output_tokens, cached_tokens, seconds)

    def cost_by_token(self, model: str, usage: StageUsage, *, backend_price: Price | None) -> Decimal | None:
        """What a call that was never made would cost, None if its price is unknown or one by the hour."""
        if isinstance(self._find(model) or backend_price, GpuHour):
            return None
        return self.cost(model, usage, seconds=0.0, backend_price=backend_price)

    def bound(
        self, model: str, *, input_tokens: int, output_tokens: int, seconds: float | None, backend_price: Price | None
    ) -> Decimal | None:
        """The most that a call of these sizes can cost: input at its highest price, all of ``seconds`` used.

        None if the price is unknown, or is one by the hour and ``seconds`` is None.
        """
        price = self._find(model) or backend_price
        if price is None:
            return _published(model, input_tokens, output_tokens, 0)
        if isinstance(price, GpuHour) and seconds is None:
            return None
        # Some providers charge more for writing to their cache than for plain input.
        dearer = isinstance(price, TokenPrice) and price.cached_usd is not None and price.cached_usd > price.input_usd
        return _apply(price, input_tokens, output_tokens, input_tokens if dearer else 0, seconds or 0.0)

    def known(self, model: str, backend_price: Price | None) -> bool:
        """Whether there is a price before the call is made."""
        return (self._find(model) or backend_price) is not None or _published(model, 1, 1, 0) is not None

    def _find(self, model: str) -> Price | None:
        return self._own.get(model) or self._own.get(model.partition("/")[2])


def _apply(price: Price, input_tokens: int, output_tokens: int, cached_tokens: int, seconds: float) -> Decimal:
    if price is FREE:  # most local models; exact arithmetic would cost more than all other book-keeping
        return _NOTHING
    with localcontext(_EXACT):
        if isinstance(price, GpuHour):
            # Seconds left of a deadline that has just passed are below 0.
            return (price.usd * Decimal(str(max(seconds, 0.0))) / _HOUR_S).quantize(_SMALLEST_USD)
        cached_usd = price.input_usd if price.cached_usd is None else price.cached_usd
        plain = input_tokens - cached_tokens
        return (plain * price.input_usd + cached_tokens * cached_usd + output_tokens * price.output_usd) / _MILLION


def _published(model: str, input_tokens: int, output_tokens: int, cached_tokens: int) -> Decimal | None:
    """The published price of a provider's model, None without the extra ``prices`` or for a model it does not list.

    It is read from the package's own data; nothing is fetched.

    Models that run on one's own hardware have none, though providers may sell models of the same name.
    """
    backend, _, rest = model.partition("/")
    if backend in _LOCAL:
        return None
    try:
        import genai_prices
    except ImportError:
        return None
    provider, _, name = rest.partition("/")
    usage = genai_prices.Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached_tokens or None
    )
    for model_ref, provider_id in ((name, provider), (rest, None)):
        try:
            with localcontext(_EXACT):
                priced = genai_prices.calc_price(usage, model_ref=model_ref, provider_id=provider_id)
        except (LookupError, ValueError):  # a model it does not list, a usage it has no price for
            continue
        return Decimal(priced.total_price)
    return None
