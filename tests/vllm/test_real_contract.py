"""What every backend owes the pipeline, asked of a real server."""

import pytest
from contracts.test_backend import (
    backend,
    test_a_pair_of_it_holds_its_limits,
    test_a_stop_text_ends_the_output_and_is_not_part_of_it,
    test_an_output_ends_with_one_reason_and_its_usage,
    test_calls_at_the_same_time_do_not_mix,
    test_closing_the_stream_early_leaves_the_backend_ready,
    test_closing_twice_is_harmless,
    test_it_is_a_backend,
    test_logprobs_come_with_their_tokens,
    test_max_tokens_is_never_exceeded,
    test_n_outputs_are_told_apart,
)

from duet_sdk.backends.connect import connect

__all__ = [
    "backend",
    "test_a_pair_of_it_holds_its_limits",
    "test_a_stop_text_ends_the_output_and_is_not_part_of_it",
    "test_an_output_ends_with_one_reason_and_its_usage",
    "test_calls_at_the_same_time_do_not_mix",
    "test_closing_the_stream_early_leaves_the_backend_ready",
    "test_closing_twice_is_harmless",
    "test_it_is_a_backend",
    "test_logprobs_come_with_their_tokens",
    "test_max_tokens_is_never_exceeded",
    "test_n_outputs_are_told_apart",
]

pytestmark = pytest.mark.vllm


@pytest.fixture
def make(counter):
    return lambda: connect(counter.model)[1]
