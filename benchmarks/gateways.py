"""Gateways in processes of their own, for the scripts that measure them: `duet serve`, and LiteLLM's proxy.

LiteLLM's lives in an environment of its own (requirements/litellm-proxy.txt); `.ci/environment` makes it, once.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_S = 90
"""LiteLLM's proxy imports for 8 s of CPU, and takes thirty where other work shares the core."""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Also of its group, in which its workers are."""
        return self.process.pid

    def kill(self) -> None:
        """As the kernel does that runs out of memory."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def litellm_python() -> str:
    """Python of LiteLLM's environment; made on first use, in a minute or two."""
    made = subprocess.run(
        [sys.executable, ROOT / ".ci" / "environment", "litellm-proxy"], stdout=subprocess.PIPE, text=True, check=True
    )
    return made.stdout.strip()


@contextmanager
def duet_serve(
    config: str, *options: str, core: int | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """`duet serve` with that ``duet.toml``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "duet.toml"
        file.write_text(config, encoding="utf-8")
        port = free_port()
        command = [sys.executable, "-m", "duet_sdk", "serve", "--config", str(file), "--port", str(port), *options]
        paths = {"PYTHONPATH": str(ROOT), "HOME": folder}  # of nobody's own settings
        with _started("duet serve", command, port, "/health", {**paths, **(env or {})}, core, Path(folder)) as running:
            yield running


@contextmanager
def litellm_proxy(
    config: Mapping[str, Any],
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """LiteLLM's proxy with that configuration, as its guide to production has it: one worker, quiet, no look-ups.

    Args:
        config: of the proxy; JSON is YAML, too.
        core: the only one it may use.
        env: more of its environment.
        files: what lies next to the configuration, by name.
    """
    more = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        **(env or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"config.yaml": json.dumps(config), **(files or {})}.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        port = free_port()
        program = Path(litellm_python()).parent / "litellm"
        command = [str(program), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with _started("LiteLLM", command, port, "/health/liveliness", more, core, Path(folder)) as running:
            yield running


@contextmanager
def _started(
    name: str, command: list[str], port: int, health: str, env: Mapping[str, str], core: int | None, folder: Path
) -> Iterator[Running]:
    log = folder / "log"
    pinned = None if core is None else lambda: os.sched_setaffinity(0, {core})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=pinned,  # noqa: PLW1509  # these scripts have one thread
        )
    running = Running(name, port, process, log)
    try:
        _wait_for(running, health)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(running: Running, path: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and running.process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{running.port}{path}", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{running.name} did not start:\n{running.log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load_now() -> str:
    """What else runs, for whoever reads the figures."""
    one, five, _ = os.getloadavg()
    return f"load average {one:.1f} (1 min), {five:.1f} (5 min), {os.cpu_count()} cores"
