"""Each framework's adapter against a real vLLM, in the framework's own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import servers

ROOT = Path(__file__).resolve().parent.parent.parent
INTEGRATIONS = ROOT / "integrations"

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["litellm", "llama-index", "openai-agents", "pydantic-ai"])
def test_an_adapter_answers_and_streams(name: str, plain: servers.Server) -> None:
    environment = subprocess.run(
        [sys.executable, ROOT / ".ci" / "environment", name], stdout=subprocess.PIPE, text=True, check=True
    )
    python, folder = environment.stdout.strip(), INTEGRATIONS / name
    done = subprocess.run(
        [python, folder / "tests" / "real_server.py", plain.model],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, folder)))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
