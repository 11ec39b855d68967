"""A real vLLM server for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import servers

PYTHON = os.environ.get("DUET_VLLM_PYTHON", "")
"""The Python of the environment that `.ci/environment vllm` makes."""


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """The embedded model, for both stages."""
    if not PYTHON:
        pytest.skip("needs the environment with vLLM: DUET_VLLM_PYTHON=$(.ci/environment vllm)")
    log = tmp_path_factory.mktemp("vllm") / "plain.log"
    server = servers.launch(PYTHON, "plain", servers.models.embedded(), log)
    try:
        servers.wait_until_ready([server])
        yield server
    finally:
        servers.stop([server])
