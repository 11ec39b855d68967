"""What LiteLLM's list of models says about one: abilities, window, prices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from duet_sdk.backends.base import Capabilities
from duet_sdk.backends.litellm.connections import load
from duet_sdk.errors import ConfigError
from duet_sdk.pricing import TokenPrice

if TYPE_CHECKING:
    from duet_sdk.types import Json

_MILLION = 1_000_000
"""LiteLLM lists prices per token, DUET per million."""
# A longer prompt may cost more for each token; prices by service tier and batch are not for these calls.
_INPUT = re.compile(r"input_cost_per_token(_above_\d+k_tokens)?")
_OUTPUT = re.compile(r"output_cost_per_(token(_above_\d+k_tokens)?|reasoning_token)")
_CACHED = re.compile(r"cache_read_input_token_cost(_above_\d+k_tokens)?")
_WRITTEN = re.compile(r"cache_creation_input_token_cost(_above_(\d+k_tokens|\d+hr))*")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as LiteLLM knows it."""

    model: str
    provider: str
    capabilities: Capabilities
    price: TokenPrice | None
    """The highest of its token prices, None if none is listed."""
    no_thinking: str | None
    """The ``reasoning_effort`` that thinks least: ``none`` where thinking can be turned off; None if there is none."""
    counts: bool = False
    """Whether LiteLLM brings the model's own tokenizer along: OpenAI's models, as far as it lists them."""

    def count(self, turns: Sequence[Json]) -> int:
        """Prompt tokens of these turns, which have neither images nor calls; a long prompt takes half a second."""
        return int(load().token_counter(model=self.model, messages=list(turns)))

    def cost(self, usage: object) -> Decimal | None:
        """USD of a call by LiteLLM's own calculation, None for a model without a price.

        Args:
            usage: as LiteLLM reports it, cached and reasoning tokens in it.
        """
        if self.price is None:
            return None
        litellm = load()
        try:
            answer = litellm.ModelResponse(model=self.model, usage=usage)
            return Decimal(str(litellm.completion_cost(completion_response=answer, model=self.model)))
        except Exception:  # noqa: BLE001 - of a usage that it cannot price it raises anything; the answer is there
            return None


def facts_of(model: str, base_url: str | None, context_tokens: int | None) -> ModelFacts:
    """Look a model up; what LiteLLM does not list may have every ability, as only its server knows.

    Blocks: it imports LiteLLM, and for a few providers LiteLLM asks the server.

    Raises:
        ConfigError: LiteLLM knows no such provider.
        MissingExtra: LiteLLM is not installed.
    """
    litellm = load()
    try:
        name, provider, *_ = litellm.get_llm_provider(model, api_base=base_url)
    except litellm.exceptions.BadRequestError:
        raise ConfigError(
            f"LiteLLM has no provider for {model!r}; write litellm/PROVIDER/MODEL, such as litellm/openai/gpt-4o-mini"
        ) from None
    listed = _listed(litellm, model, base_url)
    params = set(litellm.get_supported_openai_params(name, provider) or ())
    known = bool(listed)
    return ModelFacts(
        model=model,
        provider=provider,
        capabilities=Capabilities(
            context_tokens=context_tokens or listed.get("max_input_tokens"),
            tools=bool(listed.get("supports_function_calling")) if known else True,
            response_format=(bool(listed.get("supports_response_schema")) or "response_format" in params),
            images=bool(listed.get("supports_vision")) if known else True,
            logprobs="logprobs" in params or not params,
            switch_thinking=_least_thinking(listed, provider, params) == "none",
        ),
        price=_price(listed),
        no_thinking=_least_thinking(listed, provider, params),
        counts=known and provider == "openai",
    )


def _listed(litellm: Any, model: str, base_url: str | None) -> Mapping[str, Any]:
    try:
        info: Mapping[str, Any] = litellm.get_model_info(model, api_base=base_url)
    except Exception:  # noqa: BLE001 - a model that is not listed is an exception of no kind of its own in some versions
        return {}
    return info


def _least_thinking(listed: Mapping[str, Any], provider: str, params: set[str]) -> str | None:
    if not listed.get("supports_reasoning") or "reasoning_effort" not in params:
        return None
    # Anthropic's models think only when asked to; LiteLLM's list says "none" of OpenAI's and others' alone.
    if listed.get("supports_none_reasoning_effort") or provider == "anthropic":
        return "none"
    return "minimal" if listed.get("supports_minimal_reasoning_effort") else "low"


def _price(listed: Mapping[str, Any]) -> TokenPrice | None:
    if listed.get("input_cost_per_token") is None or listed.get("output_cost_per_token") is None:
        return None
    # A model of one's own that LiteLLM lists without a price reads 0, which is not a price.
    highest = [_highest(listed, kind) for kind in (_INPUT, _OUTPUT, _CACHED, _WRITTEN)]
    input_usd, output_usd, cached_usd, cache_write_usd = highest
    if not input_usd and not output_usd:
        return None
    return TokenPrice(input_usd or Decimal(0), output_usd or Decimal(0), cached_usd, cache_write_usd)


def _highest(listed: Mapping[str, Any], kind: re.Pattern[str]) -> Decimal | None:
    """USD per million tokens, the highest price of its kind."""
    prices = [Decimal(str(usd)) for name, usd in listed.items() if kind.fullmatch(name) and usd is not None]
    return max(prices) * _MILLION if prices else None
