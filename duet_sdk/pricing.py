"""(model, usage) → USD as an exact decimal, or None if the price is unknown.

Order: the user's own prices (of the client, then of the endpoint), what the provider says the call cost, what the
backend knows of itself (a model in this process is free), the published prices of the package genai-prices (extra
``prices``), else None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, localcontext
from difflib import get_close_matches
from typing import Final, TypeAlias

from duet_sdk._checks import tells_fields
from duet_sdk.errors import ConfigError
from duet_sdk.policies import STRICT
from duet_sdk.reply import StageUsage

_MILLION = Decimal(1_000_000)
# Of our own, as the caller's may be coarse or trap what is inexact. 60 digits hold every product of a price and a
# number of tokens; what they cannot hold is rounded up, so that no amount is below the real cost.
_EXACT = Context(prec=60, rounding=ROUND_CEILING)
_HOUR_S = Decimal(3600)
_SMALLEST_USD = Decimal("1e-12")
_MOST_REPORTED_USD: Final = Decimal(9_000_000)
"""The most that a ledger counts, and no call costs: a provider that says more says nothing."""
_HIGHEST_USD: Final = Decimal(10**12)
"""A price beyond it is a mistake, and could not be multiplied within our decimals for ever."""
_LOCAL = frozenset({"scripted", "transformers", "vllm", "vllm-engine"})


def _usd(name: str, given: object) -> Decimal:
    try:
        usd = Decimal(str(given))
    except InvalidOperation:
        usd = Decimal("nan")
    if not usd.is_finite() or usd < 0:
        raise ConfigError(f"{name} must be a number of USD of at least 0, got {given!r}")
    if usd > _HIGHEST_USD:
        raise ConfigError(f"{name} must be at most 10¹² USD, got {given!r}")
    return usd


@tells_fields
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
    cache_write_usd: Decimal | None = None
    """Input tokens that the server wrote to its cache, where it bills them apart; None bills them like the others."""

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        """Take numbers of any kind, exactly as written.

        Raises:
            ConfigError: a price that is negative or not a number.
        """
        object.__setattr__(self, "input_usd", _usd("input_usd", self.input_usd))
        object.__setattr__(self, "output_usd", _usd("output_usd", self.output_usd))
        for name in ("cached_usd", "cache_write_usd"):
            if (usd := getattr(self, name)) is not None:
                object.__setattr__(self, name, _usd(name, usd))


@tells_fields
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
PRICE_KEYS = ("input_usd", "output_usd", "cached_usd", "cache_write_usd", "gpu_hour_usd")
"""The keys of a price's table."""
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
            if not isinstance(name, str):
                raise ConfigError(f"prices are by the model's name, such as 'vllm/MODEL', got {type(name).__name__}")
            if not isinstance(price, TokenPrice | GpuHour):
                raise ConfigError(
                    f"the price of {name!r} must be a TokenPrice or GpuHour, got {type(price).__name__}; write "
                    "TokenPrice(input_usd, output_usd), in USD for a million tokens"
                )

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
        negative, not a number or beyond 9 million USD counts as not reported, cached and written tokens beyond the
        input as input.

        Args:
            model: its full name.
            usage: what the call used.
            seconds: how long it took.
            reported_usd: what the provider says it cost.
            backend_price: what the backend knows, or its user told it.
        """
        own = self._find(model)
        if own is None and reported_usd is not None and _is_meant(reported_usd):
            with localcontext(_EXACT):  # a server may write more digits than anybody wants to read
                return reported_usd.quantize(_SMALLEST_USD) if _is_long(reported_usd) else reported_usd
        price = own or backend_price
        if price is FREE:
            return _NOTHING
        size = _Size.of(usage)
        return _published(model, size) if price is None else _apply(price, size, seconds)

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
            return _published(model, _Size(input_tokens, output_tokens))
        if isinstance(price, GpuHour):
            return None if seconds is None else _apply(price, _Size(), seconds)
        # Some providers charge more for writing to their cache than for plain input.
        cached, written = price.cached_usd or _NOTHING, price.cache_write_usd or _NOTHING
        size = _Size(input_tokens, output_tokens)
        if max(cached, written) > price.input_usd:
            cached_tokens = input_tokens if cached >= written else 0
            size = _Size(input_tokens, output_tokens, cached_tokens, input_tokens - cached_tokens)
        return _apply(price, size, 0.0)

    def known(self, model: str, backend_price: Price | None) -> bool:
        """Whether there is a price before the call is made."""
        return (self._find(model) or backend_price) is not None or _published(model, _Size(1, 1)) is not None

    def check_names(self, models: Collection[str]) -> None:
        """Refuse a price that is of none of these models: it would never be used.

        Args:
            models: full names.

        Raises:
            ConfigError: there is one; suggests what may have been meant.
        """
        known = {*models, *(model.partition("/")[2] for model in models)}
        for name in self._own:
            if name in known:
                continue
            folded = {model.casefold(): model for model in sorted(known)}
            close = get_close_matches(name.casefold(), sorted(folded), n=1, cutoff=0.5)
            meant = f"did you mean {folded[close[0]]!r}?" if close else ""
            hint = meant or f"its models are {', '.join(sorted(set(models)))}"
            raise ConfigError(f"prices has {name!r}, which is no model of this client; {hint}")

    def is_free(self, model: str, backend_price: Price | None) -> bool:
        """Whether every call of the model costs nothing, as far as is known before."""
        price = self._find(model) or backend_price
        if isinstance(price, GpuHour):
            return not price.usd
        return price is not None and not (
            price.input_usd or price.output_usd or price.cached_usd or price.cache_write_usd
        )

    def _find(self, model: str) -> Price | None:
        return self._own.get(model) or self._own.get(model.partition("/")[2])


@dataclass(frozen=True, slots=True)
class _Size:
    """The tokens of a call that are billed; reasoning is part of the output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input."""
    written_tokens: int = 0
    """Of the input, and none of the cached."""

    @classmethod
    def of(cls, usage: StageUsage) -> _Size:
        """Those of a usage, in which the server may have contradicted itself."""
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        written = min(usage.cache_write_tokens or 0, usage.input_tokens - cached)
        return cls(usage.input_tokens, usage.output_tokens, cached, written)


def _is_meant(usd: Decimal) -> bool:
    return usd.is_finite() and 0 <= usd <= _MOST_REPORTED_USD


def _is_long(usd: Decimal) -> bool:
    exponent = usd.as_tuple().exponent
    return isinstance(exponent, int) and exponent < _SMALLEST_USD.adjusted()


def _apply(price: Price, size: _Size, seconds: float) -> Decimal:
    if price is FREE:  # most local models; exact arithmetic would cost more than all other book-keeping
        return _NOTHING
    with localcontext(_EXACT):
        if isinstance(price, GpuHour):
            # Seconds left of a deadline that has just passed are below 0.
            return (price.usd * Decimal(str(max(seconds, 0.0))) / _HOUR_S).quantize(_SMALLEST_USD)
        cached_usd = price.input_usd if price.cached_usd is None else price.cached_usd
        written_usd = price.input_usd if price.cache_write_usd is None else price.cache_write_usd
        plain = size.input_tokens - size.cached_tokens - size.written_tokens
        read = plain * price.input_usd + size.cached_tokens * cached_usd + size.written_tokens * written_usd
        return (read + size.output_tokens * price.output_usd) / _MILLION


def _published(model: str, size: _Size) -> Decimal | None:
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
        input_tokens=size.input_tokens,
        output_tokens=size.output_tokens,
        cache_read_tokens=size.cached_tokens or None,
        cache_write_tokens=size.written_tokens or None,
    )
    for model_ref, provider_id in ((name, provider), (rest, None)):
        try:
            with localcontext(_EXACT):
                priced = genai_prices.calc_price(usage, model_ref=model_ref, provider_id=provider_id)
        except (LookupError, ValueError, ArithmeticError):  # a model it does not list, a usage it has no price for
            continue
        return Decimal(priced.total_price)
    return None
