"""Real vLLM servers for all tests of this folder; `make test-vllm` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from contracts.test_backend import WORDS
from support import server_process, tiny_model, vllm_servers

from duet_sdk.rendering import Renderer, TokenizerFiles

PYTHON = os.environ.get("DUET_VLLM_PYTHON", "")
"""The Python of the environment `vllm` that .ci/environment makes."""

_running = pytest.StashKey[list[vllm_servers.Server]]()


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[vllm_servers.Server]]:
    if not PYTHON:
        pytest.skip("needs the environment with vLLM; run `make test-vllm`")
    folder = tmp_path_factory.mktemp("vllm")
    thinks = vllm_servers.think_copy(folder / "thinker-model")
    vllm_servers.adapter(folder / vllm_servers.ADAPTER, thinks)
    folders = {
        "plain": vllm_servers.models.embedded(),
        "thinker": thinks,
        "counter": tiny_model.recite(folder / "counter-model", WORDS),
        "drafted": thinks,
    }
    started: list[vllm_servers.Server] = []
    try:
        for name, model in folders.items():
            started.append(vllm_servers.launch(PYTHON, name, model, folder / f"{name}.log"))
        vllm_servers.wait_until_ready(started)
        request.config.stash[_running] = started
        yield started
    finally:
        server_process.stop(started)


@pytest.fixture(scope="session")
def plain(running: list[vllm_servers.Server]) -> vllm_servers.Server:
    """The embedded model as it is."""
    return running[0]


@pytest.fixture(scope="session")
def thinker(running: list[vllm_servers.Server]) -> vllm_servers.Server:
    """The copy with think tags, Qwen3's template and its reasoning parser."""
    return running[1]


@pytest.fixture(scope="session")
def counter(running: list[vllm_servers.Server]) -> vllm_servers.Server:
    """A tiny model that counts from one to eight, as the backends' contract wants it."""
    return running[2]


@pytest.fixture(scope="session")
def drafted(running: list[vllm_servers.Server]) -> vllm_servers.Server:
    """The copy with think tags once more, as servers are by default: grammars begin where thinking ends.

    What was said before is a draft of what follows (speculative decoding), there is an adapter, and there are two
    data-parallel engines.
    """
    return running[3]


@pytest.fixture(scope="session")
def files(thinker: vllm_servers.Server) -> TokenizerFiles:
    return TokenizerFiles.from_folder(thinker.folder)


@pytest.fixture(scope="session")
def renderer(files: TokenizerFiles) -> Renderer:
    return Renderer(files)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the servers last said."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_running, []):
            report.sections.append((f"log of {server.name}", server_process.tail(server, 30)))
    return report
