"""What a request through the gateway costs, by server and by framework: CPU time, as the machine may be shared.

    python benchmarks/gateway.py            # every server that is installed
    python benchmarks/gateway.py --requests 2000 --at-once 32

Both stages go to `instant_server`, which answers at once, in a process of its own; so does the load, over raw sockets.
``CPU ms`` is user and system time of the gateway's process for each request, both stages and all of DUET included;
``starlette`` is the gateway mounted in a Starlette app; ``null`` is the server with an app that answers at once.
"""

import argparse
import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instant_server import allow_many_sockets, serve
from raw_load import load, so_many

SERVERS = {
    "uvicorn uvloop httptools": ("uvicorn", "uvloop"),
    "uvicorn asyncio httptools": ("uvicorn", "asyncio"),
    "uvicorn asyncio h11": ("uvicorn", "h11"),
    "uvicorn uvloop httptools starlette": ("uvicorn", "starlette"),
    "uvicorn uvloop httptools null": ("uvicorn", "null"),
    "granian uvloop": ("granian", "uvloop"),
    "granian uvloop null": ("granian", "null"),
}
"""What is compared → the package that serves, and how."""
ANSWER = b'{"object":"chat.completion","choices":[]}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--only", default="", help="part of a server's name")
    parser.add_argument("--serve", nargs=4, metavar=("SERVER", "HOW", "PORT", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        run_server(*given.serve)
        return
    allow_many_sockets()
    print(f"{'server':36}{'':8}{'CPU ms':>8}{'requests/s':>12}{'p50 ms':>8}{'p99 ms':>8}{'RSS MB':>8}")
    with serve() as url:
        for name, (package, how) in SERVERS.items():
            if given.only in name and importlib.util.find_spec(package):
                measure(name, package, how, url, given.requests, given.at_once)


def measure(name: str, package: str, how: str, url: str, requests: int, at_once: int) -> None:
    """One server, whole and streamed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", package, how, str(port), url]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_for(port)
            for streamed in (False, True):
                body = {"model": "duet", "stream": streamed, "messages": [{"role": "user", "content": "How many?"}]}
                asyncio.run(load(port, body, so_many(200), at_once))
                before, begin = cpu_s(process.pid), time.perf_counter()
                taken = sorted(asyncio.run(load(port, body, so_many(requests), at_once)))
                wall, cpu = time.perf_counter() - begin, cpu_s(process.pid) - before
                kind = "streamed" if streamed else "whole"
                p50, p99 = 1e3 * taken[requests // 2], 1e3 * taken[requests * 99 // 100]
                figures = f"{1e3 * cpu / requests:8.2f}{requests / wall:12.0f}{p50:8.1f}{p99:8.1f}"
                print(f"{name:36}{kind:8}{figures}{rss_mb(process.pid):8.0f}", flush=True)
        finally:
            os.killpg(process.pid, 15)


def family(pid: int) -> list[Path]:
    """The stat files of a process group: some servers work in children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = stat.read_text().rpartition(")")[2].split()[2]
        except OSError:
            continue
        if int(group) == pid:
            found.append(stat)
    return found


def cpu_s(pid: int) -> float:
    ticks = 0
    for stat in family(pid):
        fields = stat.read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    pages = sum(int((stat.parent / "statm").read_text().split()[1]) for stat in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not come up")


async def null(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers at once."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def make() -> Any:
    """The app that the environment of this process names; granian calls it in a process of its own."""
    how, url = os.environ["GATEWAY_HOW"], os.environ["GATEWAY_URL"]
    if how == "null":
        return null
    from duet_sdk import AsyncDuetClient
    from duet_sdk.gateway import app

    gateway = app(AsyncDuetClient(f"vllm/m@{url}", f"vllm/n@{url}"))
    if how != "starlette":
        return gateway
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/", app=gateway)])


def run_server(package: str, how: str, port: str, url: str) -> None:
    os.environ |= {"GATEWAY_HOW": how, "GATEWAY_URL": url}
    if package == "granian":
        from granian import Granian
        from granian.constants import Interfaces

        here = Path(__file__)
        os.chdir(here.parent)
        Granian(
            f"{here.stem}:make",
            port=int(port),
            interface=Interfaces.ASGI,
            factory=True,
            loop="uvloop",
            log_enabled=False,
        ).serve()  # type: ignore[arg-type]
        return
    import uvicorn

    uvicorn.run(
        make(),
        port=int(port),
        loop="asyncio" if how in ("asyncio", "h11") else "uvloop",
        http="h11" if how == "h11" else "httptools",
        access_log=False,
        log_level="error",
    )


if __name__ == "__main__":
    main()
