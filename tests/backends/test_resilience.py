"""When a model is called again, and when its endpoint is left alone."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk import Message
from duet_sdk.backends import Backend, Call
from duet_sdk.backends.resilience import Breaker, wait_s
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConfigError, ConnectFailed, EndpointResting, RateLimited, Rejected
from duet_sdk.policies import BreakerPolicy, Retry

CALL = Call(max_tokens=8, messages=(Message("user", "q"),))


def error(kind=ConnectFailed, **facts):
    return kind("no", backend="scripted", model="lines", **facts)


@given(attempt=st.integers(1, 9), first=st.floats(0, 2), longest=st.floats(0, 5))
def test_waits_are_jittered_below_a_bound_that_doubles(attempt, first, longest):
    retry = Retry(attempts=10, first_wait_s=first, longest_wait_s=longest)
    wait = wait_s(retry, attempt, error(), left_s=None)
    assert 0 <= wait <= min(longest, first * 2 ** (attempt - 1))


def test_the_servers_word_is_honoured_even_above_our_longest_wait():
    assert wait_s(Retry(longest_wait_s=1), 1, error(RateLimited, retry_after=30), left_s=None) == 30


def test_what_a_server_asks_for_is_bounded_by_the_policy():
    assert wait_s(Retry(first_wait_s=0), 1, error(RateLimited, retry_after=60), left_s=None) == 60
    assert wait_s(Retry(), 1, error(RateLimited, retry_after=60.1), left_s=None) is None
    assert wait_s(Retry(longest_retry_after_s=900), 1, error(RateLimited, retry_after=900), left_s=None) == 900


def test_there_is_no_wait_that_the_deadline_does_not_leave_time_for():
    assert wait_s(Retry(), 1, error(RateLimited, retry_after=5), left_s=4.9) is None


@pytest.mark.parametrize("failure", [error(Rejected), error(retryable=False)])
def test_what_cannot_succeed_is_not_tried_again(failure):
    assert wait_s(Retry(), 1, failure, left_s=None) is None


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"first_wait_s": -1}, {"longest_wait_s": -0.1}, {"longest_retry_after_s": -1}]
)
def test_numbers_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        Retry(**options)


async def ask(backend):
    """As an attempt does."""
    begun, failed = backend.attempt_begins(), None
    try:
        async with aclosing(backend.stream(CALL)) as stream:
            return "".join([chunk.text async for chunk in stream])
    except BaseException as error:
        failed = error
        raise
    finally:
        backend.attempt_ends(begun, failed)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


async def test_after_several_failures_the_endpoint_is_left_alone_and_then_tried_once():
    clock = Clock()
    inner = Scripted(Script(error=error()), Script(error=error()), Script(error=error()), "back again")
    breaker = Breaker(inner, BreakerPolicy(failures=2, rest_s=10), clock=clock)
    assert isinstance(breaker, Backend)
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="no"):
            await ask(breaker)
    with pytest.raises(
        ConnectFailed, match="failed 2 times in a row and will not be called for another 10.0 s"
    ) as resting:
        await ask(breaker)
    with pytest.raises(ConnectFailed, match="will not be called"):
        await breaker.connect()
    assert resting.value.retry_after == 10
    assert len(inner.calls) == 2
    clock.now = 10
    with pytest.raises(ConnectFailed, match="no"):
        await ask(breaker)  # the one trial fails: it rests again
    with pytest.raises(ConnectFailed, match="will not be called"):
        await ask(breaker)
    clock.now = 20
    assert await ask(breaker) == "back again"
    assert await ask(breaker) == "back again"


async def test_a_success_in_between_starts_the_count_anew():
    inner = Scripted(Script(error=error()), "fine", Script(error=error()), "fine")
    breaker = Breaker(inner, BreakerPolicy(failures=2))
    for expected in (None, "fine", None, "fine"):
        if expected is None:
            with pytest.raises(ConnectFailed):
                await ask(breaker)
        else:
            assert await ask(breaker) == expected


async def test_an_answer_that_was_cut_ends_a_row_of_failures_too():
    breaker = Breaker(Scripted(*[Script(error=error())] * 3), BreakerPolicy(failures=2))
    with pytest.raises(ConnectFailed, match="no"):
        await ask(breaker)
    breaker.attempt_ends(breaker.attempt_begins(), None)  # stopped at its limit
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="no"):
            await ask(breaker)
    with pytest.raises(ConnectFailed, match="will not be called"):
        await ask(breaker)


async def test_a_mistake_of_the_caller_is_no_failure_of_the_endpoint():
    breaker = Breaker(Scripted(Script(error=error(Rejected))), BreakerPolicy(failures=1))
    for _ in range(3):
        with pytest.raises(Rejected):
            await ask(breaker)


async def test_while_one_call_tries_all_others_are_kept_away():
    clock = Clock()
    inner = Scripted(Script(error=error()), Script("slow", stall_after=0), "fine")
    breaker = Breaker(inner, BreakerPolicy(failures=1, rest_s=1), clock=clock)
    with pytest.raises(ConnectFailed):
        await ask(breaker)
    clock.now = 1
    trial = asyncio.create_task(ask(breaker))
    while len(inner.calls) < 2:
        await asyncio.sleep(0)
    with pytest.raises(ConnectFailed, match="will not be called"):
        await ask(breaker)
    with pytest.raises(EndpointResting) as resting:
        breaker.attempt_begins()
    assert resting.value.retry_after == 1  # when to ask again, as nobody knows when the trial ends
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert await ask(breaker) == "fine"  # a cancelled trial says nothing, and the next call may try
