"""Amounts, limits, windows and scopes: what is taken, what is refused, and how it is said."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from duet_sdk.budget import Amount, Limit, scope_of
from duet_sdk.budget.window import SECOND, moment_of, window_of
from duet_sdk.errors import ConfigError, InvalidRequest


@pytest.mark.parametrize("usd", [Decimal("-0.01"), Decimal("nan"), Decimal("inf"), "much", -1])
def test_an_amount_of_money_must_be_a_number_from_zero_up(usd):
    with pytest.raises(InvalidRequest, match="an amount's usd must be a number of USD, at least 0"):
        Amount(usd=usd)


@pytest.mark.parametrize("name", ["reasoner_tokens", "generator_tokens", "requests"])
@pytest.mark.parametrize("value", [-1, 1.0, "1", True, None])
def test_a_count_must_be_a_whole_number_from_zero_up(name, value):
    with pytest.raises(InvalidRequest, match=f"an amount's {name} must be a whole number of at least 0"):
        Amount(**{name: value})


def test_money_is_taken_exactly_as_written():
    assert Amount(usd=0.1).usd == Decimal("0.1")
    assert Amount(usd="0.000000001").units == (1, 0, 0, 0)
    assert Amount(usd=Decimal("0.0000000001")).units == (1, 0, 0, 0)
    assert Amount(usd=Decimal("1234567.890123456")).units == (1_234_567_890_123_456, 0, 0, 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "must limit at least one of usd, reasoner_tokens, generator_tokens, requests"),
        ({"window": "day"}, "must limit at least one"),
        ({"usd": Decimal(-1)}, "a limit's usd must be a number of USD, at least 0, got Decimal"),
        ({"usd": Decimal("nan")}, "a limit's usd must be a number of USD"),
        ({"usd": Decimal("1E+999999")}, "9 million USD"),
        ({"usd": Decimal("9000000.000000001")}, "9 million USD"),
        ({"requests": -1}, "a limit's requests must be a whole number of at least 0, got -1"),
        ({"reasoner_tokens": 10**16}, "9e[+]15 tokens"),
        ({"requests": 1, "window": "week"}, "unknown window 'week': use minute, hour, day or month, rolling:"),
        ({"requests": 1, "window": ""}, "unknown window"),
        ({"requests": 1, "window": "rolling:0h"}, "unknown window"),
        ({"requests": 1, "window": "rolling:32d"}, "a time from 1s to 31d"),
        ({"requests": 1, "window": "rolling:1.5h"}, "unknown window"),
        ({"requests": 1, "window": "rolling:-1h"}, "unknown window"),
        ({"requests": 1, "window": "Day"}, "unknown window"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        Limit(**values)


@pytest.mark.parametrize("window", ["minute", "hour", "day", "month", "rolling:1s", "rolling:24h", "rolling:31d", None])
def test_a_window_is_taken(window):
    assert Limit(requests=0, window=window).window == window


@pytest.mark.parametrize(
    ("label", "scope"),
    [
        ("a", "user:a"),
        ("a@b.example", "user:a@b.example"),
        ("Jürgen K.", "user:J%C3%BCrgen%20K."),
        ("100%", "user:100%25"),
        ("a\n", "user:a%0A"),
        ("half a pair \ud83d", "user:half%20a%20pair%20%ED%A0%BD"),
    ],
)
def test_any_label_has_a_scope(label, scope):
    assert scope_of("user", label) == scope


@pytest.mark.parametrize(("kind", "label"), [("user", ""), ("user", "x" * 201), ("User", "a"), ("", "a")])
def test_what_cannot_be_a_scope_is_refused(kind, label):
    with pytest.raises(InvalidRequest, match="kind:name"):
        scope_of(kind, label)


def test_the_month_of_a_day_starts_with_its_first():
    month = window_of("month")
    for day in range(0, 60_000, 13):
        at = day * 86_400 * SECOND + 12345
        assert moment_of(month.slice_of(at)) == moment_of(at).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert month.slice_of(0) == 0
    assert moment_of(1) == datetime(1970, 1, 1, microsecond=1, tzinfo=UTC)
