"""A hub on the loopback, for tests: it serves folders as the repositories of the hub are served."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    """The three endpoints of the hub that a download uses, for the folders in ``repositories``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, Path] = {}
        self.asked: list[str] = []
        self.error: tuple[int, str] | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if self.server.error is not None:
            status, code = self.server.error
            self._send(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code})
            return
        name = next((name for name in self.server.repositories if name in path), None)
        if name is None:
            self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            return
        folder, commit = self.server.repositories[name], "a" * 40
        if "/resolve/" in path:
            content = (folder / path.split(f"/resolve/{commit}/")[1]).read_bytes()
            self._send(content, 200, {"ETag": f'"{len(content)}"', "X-Repo-Commit": commit})
        elif "/tree/" in path:
            self._send(json.dumps([{"type": "file", "oid": "0", **one} for one in _files(folder)]).encode())
        elif path.endswith("/revision/gone"):
            self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": one["path"]} for one in _files(folder)]
            self._send(json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    do_HEAD = do_GET  # noqa: N815

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        pass


def _files(folder: Path) -> list[dict[str, Any]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return [{"path": file.relative_to(folder).as_posix(), "size": file.stat().st_size} for file in files]


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as server:
        server.repositories.update(repositories)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
