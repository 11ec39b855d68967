"""A real Redis for the tests, on a free port of this machine, with nothing kept on disk unless asked for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
WHY_NOT = "needs redis-server (apt-get install redis-server)"


class RedisServer:
    """A server process; `stop` kills it, `start` runs it again on the same port and folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        assert BINARY is not None, WHY_NOT
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        self._process = subprocess.Popen([BINARY, *base, *self._options], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(64):  # "+PONG", or that it wants a password first
                        return self
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(f"redis-server did not answer on port {self.port}")

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it answer nothing until `go_on`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


class RedisClusterOf:
    """Servers that share the slots of one cluster, on free ports of this machine."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.nodes = []
        for number in range(nodes):
            own = folder / f"node{number}"
            own.mkdir()
            self.nodes.append(RedisServer(own, "--cluster-enabled", "yes", "--cluster-config-file", f"{own}/nodes"))

    def __enter__(self) -> Self:
        import redis

        for node in self.nodes:
            while node.port > 55_535:  # the nodes' own bus is at the port plus 10,000
                node.__init__(node._folder, *node._options)  # type: ignore[misc]
            node.start()
        ends = [16_384 * (number + 1) // len(self.nodes) for number in range(len(self.nodes))]
        admins = [redis.Redis(port=node.port) for node in self.nodes]
        for admin, first, end in zip(admins, [0, *ends], ends, strict=False):
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            admins[0].execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[admins.index(admin)].port)
        limit = time.monotonic() + 20
        for admin in admins:
            while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < limit, "the cluster did not come up"
                time.sleep(0.02)
            admin.close()
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            node.stop()
