"""The words of a server in the errors, without keys and prompts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk.backends.failures import Failures
from duet_sdk.errors import (
    RateLimited,
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
