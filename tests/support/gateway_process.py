"""`duet serve` in a process of its own, with scripted models: what its server does is seen from outside alone.

``python -m support.gateway_process PORT LIMITS`` serves on that port of loopback; LIMITS is JSON that replaces numbers
of `duet_sdk.gateway.connection` and `duet_sdk.gateway.exchange`, as nobody waits for a minute in a test.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from support.server_process import ServerProcess, free_port, start, wait_until_healthy

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.base import Call
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gateway import connection, exchange
from duet_sdk.gateway.making import Address, Source
from duet_sdk.gateway.serve import serve
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LONG = 400
"""Words of the answer to "long"."""
WORD = 20_000
"""Characters of each: 8 MB together, more than all buffers between a server and a client take."""


def answer(call: Call) -> str:
    """8 MB to the question "long", a short sentence to all else."""
    return " ".join(["x" * WORD] * LONG) if call.messages[-1].text.endswith("long") else "There are 17."


def gateway_process(folder: Path, **limits: float) -> ServerProcess:
    """A gateway that answers already."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "support.gateway_process", str(port), json.dumps(limits)]
    server = start("gateway", command, port=port, log=folder / "gateway.log", environment=environment)
    wait_until_healthy(server, "/health", within_s=60)
    return server


def resident_kib(server: ServerProcess) -> int:
    """The most memory that it has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def main(port: str, limits: str) -> None:
    replaced: dict[str, Any] = json.loads(limits)
    for name, value in replaced.items():
        module = next(one for one in (connection, exchange) if hasattr(one, name))
        setattr(module, name, value)
    read = Settings(gateway=GatewayPolicy(answer_tokens=LONG))
    source = Source(lambda: read, lambda _: AsyncDuetClient(Scripted("17."), Scripted(answer)))
    serve(source, Address("127.0.0.1", int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
