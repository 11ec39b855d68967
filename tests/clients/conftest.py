"""One gateway for all clients, and the programs that ask it, each in its client's environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pair_server import KEY, SPENT_KEY, PairServer, pair_server

PROGRAMS = Path(__file__).parent / "programs"
PYTHONS = {
    name: os.environ.get(f"DUET_{name.upper().replace('-', '_')}_PYTHON", "")
    for name in ("client-openai-3", "client-openai-2", "client-aider")
}
"""Environment → its Python, as `make test-clients` says; read before any test takes settings away."""
_QUIET = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}
"""What keeps the clients from telling anybody, or asking for anything, beyond loopback."""
_PROGRAM_S = 240
"""Longest time of a program: the slowest import takes half a minute on a busy machine."""

Told = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PairServer]:
    with pair_server(tmp_path_factory.mktemp("gateway")) as served:
        yield served


@pytest.fixture(scope="session")
def told(gateway: PairServer, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What a program of an environment saw, by wire and scenario; each runs once."""
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def run(program: str, environment: str) -> dict[str, Any]:
        if not PYTHONS[environment]:
            pytest.skip(f"needs the environment {environment}; run `make test-clients`")
        if (program, environment) not in known:
            known[program, environment] = _run(program, PYTHONS[environment], gateway, tmp_path_factory.mktemp(program))
        return known[program, environment]

    return run


def _run(program: str, python: str, gateway: PairServer, home: Path) -> dict[str, Any]:
    done = subprocess.run(
        [python, PROGRAMS / f"{program}.py"],
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "GATEWAY_URL": gateway.url,
            "GATEWAY_KEY": KEY,
            "GATEWAY_SPENT_KEY": SPENT_KEY,
            **_QUIET,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PROGRAM_S,
        check=False,
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        pytest.fail(f"{program} ended with {done.returncode}\n{done.stdout[-4000:]}")
