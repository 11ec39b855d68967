"""A program on a terminal of its own, which a test types into and reads from."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

# Ctrl-C goes to the process whose terminal it is, and a shell that ran the tests in the background has it ignored.
_TAKES_ITS_TERMINAL = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
DUET = """
from duet_sdk.cli.app import main
main()
"""


class Terminal:
    """Runs a Python program, the command `duet` unless another is given, on a pseudo-terminal of 80 columns.

    Attributes:
        seen: everything that the program has written so far.
    """

    def __init__(self, *arguments: str, program: str = DUET, stdout: int | None = None) -> None:
        self._fd, inner = pty.openpty()
        termios.tcsetwinsize(inner, (24, 80))
        self.seen = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKES_ITS_TERMINAL + program, *arguments],
            stdin=inner,
            stdout=inner if stdout is None else stdout,
            stderr=inner,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        os.close(inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, keys: str) -> None:
        """Press these keys; ``\\x03`` is Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._fd, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C once the program waits for a key: before that, readline would see it only with the next one."""
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)
        self.type("\x03")

    def expect(self, text: str, *, within_s: float = 60) -> str:
        """Read until the program has written this text, and return what came before it since the last call."""
        until = time.monotonic() + within_s
        while text not in self.seen:
            assert self._read(until - time.monotonic()), f"no {text!r} in {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def ended(self, *, within_s: float = 60) -> tuple[int, str]:
        """The exit code, and what was written since the last call."""
        until = time.monotonic() + within_s
        while self._read(until - time.monotonic()):
            pass
        code = self._process.wait(timeout=within_s)
        rest, self.seen = self.seen, ""
        return code, rest

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._fd], [], [], timeout_s)[0]:
            return False
        try:
            text = os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # Linux: the program has closed its side
            return False
        self.seen += text.replace("\r\n", "\n")
        return bool(text)
