"""Each integration against a real vLLM, in its framework's own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import vllm_servers

ROOT = Path(__file__).resolve().parent.parent.parent
INTEGRATIONS = ROOT / "integrations"

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("name", ["litellm", "llama-index", "openai-agents", "pydantic-ai"])
def test_an_adapter_answers_and_streams(name: str, plain: vllm_servers.Server) -> None:
    run(name, [str(INTEGRATIONS / name / "tests" / "real_server.py"), plain.model], wait_s=240)


def test_langchain_conforms_and_its_agent_comes_to_an_end(plain: vllm_servers.Server) -> None:
    # One of each kind: two cores take ten minutes for the whole suite (integrations/langchain/README.md).
    some = "agent_vllm or test_ainvoke or test_astream or test_usage or tool_choice or structured_output_async"
    run("langchain", ["-m", "pytest", "tests/vllm", "-k", some], wait_s=480, DUET_VLLM_MODEL=plain.model)


def run(name: str, arguments: list[str], *, wait_s: float, **environment: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / ".ci" / "environment", name], stdout=subprocess.PIPE, text=True, check=True
    )
    folder = INTEGRATIONS / name
    done = subprocess.run(
        [made.stdout.strip(), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, folder))), **environment},
        capture_output=True,
        text=True,
        timeout=wait_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
