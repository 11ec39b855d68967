"""Errors as providers and servers send them: what each means, and the numbers of a prompt that does not fit."""

from __future__ import annotations

import json

import pytest
from support.provider_errors import MEANINGS, OVERFLOWS, openai

from duet_sdk.backends.failures import Failures
from duet_sdk.backends.provider_errors import SPELLINGS, squashed
from duet_sdk.backends.refusals import Refusal
from duet_sdk.errors import ContextOverflow, Rejected

OF = Failures(backend="vllm", model="m", url="http://x/v1", secrets=("sk-secret-0123456789",))
ASKED = {"messages": [{"role": "user", "content": "Which town?"}], "max_tokens": 16}


@pytest.mark.parametrize(
    ("status", "body", "needed", "window"), [row[1:] for row in OVERFLOWS], ids=[row[0] for row in OVERFLOWS]
)
def test_a_prompt_that_does_not_fit_is_told_with_its_numbers(status, body, needed, window):
    error = OF.status(status, {}, json.dumps(body, ensure_ascii=False).encode(), ASKED)
    assert isinstance(error, ContextOverflow), error
    assert (error.needed_tokens, error.context_tokens) == (needed, window)


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"), [row[1:] for row in MEANINGS], ids=[row[0] for row in MEANINGS]
)
def test_an_error_means_what_its_provider_means(status, body, kind, retryable):
    error = OF.status(status, {}, json.dumps(body, ensure_ascii=False).encode(), ASKED)
    assert type(error) is kind, error
    assert (error.retryable, error.status) == (retryable, status)


def test_no_code_of_the_table_means_two_things():
    codes = [squashed(code) for spelling in SPELLINGS for code in spelling.codes]
    assert sorted(codes) == sorted(set(codes))
    assert all(spelling.source and (spelling.codes or spelling.words) for spelling in SPELLINGS)


@pytest.mark.parametrize("left", [0, -3])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_window_that_the_prompt_fills_is_an_overflow_with_its_numbers(left, name):
    """vLLM 0.32 complains of the limit that it worked out, as if it had been asked for."""
    body = json.dumps(openai(f"{name} must be at least 1, got {left}.", "BadRequestError", 400)).encode()
    error = OF.status(400, {}, body, {"prompt": [7] * 2048, "max_tokens": 1})
    assert isinstance(error, ContextOverflow)
    assert (error.needed_tokens, error.context_tokens) == (2049, 2048 + left)
    assert isinstance(OF.status(400, {}, body, ASKED), ContextOverflow)
    assert type(OF.status(400, {}, body, {"max_tokens": 0})) is Rejected  # it was asked for


def test_tokens_that_were_sent_are_known_better_than_told():
    body = json.dumps(
        openai("maximum context length is 2048 tokens. However, your prompt contains 5000 input tokens")
    ).encode()
    error = OF.status(400, {}, body, {"prompt": [7] * 5000, "max_tokens": 10})
    assert (error.needed_tokens, error.context_tokens) == (5010, 2048)


def test_a_client_without_a_key_says_that_nothing_was_sent() -> None:
    refusal = Refusal.of(500, {"message": "Missing credentials. Please pass an `api_key`."})
    error = Failures(backend="litellm", model="openai/m").refused(refusal, {})
    assert str(error).startswith("litellm/openai/m was not asked, as no API key is set: Missing credentials")
