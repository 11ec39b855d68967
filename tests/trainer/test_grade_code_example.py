"""The example that grades code: right, wrong, and programs that try to get away."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from duet_sdk.evaluation.grading.base import DEFAULT_LIMIT_S

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grade_code.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")


def load():
    spec = importlib.util.spec_from_file_location("grade_code", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    module = load()
    module.CPU_S, module.WALL_S = 1, 2
    return module


def graded(example, code: str) -> float | None:
    chat = [{"role": "assistant", "content": f"```python\n{code}\n```"}]
    return example.passes_tests(completions=[chat], tests=["assert double(3) == 6"])[0]


def test_code_that_passes_is_right_and_code_that_does_not_is_wrong(example):
    assert graded(example, "def double(n): return 2 * n") == 1.0
    assert graded(example, "def double(n): return n") == 0.0
    assert example.passes_tests(completions=[[{"role": "assistant", "content": "none"}]], tests=["pass"]) == [None]


DOUBLE = "\ndef double(n): return 2 * n"
EVIL = {
    "spins": "import time\nwhile time.process_time() < 1.8: pass" + DOUBLE,
    "sleeps": "import time; time.sleep(2.4)" + DOUBLE,
    "memory": "x = bytearray(2**30)" + DOUBLE,
    "exits": "import sys; sys.exit(0)",
    "exits hard": "import os; os._exit(0)",
    "output": "print('x' * 2**22)" + DOUBLE,
    "file": "open('big', 'wb').write(b'x' * 2**22)" + DOUBLE,
    "open files": "kept = [open('/dev/null') for _ in range(40)]" + DOUBLE,
    "environment": "import os; assert os.environ['DUET_OF_THE_TEST']" + DOUBLE,
}
"""Programs that end well where the limit that each is about is not there."""


@pytest.mark.parametrize("code", EVIL.values(), ids=EVIL)
def test_programs_that_try_to_get_away_are_wrong(example, tmp_path, monkeypatch, code):
    monkeypatch.setenv("DUET_OF_THE_TEST", "1")
    command = [sys.executable, "-c", f"{code}\nassert double(3) == 6"]
    unlimited = subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=60, check=False)
    assert unlimited.returncode == 0
    assert graded(example, code) == 0.0


def test_there_is_no_network_where_the_system_allows_it(example):
    if not example.isolated():
        pytest.skip("unshare does not work here: no namespaces for users")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)" + DOUBLE
        subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
        assert graded(example, code) == 0.0


def test_a_program_is_ended_before_the_grader_is():
    assert load().WALL_S < DEFAULT_LIMIT_S


def test_a_program_ends_also_where_its_grader_was_killed(tmp_path):
    os.mkfifo(tmp_path / "alive")
    program = (
        f"import time; alive = open({str(tmp_path / 'alive')!r}, 'w'); print(file=alive, flush=True); time.sleep(60)"
    )
    grading = f"import grade_code; grade_code.WALL_S = 2; grade_code.runs({program!r})"
    with os.fdopen(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as alive:
        command = [sys.executable, "-c", grading]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(EXAMPLE.parent)}) as grader:
            assert select.select([alive], [], [], 60)[0]
            grader.kill()
        assert alive.read(1) == b"\n"
        # Readable once more at its end: nobody holds the other side.
        assert select.select([alive], [], [], 20)[0]
        assert alive.read(1) == b""
