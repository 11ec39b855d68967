"""Servers that tests start beside themselves: on a port of loopback, with a log, and ended with all their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One started server, ready or not."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def root(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(
    name: str, command: Sequence[str | Path], *, port: int, log: Path, environment: Mapping[str, str]
) -> ServerProcess:
    """Start a server in the folder of its log; it is not ready yet."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Whatever ends the tests ends the servers, even a kill.
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=dict(environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ServerProcess(name, port, log, process)


def wait_until_healthy(server: ServerProcess, path: str, *, within_s: float) -> None:
    """Wait until that path answers.

    Raises:
        RuntimeError: it ended or did not come up in time; the text has the end of its log.
    """
    end = time.monotonic() + within_s
    while not _healthy(server.root + path):
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with {server.process.returncode}\n{tail(server)}")
        if time.monotonic() > end:
            raise RuntimeError(f"{server.name} was not ready after {within_s} s\n{tail(server)}")
        time.sleep(0.5)


def tail(server: ServerProcess, lines: int = 60) -> str:
    """The end of a server's log."""
    text = server.log.read_text("utf-8", "replace").splitlines()
    return "\n".join([f"--- end of the log of {server.name}", *text[-lines:]])


def stop(servers: Sequence[ServerProcess]) -> None:
    """End the servers with all their processes, first asked, then forced.

    Raises:
        RuntimeError: some would not end.
    """
    for wanted, wait_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        for server in servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, wanted)
        end = time.monotonic() + wait_s
        while any(map(_alive, servers)) and time.monotonic() < end:
            time.sleep(0.1)
    left = [server.name for server in servers if _alive(server)]
    if left:
        raise RuntimeError(f"processes of {', '.join(left)} could not be ended")
    for server in servers:
        server.process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _alive(server: ServerProcess) -> bool:
    """Whether a process of the server's group still runs; one that ended and waits to be collected does not."""
    server.process.poll()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended in between
        if int(group) == server.process.pid and state != "Z":
            return True
    return False
