"""`duet serve` in a process of its own, as an operator runs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.server_process import free_port

ROOT = Path(__file__).resolve().parents[2]


class DuetServe:
    """The process.

    Attributes:
        port: where it serves.
        log: what it has written to standard error so far.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.log = ""
        self._reading = asyncio.create_task(self._read())
        self._more = asyncio.Event()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line.decode()
            self._more.set()
        self._more.set()

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said this so often."""
        async with asyncio.timeout(60):
            while self.log.count(text) < times:
                assert not self._reading.done(), f"it ended without saying {text!r}:\n{self.log}"
                self._more.clear()
                await self._more.wait()

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def refuses(self) -> None:
        """Wait until nobody can connect any more."""
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    return
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        async with asyncio.timeout(60):
            return await self.process.wait()

    def workers(self) -> list[int]:
        """Process ids of its children."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(one) for one in file.read_text().split()]


@asynccontextmanager
async def duet_serve(folder: Path, settings: str, *options: str) -> AsyncIterator[DuetServe]:
    """`duet serve` with these settings, once it serves; killed at the end if it still runs."""
    file, port = folder / "duet.toml", free_port()
    file.write_text(settings)
    command = [sys.executable, "-m", "duet_sdk", "serve", "--config", str(file), "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env=environment, cwd=folder
    )
    served = DuetServe(process, port)
    try:
        await served.says("serves")
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await served._reading
