"""Runs the server on its own."""

from __future__ import annotations

import argparse
import asyncio
import sys

from support.fault_server.answers import Answer
from support.fault_server.server import FaultServer


async def _serve(port: int, text: str) -> None:
    server = await FaultServer(Answer(text)).start(port)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", default="one two three four five six seven eight")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.text))
