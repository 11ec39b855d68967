"""A grader of your own: Python code is right where it passes a question's tests, run in a process of its own.

In a run's file: `data.grading.grader: grade_code:passes_tests`, with this file next to the run's, and a column `tests`
with Python assertions. `python examples/grade_code.py` tries it on four answers.

What the process is kept from: more than 2 s of CPU and 3 s in all, more than 512 MiB, files (and output) over 1 MiB,
and more than 32 open files. The 3 s are below `data.grading.timeout_s` (5), so that a program is ended here, with all
that it started; where the grader itself is killed, an alarm of the program's own ends it a second later. Its folder
is empty and removed, its environment is empty, and where Linux lets users make namespaces (`unshare`), it has no
network.

What nothing here stops: it runs as your user, so it can read every file that you can read, and write where you can;
it can start processes, and one that leaves its group outlives it; it can switch off its alarm; it can look up the
mark that says "passed" in the frame that runs it. Where `unshare` does not work it has the network, too (`isolated()`
says so). A model in training tries odd things: for code that you do not trust use a container or a virtual machine
without your files.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache

CPU_S, WALL_S = 2, 3
"""Seconds of CPU and in all: tests of one function take milliseconds, and the grader's own limit is 5."""
_CODE = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)
_LIMITED = """\
import resource, signal, sys
signal.alarm(int(sys.argv[2]))
limits = {"CPU": int(sys.argv[1]), "AS": 512 * 2**20, "FSIZE": 2**20, "NOFILE": 32, "CORE": 0}
for what, most in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
mark, _, program = sys.stdin.read().partition("\\n")
exec(compile(program, "answer", "exec"), {"__name__": "__main__"})
print(mark)
"""
_NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net", "--"]


def passes_tests(completions, tests, **_columns):
    """1.0 where the last code block of an answer passes its tests, 0.0 where not, None if there is no code."""
    return [
        None if (code := last_block(chat[-1]["content"])) is None else float(runs(f"{code}\n\n{test}\n"))
        for chat, test in zip(completions, tests, strict=True)
    ]


def last_block(text):
    """The last fenced block of Python in a text."""
    blocks = _CODE.findall(text)
    return blocks[-1] if blocks else None


def runs(program):
    """Whether a program ends by itself, in time and without an error."""
    # The program comes by standard input: an argument would show in the list of processes. -I: nothing of the user's.
    limits = [str(CPU_S), str(WALL_S + 1)]
    command = [*(_NO_NETWORK if isolated() else []), sys.executable, "-I", "-S", "-c", _LIMITED, *limits]
    # Exit code 0 alone proves nothing: exit(0) in the middle passes no test.
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            process.communicate(f"{mark}\n{program}".encode(), timeout=WALL_S)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end_group(process)
        output.seek(0)
        return process.returncode == 0 and output.read().endswith(f"{mark}\n".encode())


def end_group(process):
    """Kill the program and what it started in its group; a process that left the group (setsid) is not reached."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@cache
def isolated():
    """Whether programs can be run without a network here."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_NO_NETWORK, "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    ANSWERS = {
        "right": "```python\ndef double(n):\n    return 2 * n\n```",
        "wrong": "```python\ndef double(n):\n    return n\n```",
        "hangs": "```python\nwhile True: pass\n```",
        "no code": "I would multiply by two.",
    }
    scores = passes_tests(
        completions=[[{"role": "assistant", "content": text}] for text in ANSWERS.values()],
        tests=["assert double(3) == 6"] * len(ANSWERS),
    )
    print("without network" if isolated() else "WITH network: unshare does not work here")
    for name, score in zip(ANSWERS, scores, strict=True):
        print(f"{name:8} {score}")
