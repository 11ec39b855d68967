"""Checks of numbers: what passes, and the one sentence for what does not."""

import math
from decimal import Decimal

import pytest

from duet_sdk._checks import one_of, seconds, share, whole
from duet_sdk.errors import ConfigError, InvalidRequest


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_what_is_no_whole_number_of_at_least_one_is_refused(value):
    with pytest.raises(ConfigError) as refused:
        whole("tries", value)
    assert str(refused.value) == f"tries must be a whole number of at least 1, got {value!r}"


def test_a_whole_number_may_have_another_bound():
    whole("turns", 0, at_least=0)
    with pytest.raises(ConfigError, match="turns must be a whole number of at least 2, got 1"):
        whole("turns", 1, at_least=2)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ConfigError) as refused:
        share("keep", value)
    assert str(refused.value) == f"keep must be between 0 and 1, got {value!r}"


def test_a_share_may_have_to_be_above_zero():
    for value in (0, 1, 0.5, Decimal("0.5")):
        share("keep", value)
    share("keep", 1, above_zero=True)
    with pytest.raises(ConfigError, match="keep must be above 0 and at most 1, got 0"):
        share("keep", 0, above_zero=True)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "2", None])
def test_what_is_no_time_is_refused(value):
    with pytest.raises(ConfigError) as refused:
        seconds("wait_s", value)
    assert str(refused.value) == f"wait_s must be a finite number of seconds, above 0, got {value!r}"


def test_a_time_may_be_zero():
    seconds("wait_s", 0, or_zero=True)
    with pytest.raises(ConfigError, match="wait_s must be a finite number of seconds, at least 0, got -1"):
        seconds("wait_s", -1, or_zero=True)


@pytest.mark.parametrize("value", ["maybe", None, ["yes"]])
def test_a_word_that_is_not_known_is_refused(value):
    one_of("answer", "yes", ("yes", "no"))
    with pytest.raises(ConfigError) as refused:
        one_of("answer", value, ("yes", "no"))
    assert str(refused.value) == f"answer {value!r} is unknown; known: yes, no"


def test_a_hint_ends_the_sentence():
    with pytest.raises(ConfigError, match="of at least 1, got 0; leave it out"):
        whole("top_k", 0, hint="; leave it out")


def test_an_error_of_another_class_can_be_asked_for_and_is_a_value_error():
    with pytest.raises(InvalidRequest):
        whole("n", 0, error=InvalidRequest)
    with pytest.raises(ValueError, match="n must be"):
        whole("n", 0, error=InvalidRequest)
    with pytest.raises(ValueError, match="n must be"):
        whole("n", 0)
