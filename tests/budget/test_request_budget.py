"""The arithmetic of one request's limits."""

from bisect import bisect_left
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.budget import Budget, RequestBudget
from duet_sdk.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest
from duet_sdk.pipeline.counting import Meter


def free(input_tokens, output_tokens):
    return Decimal(0)


def priced(input_tokens, output_tokens):
    return (Decimal(input_tokens) + 5 * Decimal(output_tokens)) / 1000


@pytest.mark.parametrize("field", ["signal_tokens", "answer_tokens", "total_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_limits_in_tokens_are_whole_and_positive(field, value):
    with pytest.raises(InvalidRequest, match=field):
        Budget(**{field: value})


@pytest.mark.parametrize("field", ["cost_usd", "deadline_s", "signal_deadline_s"])
@pytest.mark.parametrize("value", [0, -0.1, float("inf"), float("nan")])
def test_limits_in_money_and_time_are_positive_and_finite(field, value):
    with pytest.raises(InvalidRequest, match=field):
        Budget(**{field: value})


def test_a_signal_limit_of_zero_says_how_to_skip_the_reasoner():
    with pytest.raises(InvalidRequest, match="use mode='generator'"):
        Budget(signal_tokens=0)


def test_a_request_sets_only_the_limits_it_names():
    assert Budget(deadline_s=5).over(Budget(signal_tokens=9, deadline_s=60)) == Budget(signal_tokens=9, deadline_s=5)


def test_money_is_decimal_from_the_first():
    assert Budget(cost_usd=0.1).cost_usd == Decimal("0.1")


def test_hold_settle_and_release_keep_the_books():
    budget = RequestBudget(Budget(total_tokens=100, cost_usd=Decimal(1)))
    held = budget.hold(60, Decimal("0.5"))
    assert (budget.left_tokens, budget.left_usd) == (40, Decimal("0.5"))
    with pytest.raises(BudgetExceeded, match="41 tokens more, 40 are left"):
        budget.hold(41, Decimal(0))
    with pytest.raises(BudgetExceeded, match="0.6 USD more, 0.5 is left"):
        budget.hold(1, Decimal("0.6"))
    budget.settle(held, tokens=10, usd=Decimal("0.1"))
    assert (budget.left_tokens, budget.left_usd) == (90, Decimal("0.9"))
    budget.release(budget.hold(90, Decimal("0.9")))
    assert (budget.left_tokens, budget.left_usd) == (90, Decimal("0.9"))


def test_deadlines_run_on_the_clock_given():
    now = 100.0
    budget = RequestBudget(Budget(deadline_s=10), clock=lambda: now)
    assert (budget.deadline, budget.signal_deadline) == (110.0, 106.0)
    now = 109.0
    budget.check_deadline()
    now = 110.0
    with pytest.raises(DeadlineExceeded, match="deadline of 10 s passed after 10.00 s"):
        budget.check_deadline()


@pytest.mark.parametrize(
    ("signal_s", "whole_s", "expected"), [(2, None, 2), (2, 10, 2), (None, 10, 6), (10, 10, 6), (30, 10, 6)]
)
def test_the_generators_time_is_reserved_inside_the_deadline(signal_s, whole_s, expected):
    budget = RequestBudget(Budget(signal_deadline_s=signal_s, deadline_s=whole_s), clock=lambda: 0.0)
    assert budget.signal_deadline == expected


def largest(fits, most):
    """The largest of 0 to most that fits, where all below one that fits do, too."""
    return max(0, bisect_left(range(1, most + 1), True, key=lambda count: not fits(count)))


@given(
    total=st.none() | st.integers(1, 5000),
    usd=st.none() | st.integers(1, 5000),
    first=st.integers(0, 1500),
    second=st.integers(0, 1500),
    want=st.integers(1, 3000),
    want_answer=st.integers(1, 3000),
)
def test_the_largest_signal_leaves_the_answer_its_share_and_no_larger_one_would(
    total, usd, first, second, want, want_answer
):
    limit = None if usd is None else Decimal(usd) / 1000
    budget = RequestBudget(Budget(total_tokens=total, cost_usd=limit))
    arguments = {"want": want, "want_answer": want_answer, "signal_usd": priced, "answer_usd": priced}

    def costs(signal, answer):
        return priced(first, signal) + priced(second + signal, answer)

    def fits(signal, answer):
        tokens = first + second + 2 * signal + answer
        return (total is None or tokens <= total) and (limit is None or costs(signal, answer) <= limit)

    def fits_half(answer):
        """Within half of what the prompts leave."""
        return (total is None or 2 * answer <= total - first - second) and (
            limit is None or 2 * (costs(0, answer) - costs(0, 0)) <= limit - costs(0, 0)
        )

    try:
        signal = budget.largest_signal(first, second, **arguments)
    except BudgetExceeded:
        assert not fits(1, 1)
        return
    answer = max(1, largest(fits_half, want_answer))
    assert signal == max(1, largest(lambda count: fits(count, answer), want))
    assert fits(signal, 1)


def test_what_is_settled_or_released_cannot_be_given_back_twice():
    budget = RequestBudget(Budget(total_tokens=100))
    settled, released = budget.hold(10, None), budget.hold(10, None)
    budget.settle(settled, tokens=4, usd=None)
    budget.release(released)
    for held in (settled, released):
        with pytest.raises(ValueError, match="not in list"):
            budget.release(held)
        with pytest.raises(ValueError, match="not in list"):
            budget.settle(held, tokens=1, usd=None)
    assert budget.left_tokens == 96


@pytest.mark.parametrize("limits", [Budget(), Budget(total_tokens=100), Budget(cost_usd=Decimal(1))])
def test_what_was_spent_is_counted_with_or_without_a_limit(limits):
    budget = RequestBudget(limits)
    budget.settle(budget.hold(10, Decimal("0.5")), tokens=4, usd=Decimal("0.2"))
    budget.settle(budget.hold(10, Decimal("0.5")), tokens=20, usd=Decimal("0.7"))
    assert (budget.spent_tokens, budget.spent_usd) == (24, Decimal("0.9"))


@given(
    total=st.integers(1, 3000),
    usd=st.integers(1, 3000),
    prompt=st.integers(0, 1000),
    want=st.integers(1, 2000),
    outputs=st.integers(1, 4),
)
def test_the_largest_output_fits_and_one_more_would_not(total, usd, prompt, want, outputs):
    limit = Decimal(usd) / 1000
    budget = RequestBudget(Budget(total_tokens=total, cost_usd=limit))

    def fits(count):
        return prompt + count * outputs <= total and priced(prompt, count * outputs) <= limit

    try:
        most = budget.largest_output(prompt, want=want, usd_of=priced, outputs=outputs)
    except BudgetExceeded:
        assert not fits(1)
        return
    assert fits(most)
    assert most == want or not fits(most + 1)


def test_without_limits_everything_wanted_fits():
    budget = RequestBudget(Budget())
    assert budget.largest_output(10**6, want=512, usd_of=lambda i, o: None) == 512
    signal = budget.largest_signal(10, 10, want=512, want_answer=99, signal_usd=free, answer_usd=free)
    assert signal == 512


@pytest.mark.parametrize(
    ("pieces", "tokens", "counted_by"),
    [
        ([{"text": "ab", "token_ids": 2}, {"text": "c", "token_ids": 1}], 3, "token_ids"),
        ([{"text": "ab", "used": 2}, {"text": "cd", "used": 5}], 5, "usage"),
        ([{"text": "twelve bytes"}], 3, "estimate"),
        ([{"text": "a"}, {"text": "b"}, {"text": "c"}], 3, "estimate"),
        ([{"text": "a", "token_ids": 1}, {"text": "", "used": 1}], 1, "token_ids"),
        ([{"text": "a", "token_ids": 1}, {"text": "", "used": 9}], 9, "usage"),
        ([{"text": "五六七"}], 3, "estimate"),
    ],
)
def test_tokens_are_counted_by_the_best_evidence_each_piece_brings(pieces, tokens, counted_by):
    meter = Meter()
    for piece in pieces:
        meter.add(**piece)
    assert (meter.tokens, meter.counted_by) == (tokens, counted_by)


def test_a_local_tokenizer_goes_before_an_estimate():
    meter = Meter(count_text=lambda text: len(text.split()))
    meter.add("one two three")
    assert (meter.tokens, meter.counted_by) == (3, "tokenizer")


@given(st.lists(st.text(), max_size=30))
def test_an_estimate_is_never_below_the_pieces_or_a_quarter_of_the_bytes(pieces):
    meter = Meter()
    added = sum(meter.add(piece) for piece in pieces)
    assert added == meter.tokens
    assert meter.tokens >= sum(1 for piece in pieces if piece)
    assert 4 * meter.tokens >= sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces)
