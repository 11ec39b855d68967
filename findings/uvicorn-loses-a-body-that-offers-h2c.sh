#!/usr/bin/env bash
# A POST with a JSON body to uvicorn over plain HTTP, from a client that offers HTTP/2: Connection: Upgrade, Upgrade: h2c.
#
# One would guess that a server which does not take an offer answers as if it had not been made (RFC 9110, 7.8), so the
# app reads the body.
# What happens: with the parser httptools the app reads an empty body, without an error or a warning, and answers 200;
# with the parser h11 the same request is whole. Java's HttpClient makes the offer by default for http:// URLs, so a
# Java program's first POST to a Python service says "no JSON" while curl's works. Where a JDK is at hand, it is asked, too.
#
# uvicorn 0.54.0 with httptools 0.9.0 and h11 0.16.0, JDK 17; seen on 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "uvicorn==0.54.0" "httptools==0.9.0" "h11==0.16.0"
cat > "$folder/Ask.java" <<'JAVA'
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Ask {
    public static void main(String[] given) throws Exception {
        HttpRequest asked = HttpRequest.newBuilder(URI.create(given[0]))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString("{\"n\": 17}")).build();
        System.out.print(HttpClient.newHttpClient().send(asked, HttpResponse.BodyHandlers.ofString()).body());
    }
}
JAVA
cat > "$folder/probe.py" <<'PY'
import http.client
import shutil
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version

import uvicorn

OFFER = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
BODY = b'{"n": 17}'


async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    text = b"the app has read %d bytes" % len(body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(text)).encode())]})
    await send({"type": "http.response.body", "body": text})


def ask(port, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", BODY, {"content-type": "application/json", **headers})
    found = connection.getresponse().read().decode()
    connection.close()
    return found


print("uvicorn", version("uvicorn"), "httptools", version("httptools"), "h11", version("h11"), "- body of", len(BODY), "bytes")
for parser in ("httptools", "h11"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=parser, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    plain, offered = ask(port, {}), ask(port, OFFER)
    print(f"{parser:10} plain: {plain}; with the offer: {offered}")
    wanted = "the app has read 0 bytes" if parser == "httptools" else plain
    if shutil.which("java"):
        command = ["java", sys.argv[1], f"http://127.0.0.1:{port}/"]
        java = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        print(f"{parser:10} Java's HttpClient: {java}")
        assert java == wanted, "this has changed"
    server.should_exit = True
    thread.join()
    assert plain == "the app has read 9 bytes" and offered == wanted, "this has changed"
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/Ask.java"
