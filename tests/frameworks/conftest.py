"""A real vLLM server for the frameworks' integrations; `make test-integrations` runs these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import server_process, vllm_servers

PYTHON = os.environ.get("DUET_VLLM_PYTHON", "")
"""The Python of the environment `vllm` that .ci/environment makes."""


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vllm_servers.Server]:
    """The embedded model as it is."""
    if not PYTHON:
        pytest.skip("needs the environment with vLLM; run `make test-integrations`")
    log = tmp_path_factory.mktemp("vllm") / "plain.log"
    server = vllm_servers.launch(PYTHON, "plain", vllm_servers.models.embedded(), log)
    try:
        vllm_servers.wait_until_ready([server])
        yield server
    finally:
        server_process.stop([server])
