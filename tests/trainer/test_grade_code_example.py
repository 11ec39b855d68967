"""The example that grades code: right, wrong, and programs that try to get away."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grade_code.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("grade_code", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CPU_S, module.WALL_S = 1, 3
    return module


def graded(example, code: str) -> float | None:
    chat = [{"role": "assistant", "content": f"```python\n{code}\n```"}]
    return example.passes_tests(completions=[chat], tests=["assert double(3) == 6"])[0]


def test_code_that_passes_is_right_and_code_that_does_not_is_wrong(example):
    assert graded(example, "def double(n): return 2 * n") == 1.0
    assert graded(example, "def double(n): return n") == 0.0
    assert example.passes_tests(completions=[[{"role": "assistant", "content": "none"}]], tests=["pass"]) == [None]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "x = bytearray(2**30)",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('x' * 2**22)\ndef double(n): return 2 * n",
        "open('big', 'wb').write(b'x' * 2**22)\ndef double(n): return 2 * n",
        "import os\nassert os.environ.get('HOME')\ndef double(n): return 2 * n",
    ],
    ids=["spins", "sleeps", "memory", "exits", "exits hard", "output", "file", "environment"],
)
def test_programs_that_try_to_get_away_are_wrong(example, code):
    assert graded(example, code) == 0.0


def test_there_is_no_network_where_the_system_allows_it(example):
    if not example.isolated():
        pytest.skip("unshare does not work here: no namespaces for users")
    code = "import socket\nassert [name for _, name in socket.if_nameindex()] != ['lo']\ndef double(n): return 2 * n"
    assert graded(example, code) == 0.0
