"""A hub on the loopback, for tests: it serves folders as the repositories of the hub are served."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    """The endpoints of the hub that downloads and uploads use, for the folders in ``repositories``.

    Weights go the way of large files: a batch of requests, each file by itself, then the commit that names them.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, Path] = {}
        self.asked: list[str] = []
        self.made: list[dict[str, Any]] = []
        self.large: dict[str, bytes] = {}
        self.commits: list[list[dict[str, Any]]] = []
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

    def do_POST(self) -> None:
        path, body = self.path.split("?")[0], self._body()
        self.server.asked.append(path)
        if self.server.error is not None:
            status, code = self.server.error
            self._send(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self._answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self._answer({"files": files})
        elif path.endswith("/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit(path, [json.loads(line) for line in body.decode().splitlines()])
        else:
            self._send(b"{}", 404)

    def do_PUT(self) -> None:
        content = self._body()
        self.server.asked.append(self.path)
        self.server.large[self.path.rpartition("/")[2]] = content
        self._send(b"")

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _commit(self, path: str, operations: list[dict[str, Any]]) -> None:
        self.server.commits.append(operations)
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        folder = self.server.repositories[name]
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    self._write(folder / value["path"], base64.b64decode(value["content"]))
                case "lfsFile":
                    self._write(folder / value["path"], self.server.large[value["oid"]])
                case "deletedFile":
                    (folder / value["path"]).unlink()
        url = f"{self.server.url}/{name}/commit/{'b' * 40}"
        self._answer({"success": True, "commitOid": "b" * 40, "commitUrl": url, "hookOutput": ""})

    def _write(self, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def _answer(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
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
