"""The parent's side of grading processes: they are asked within a limit, killed past it, and started anew."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar, cast

from pydantic import JsonValue

from duet_sdk.errors import ConfigError, EvaluationError

START_LIMIT_S = 120.0
"""Seconds until a process is ready: importing sympy, or what a user's function imports, is slow on a busy machine."""

END_LIMIT_S = 1.0
"""Seconds that a process which has closed its output gets to end; a function can close it and go on."""

Item = TypeVar("Item")
Result = TypeVar("Result")

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
            EvaluationError: the worker cannot be started.
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
            EvaluationError: it cannot be started.
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
            raise EvaluationError(f"{self._what} cannot be started: {failed}")
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


class GradingPool:
    """Several grading processes of one kind, each asked by one thread at a time.

    Args:
        order: see `GradingProcess`.
        what: what the errors call a process.
        limit_s: seconds for one answer, above 0.
        size: how many processes, at least 1.
    """

    def __init__(self, order: Mapping[str, JsonValue], *, what: str, limit_s: float, size: int) -> None:
        if size < 1:
            raise ConfigError(f"a grader needs at least 1 process, got {size}")
        if not 0 < limit_s < math.inf:
            raise ConfigError(f"a grader's limit must be above 0 seconds and finite, got {limit_s}")
        self.limit_s = limit_s
        self._processes = [GradingProcess(order, what=what) for _ in range(size)]

    def start(self) -> None:
        """Start the first process; the others start with their first work."""
        self._processes[0].start()

    def run(self, work: Callable[[GradingProcess, Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results in the order of the items."""
        size = min(len(self._processes), len(items)) or 1

        def share(start: int) -> list[Result]:
            return [work(self._processes[start], item) for item in items[start::size]]

        if size == 1:
            return share(0)
        with ThreadPoolExecutor(size) as threads:
            shares = list(threads.map(share, range(size)))
        return [shares[at % size][at // size] for at in range(len(items))]

    def close(self) -> None:
        """Kill the processes."""
        for process in self._processes:
            process.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended that gives no more answers."""
    try:
        return f"the grading process died (exit code {process.wait(END_LIMIT_S)})"
    except subprocess.TimeoutExpired:
        return "the grading process closed its output"
