"""The words of a server in the errors, without keys and prompts."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk.backends.failures import Failures
from duet_sdk.backends.refusals import Refusal
from duet_sdk.backends.retry_after import asked_in, retry_after, told_as
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContextOverflow,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
)


@given(
    prompt=st.text(st.characters(codec="utf-8"), min_size=20, max_size=400),
    start=st.integers(0, 100),
    form=st.sampled_from([str, repr, json.dumps]),
)
@settings(max_examples=60, deadline=None)
def test_no_prompt_is_repeated_in_an_error(prompt, start, form):
    failures = Failures(backend="vllm", model="m", url="http://x/v1", secrets=("sk-secret",))
    echo = form(prompt[start : start + 200])
    body = json.dumps({"error": {"message": f"invalid: {echo} key sk-secret", "code": 400}}).encode()
    sent = {"messages": [{"role": "user", "content": prompt}]}
    error = str(failures.status(400, {}, body, sent))
    assert "sk-secret" not in error
    assert len(error) < 420
    shown = error.partition("invalid:")[2]
    grams = {prompt[at : at + 16] for at in range(len(prompt) - 15)}
    assert not any(shown[at : at + 16] in grams for at in range(max(0, len(shown) - 15)))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"detail": [{"loc": ["body", "top_k"], "msg": "must be positive", "input": "SECRET"}]}',
            "body.top_k: must be",
        ),
        (b'{"error": "no such thing"}', "no such thing"),
        (b'{"object": "error", "message": "bad top_k"}', "bad top_k"),
        (b"plain words", "plain words"),
        (b"<html><h1>Bad gateway</h1></html>", None),
        (b"", None),
        (b"[1, 2]", None),
    ],
)
def test_the_words_of_every_kind_of_server_are_found(body, words):
    error = str(Failures(backend="vllm", model="m", url="http://x/v1").status(422, {}, body, {}))
    assert error.startswith("vllm/m at http://x/v1 refused the request (422)")
    assert words in error if words else error.endswith("(422)")
    assert "SECRET" not in error


def test_a_quota_that_is_used_up_is_not_worth_a_retry():
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    error = Failures(backend="vllm", model="m", url="http://x/v1").status(429, {}, body, {})
    assert isinstance(error, RateLimited)
    assert not error.retryable


OF = Failures(backend="litellm", model="p/m")


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (None, BackendError, False),
        (307, BackendError, False),
        (400, Rejected, False),
        (401, Authentication, False),
        (402, QuotaExceeded, False),
        (403, Authentication, False),
        (404, ConnectFailed, False),
        (408, RateLimited, True),
        (413, Rejected, False),
        (422, Rejected, False),
        (425, RateLimited, True),
        (429, RateLimited, True),
        (500, BackendError, True),
        (501, BackendError, False),
        (503, BackendError, True),
        (529, BackendError, True),
    ],
)
def test_a_status_has_one_meaning(status, kind, retryable):
    error = OF.refused(Refusal(status, "no"), {})
    assert type(error) is kind
    assert (error.status, error.retryable, error.backend, error.model) == (status, retryable, "litellm", "p/m")
    assert "p/m" in str(error)
    assert str(error).endswith(": no; wrong URL?" if status == 404 else ": no")


@pytest.mark.parametrize(
    ("words", "codes"),
    [("the model `x` does not exist", ()), ("no such model", ()), ("nothing", ("model_not_found",))],
)
def test_a_model_that_is_not_found_is_told_from_a_wrong_address(words, codes):
    assert type(OF.refused(Refusal(404, words, frozenset(codes)), {})) is ModelNotFound


@pytest.mark.parametrize(
    ("words", "window", "needed"),
    [
        ("This model's maximum context length is 2048 tokens. However, you requested 9000 tokens", 2048, 9000),
        ("prompt is too long: 210000 tokens > 200000 maximum, over the context window", 200000, 210000),
        ("the request exceeds the available context size", 4096, 23),
        (f"maximum context length is {'9' * 5000} tokens, you requested {'9' * 5000} tokens", 4096, 23),
    ],
)
def test_an_overflow_says_its_numbers_as_far_as_they_are_told(words, window, needed):
    sent = {"prompt": [1] * 3, "max_tokens": 20}
    error = OF.refused(Refusal(400, words), sent, context_tokens=4096)
    assert isinstance(error, ContextOverflow)
    assert (error.context_tokens, error.needed_tokens) == (window, needed)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7.0),
        (" 0.25 ", 0.25),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("120s", 120.0),
        ("2m", 120.0),
        ("1h 30m", 5400.0),
        ("1000000001", 0.0),
        ("-5", None),
        ("1e400", None),
        ("inf", None),
        ("nan", None),
        ("9" * 400, None),
        ("٧", None),
        ("soon", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("name", ["Retry-After", "retry-after"])
def test_a_wait_is_seconds_or_a_date_or_ignored(name, given, seconds):
    assert retry_after({"Date": "x", name: given}) == seconds


def test_a_date_to_come_is_a_wait_until_then():
    assert 60 * 365 * 86_400 < retry_after({"Retry-After": "Fri, 01 Jan 2100 00:00:00 +0200"}) < math.inf
    assert retry_after({}) is None


@given(
    st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,4} [A-Z][a-z]{2} \d{1,6} \d+:\d+(:\d+)? [-+A-Z0-9]{0,9}")
)
@settings(max_examples=300, deadline=None)
def test_no_wait_is_negative_or_without_end(given):
    seconds = retry_after({"Retry-After": given})
    assert seconds is None or 0 <= seconds < math.inf


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),  # OpenAI, Azure: the finer one
        ({"Retry-After-Ms": "soon", "Retry-After": "2"}, 2),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "6m0s"}, None),  # of a limit with room left
        ({"x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}, 30),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1741305600000"}, 0),  # OpenRouter: in 2025
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-03-07T00:00:00Z",
            },
            0,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m2s",
            },
            62,
        ),
    ],
)
def test_a_wait_is_found_where_providers_write_it(headers, seconds):
    assert retry_after(headers) == pytest.approx(seconds)


def test_a_limit_that_is_full_again_at_a_date_is_a_wait_until_then():
    for reset in ("4102444800000", "4102444800", "2100-01-01T00:00:00Z"):
        assert retry_after({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}) > 60 * 365 * 86_400
        assert retry_after({"Retry-After": reset}) > 60 * 365 * 86_400


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 20s. Contact us …", 20),
        ("Please try again in 9m38.016s. Need more tokens?", 578.016),
        ("Please retry in 44.388541892s.", 44.388541892),
        ("exceeded call rate limit. Please retry after 20 seconds.", 20),
        ("Rate limited, try again in 500ms", 0.5),
        ("try again after 1 hour, 30 minutes", 5400),
        ("Try again in 6 days", 6 * 86_400),
        ("please try again later", None),
        ("try again in a while", None),
        ("retry after 20 parsecs", None),
        ("", None),
    ],
)
def test_a_wait_is_found_in_words(words, seconds):
    assert asked_in(words) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("34s", 34),
        ("34.07s", 34.07),
        ({"seconds": 34}, 34),
        (7, 7),
        (7.5, 7.5),
        ("7", 7),
        (-1, None),
        (math.inf, None),
        (math.nan, None),
        (10**30, None),
        (True, None),
        (None, None),
        ([], None),
        ("soon", None),
        ("1" * 100, None),
    ],
)
def test_a_wait_is_found_in_a_field(value, seconds):
    assert told_as(value) == (None if seconds is None else pytest.approx(seconds))


def test_a_402_that_says_when_is_over_by_itself():
    """OpenRouter: the requests that run right now have used up the budget."""
    error = Failures(backend="vllm", model="m").status(402, {"Retry-After": "3"}, b"{}", {})
    assert (type(error), error.retryable, error.retry_after) == (RateLimited, True, 3)
    assert type(Failures(backend="vllm", model="m").status(402, {}, b"{}", {})) is QuotaExceeded


def test_a_wait_in_the_words_is_what_the_error_asks_for():
    body = json.dumps({"error": {"message": "Rate limit reached. Please try again in 9m38s.", "code": "x"}}).encode()
    error = Failures(backend="vllm", model="m").status(429, {}, body, {})
    assert (type(error), error.retry_after) == (RateLimited, 578)
    assert "it asks to retry after 578 s" in str(error)
