"""What calls cost, and what they can cost at most."""

import sys
import threading
from decimal import Context, Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.errors import ConfigError
from duet_sdk.pricing import FREE, GpuHour, PriceBook, TokenPrice
from duet_sdk.reply import StageUsage

USAGE = StageUsage(input_tokens=1000, output_tokens=100, cached_tokens=400)


def test_tokens_are_priced_exactly_cached_ones_apart():
    book = PriceBook({"litellm/a/b": TokenPrice(3, 15, 0.3)})
    assert book.cost("litellm/a/b", USAGE, seconds=1) == Decimal("0.00342")


def test_cached_tokens_without_a_price_of_their_own_cost_like_the_others():
    assert PriceBook({"x/m": TokenPrice(3, 15)}).cost("x/m", USAGE, seconds=1) == Decimal("0.0045")


def test_the_hour_of_a_gpu_is_shared_out_by_time_and_rounded_up():
    book = PriceBook({"vllm/m": GpuHour("2.50")})
    assert book.cost("vllm/m", USAGE, seconds=36) == Decimal("0.025")
    assert book.cost("vllm/m", USAGE, seconds=0.001) == Decimal("0.000000694445")


def test_own_prices_go_before_the_providers_word_and_that_before_the_backends():
    own = PriceBook({"x/m": TokenPrice(1, 1)})
    none = PriceBook()
    said = Decimal("0.5")
    assert own.cost("x/m", USAGE, seconds=1, reported_usd=said, backend_price=FREE) == Decimal("0.0011")
    assert none.cost("x/m", USAGE, seconds=1, reported_usd=said, backend_price=FREE) == said
    assert none.cost("x/m", USAGE, seconds=1, backend_price=FREE) == 0


@pytest.mark.parametrize("said", ["-0.5", "NaN", "Infinity"])
def test_an_amount_that_a_provider_cannot_mean_counts_as_not_reported(said):
    book = PriceBook()
    assert book.cost("x/m", USAGE, seconds=1, reported_usd=Decimal(said)) is None
    assert book.cost("x/m", USAGE, seconds=1, reported_usd=Decimal(said), backend_price=FREE) == 0


def test_more_cached_tokens_than_input_never_make_a_call_cheaper_than_its_input():
    lied = StageUsage(input_tokens=1_000_000, output_tokens=0, cached_tokens=9_000_000)
    assert PriceBook({"x/m": TokenPrice(10, 10, 1)}).cost("x/m", lied, seconds=1) == 1
    assert PriceBook().cost("litellm/openai/gpt-4o-mini", lied, seconds=1) == Decimal("0.075")


def test_the_bound_covers_a_cache_that_costs_more_than_plain_input():
    book = PriceBook({"x/m": TokenPrice(1, 1, 5)})
    assert book.bound("x/m", input_tokens=10**6, output_tokens=0, seconds=None, backend_price=None) == 5


def test_amounts_do_not_depend_on_the_callers_decimal_context():
    book = PriceBook({"x/m": TokenPrice("1.23456789", 0), "x/h": GpuHour("2.5")})
    usage = StageUsage(input_tokens=1_234_567)
    with localcontext(Context(prec=3, traps=[Inexact])):
        assert str(book.cost("x/m", usage, seconds=1)) == "1.52415677625363"
        assert str(book.cost("x/h", usage, seconds=1234.5)) == "0.857291666667"
        assert str(book.cost("litellm/openai/gpt-4o-mini", usage, seconds=1)) == "0.18518505"


def test_an_amount_that_is_too_long_is_rounded_up():
    book = PriceBook({"x/m": TokenPrice(f"0.{'3' * 70}", 0)})
    assert str(book.cost("x/m", StageUsage(input_tokens=1_000_000), seconds=1)) == f"0.{'3' * 59}4"


