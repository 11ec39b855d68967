#!/usr/bin/env bash
# A server hands a bound socket to uvicorn, Server(config).run(sockets=[…]), and streams: head, first event, more.
#
# One would guess that it makes no difference who has bound the socket: asyncio switches Nagle's algorithm off for every
# TCP connection.
# What happens: asyncio does so only where socket.proto says IPPROTO_TCP. A socket of socket.create_server() has proto 0
# (it lets the kernel choose), accepted ones inherit that, and Nagle's algorithm stays on. On a kept connection the first
# event of a stream then waits behind its head for the client's delayed acknowledgement, about 40 ms; uvicorn that binds
# the same address itself sends it at once. The option is read here on the server's side of a connection, as times differ.
#
# Python 3.11, uvicorn 0.54.0, httptools 0.8.0, Linux; seen on 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "uvicorn==0.54.0" "httptools==0.8.0"
cat > "$folder/probe.py" <<'PY'
import http.client
import platform
import socket
import statistics
import threading
import time
from importlib.metadata import version

import uvicorn
import uvicorn.protocols.http.auto

seen = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": message + ".complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"data: 2\n\n"})


class Protocol(uvicorn.protocols.http.auto.AutoHTTPProtocol):
    def connection_made(self, transport):
        super().connection_made(transport)
        given = transport.get_extra_info("socket")
        seen.append((given.proto, given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(given):
    seen.clear()
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, http=Protocol, loop="asyncio", log_level="critical")
    server = uvicorn.Server(config)
    sockets = [socket.create_server(("127.0.0.1", port))] if given else None
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        connection.request("GET", "/")
        connection.getresponse().read()
        took.append(1e3 * (time.perf_counter() - began))
    connection.close()
    server.should_exit = True
    thread.join()
    (proto, without_delay), = set(seen)
    print(f"{'a socket that was given' if given else 'its own socket':24} proto {proto}, TCP_NODELAY {without_delay}, "
          f"median {statistics.median(took):.1f} ms a request")
    return without_delay


print("python", platform.python_version(), "uvicorn", version("uvicorn"))
assert measure(given=False), "this has changed"
assert not measure(given=True), "this has changed"
PY
"$folder/venv/bin/python" "$folder/probe.py"
