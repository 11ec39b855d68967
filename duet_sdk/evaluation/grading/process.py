"""The parent's side of a grading process: it is asked within a limit, killed past it, and started anew."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from pydantic import JsonValue

from duet_sdk.errors import TrainingError

START_LIMIT_S = 120.0
"""Importing sympy, or what a user's function imports, takes seconds on a busy machine."""

END_LIMIT_S = 1.0
"""For a process that has closed its output to end; a function can close it and go on."""

_WORKER = Path(__file__).with_name("worker.py")


class GradingProcess:
    """One process that grades; started at the first question.

    Args:
        order: what the worker is to be, see `worker.main`.
        what: what the errors call it.
    """

    def __init__(self, order: Mapping[str, JsonValue], *, what: str) -> None:
        self._order = dict(order)
        self._what = what
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def ask(self, question: Mapping[str, JsonValue], *, limit_s: float) -> dict[str, JsonValue]:
        """The worker's answer; one with ``fault`` where it ran past the limit or died.

        Raises:
            TrainingError: the worker cannot be started.
        """
        process = self.start()
        try:
            self._send(process, {**question, "limit_s": limit_s})
            reply = self._receive(process, limit_s)
        except BrokenPipeError:
            reply = None
        except TimeoutError:
            self.close()
            return {"fault": f"no grade within {limit_s:g} s"}
        if reply is None:
            fault = _end_of(process)
            self.close()
            return {"fault": fault}
        return reply

    def close(self) -> None:
        """Kill the process and what it started in its group; harmless when there is none."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        # The group, not the process alone: what a function started must not go on without it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def start(self) -> subprocess.Popen[bytes]:
        """The process, started where there is none.

        Raises:
            TrainingError: it cannot be started.
        """
        return self._process or self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # By its path, without that path's folder among the modules' (-P): the first line says where modules lie.
        command = [sys.executable, "-P", str(_WORKER)]
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process = process
        folders: list[JsonValue] = [folder or str(Path.cwd()) for folder in sys.path]
        if (beside := self._order.get("beside")) is not None:
            folders.insert(0, beside)
        failed: JsonValue = None
        try:
            self._send(process, {**self._order, "sys_path": folders})
            reply = self._receive(process, START_LIMIT_S)
            failed = "it ended at once" if reply is None else reply.get("failed")
        except BrokenPipeError:
            failed = "it ended at once"
        except TimeoutError:
            failed = f"not ready after {START_LIMIT_S:g} s"
        if failed is not None:
            self.close()
            raise TrainingError(f"{self._what} cannot be started: {failed}")
        return process

    @staticmethod
    def _send(process: subprocess.Popen[bytes], value: Mapping[str, JsonValue]) -> None:
        pipe = cast("IO[bytes]", process.stdin)
        pipe.write(json.dumps(value).encode() + b"\n")
        pipe.flush()

    def _receive(self, process: subprocess.Popen[bytes], limit_s: float) -> dict[str, JsonValue] | None:
        """The next line, None where the process has ended."""
        pipe, end = cast("IO[bytes]", process.stdout).fileno(), time.monotonic() + limit_s
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(pipe, 65536)
            if not part:
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        value: dict[str, JsonValue] = json.loads(line)
        return value


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended that gives no more answers."""
    try:
        return f"the grading process died (exit code {process.wait(END_LIMIT_S)})"
    except subprocess.TimeoutExpired:
        return "the grading process closed its output"