def test_a_deadline_that_has_passed_bounds_an_hourly_price_at_nothing():
    book = PriceBook({"x/h": GpuHour(1)})
    assert book.bound("x/h", input_tokens=1, output_tokens=1, seconds=-0.5, backend_price=None) == 0


def test_published_prices_start_no_thread_that_could_fetch_newer_ones():
    before = threading.active_count()
    assert PriceBook().known("litellm/openai/gpt-4o-mini", None)
    assert threading.active_count() == before


def test_a_price_may_be_given_for_the_bare_model():
    assert PriceBook({"openai/gpt": TokenPrice(1, 1)}).cost("litellm/openai/gpt", USAGE, seconds=1) == Decimal("0.0011")


def test_published_prices_are_found_for_a_providers_model():
    usage = StageUsage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert PriceBook().cost("litellm/openai/gpt-4o-mini", usage, seconds=1) == Decimal("0.75")
    assert PriceBook().known("litellm/openai/gpt-4o-mini", None)


@pytest.mark.parametrize(
    "model", ["litellm/openai/no-such-model-anywhere", "vllm/openai/gpt-4o-mini", "scripted/lines"]
)
def test_unknown_and_local_models_have_no_published_price(model):
    assert PriceBook().cost(model, USAGE, seconds=1) is None
    assert not PriceBook().known(model, None)


def test_without_the_extra_a_published_price_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert PriceBook().cost("litellm/openai/gpt-4o-mini", USAGE, seconds=1) is None


def test_a_price_by_the_hour_has_a_bound_only_with_a_deadline():
    book = PriceBook({"vllm/m": GpuHour(3600)})
    arguments = {"input_tokens": 1, "output_tokens": 1, "backend_price": None}
    assert book.bound("vllm/m", seconds=None, **arguments) is None
    assert book.bound("vllm/m", seconds=2.5, **arguments) == Decimal("2.5")
    assert book.known("vllm/m", None)


@given(
    prices=st.tuples(*[st.decimals(0, 1000, places=4)] * 3),
    sizes=st.tuples(*[st.integers(0, 10**7)] * 3),
)
def test_no_call_costs_more_than_its_bound(prices, sizes):
    book = PriceBook({"x/m": TokenPrice(*prices)})
    input_tokens, output_tokens, cached = sizes[0], sizes[1], min(sizes[0], sizes[2])
    cost = book.cost("x/m", StageUsage(input_tokens, output_tokens, cached), seconds=1)
    bound = book.bound("x/m", input_tokens=input_tokens, output_tokens=output_tokens, seconds=None, backend_price=None)
    assert cost <= bound


@pytest.mark.parametrize("price", [-1, "cheap", float("nan"), float("inf"), None])
def test_a_price_that_is_no_amount_is_refused(price):
    with pytest.raises(ConfigError, match="(input_usd|a price by the hour) must be a number of USD of at least 0, got"):
        TokenPrice(price, 1)
    with pytest.raises(ConfigError, match="(input_usd|a price by the hour) must be a number of USD of at least 0, got"):
        GpuHour(price)


@pytest.mark.parametrize("price", ["1e13", "9e999999"])
def test_a_price_that_nobody_can_mean_is_refused(price):
    with pytest.raises(ConfigError, match="output_usd must be at most 10¹² USD, got"):
        TokenPrice(1, price)


@pytest.mark.parametrize(
    ("said", "usd"), [("1e-999999", "1e-12"), ("0.03", "0.03"), ("0.0000000000001", "1e-12"), (f"0.{'3' * 5000}", None)]
)
def test_a_reported_amount_is_kept_to_a_trillionth_rounded_up(said, usd):
    cost = PriceBook().cost("x/m", USAGE, seconds=1, reported_usd=Decimal(said))
    assert str(cost) == "0.333333333334" if usd is None else cost == Decimal(usd)
    assert len(f"{cost:f}") < 20


def test_a_price_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="must be a TokenPrice or GpuHour, got float"):
        PriceBook({"x/m": 0.5})
