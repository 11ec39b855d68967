"""A real vLLM server for all tests of this folder: one that runs already, as `make test-vllm` has it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def plain() -> str:
    """The full name of the embedded model there, for both stages."""
    model = os.environ.get("DUET_VLLM_MODEL")
    if not model:
        pytest.skip("needs a vLLM server with the embedded model: DUET_VLLM_MODEL=vllm/NAME@http://HOST:PORT/v1")
    return model
