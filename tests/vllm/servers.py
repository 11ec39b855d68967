"""Real vLLM servers on the CPU: the embedded model as it is, a copy of it that has think tags, and one that counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import templates

from duet_sdk import models
from duet_sdk.rendering import TokenizerFiles, signal_template
from duet_sdk.settings import Endpoint

START_S = 240
CONTEXT_TOKENS = 2048
RENAMED = {
    "<repo_name>": "<think>",
    "<reponame>": "</think>",
    "<file_sep>": "<tool_call>",
    "<filename>": "</tool_call>",
}
"""Tokens that SmolLM2 never learned to use → what Qwen3 calls its own; not special there either."""
TAKES_SIGNALS = "takes_signals.jinja"
"""The file in a model's folder that holds its template made to take a signal."""
FLAGS = {
    "plain": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    "thinker": [
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--reasoning-parser", "qwen3"),
        *("--structured-outputs-config", '{"enable_in_reasoning": true}'),
        "--enable-scale-out",
    ],
    "counter": [],
}


@dataclass(frozen=True, slots=True)
class Server:
    """One running server."""

    name: str
    """The model's name there."""
    folder: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def root(self) -> str:
        """Where ``/metrics`` and ``/tokenize`` are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def model(self) -> str:
        """The full name for a client."""
        return f"vllm/{self.name}@{self.root}/v1"

    def endpoint(self, base_url: str | None = None) -> Endpoint:
        """The model with its tokenizer, which the think handoff needs; ``base_url`` goes over the server's own."""
        name = f"vllm/{self.name}"
        return Endpoint(model=name, base_url=base_url or f"{self.root}/v1", options={"tokenizer": str(self.folder)})

    def post(self, path: str, body: dict[str, object], *, wait_s: float = 120) -> dict[str, object]:
        """The answer to a request made by hand."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=wait_s) as answer:
            return json.load(answer)

    def running(self) -> int:
        """Requests that the server works on or holds in its queue, as its metrics say."""
        return self._metric("vllm:num_requests_running{", "vllm:num_requests_waiting{")

    def generated(self) -> int:
        """Tokens that the server has written since it started, as its metrics say."""
        return self._metric("vllm:generation_tokens_total{")

    def prefix_cache(self) -> tuple[int, int]:
        """Prompt tokens that were found in the prefix cache, and all that were looked for, as its metrics say."""
        return self._metric("vllm:prefix_cache_hits_total{"), self._metric("vllm:prefix_cache_queries_total{")

    def block_tokens(self) -> int:
        """Tokens of one block of the prefix cache, which is found whole or not at all."""
        found = re.search(r'^vllm:cache_config_info\{.*\bblock_size="(\d+)"', "\n".join(self._metrics()), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def _metric(self, *names: str) -> int:
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in self._metrics() if line.startswith(names))

    def _metrics(self) -> list[str]:
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=30) as answer:
            return answer.read().decode().splitlines()


def think_copy(folder: Path) -> Path:
    """A copy of the embedded model whose tokenizer knows Qwen3's tags, with Qwen3's template and ours."""
    source = models.embedded()
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {RENAMED.get(text, text): at for text, at in vocabulary.items()}
    for token in tokenizer["added_tokens"]:
        if token["content"] in RENAMED:
            token.update(content=RENAMED[token["content"]], special=False)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    (folder / "chat_template.jinja").write_text(templates.template("qwen3"), "utf-8")
    (folder / TAKES_SIGNALS).write_text(signal_template(TokenizerFiles.from_folder(folder)), "utf-8")
    return folder


def launch(python: str, name: str, folder: Path, log: Path) -> Server:
    """Start a server; it is not ready yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        # Whatever ends the tests ends the servers, even a kill.
        *("setpriv", "--pdeathsig", "TERM", python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "8", "--enforce-eager"),
        "--disable-uvicorn-access-log",
        *("--enable-prompt-tokens-details", *FLAGS[name]),
    ]
    if (folder / TAKES_SIGNALS).is_file():
        command += ["--chat-template", str(folder / TAKES_SIGNALS)]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTHON"))},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(name, folder, port, log, process)


def wait_until_ready(servers: Sequence[Server]) -> None:
    """Wait for all of them, and let each answer once, which is slow the first time.

    Raises:
        RuntimeError: one ended or did not come up in time; the text has the end of its log.
    """
    end = time.monotonic() + START_S
    for server in servers:
        while not _healthy(server):
            if server.process.poll() is not None:
                raise RuntimeError(f"{server.name} ended with {server.process.returncode}\n{tail(server)}")
            if time.monotonic() > end:
                raise RuntimeError(f"{server.name} was not ready after {START_S} s\n{tail(server)}")
            time.sleep(0.5)
    for server in servers:
        messages = [{"role": "user", "content": "Hello"}]
        server.post("/v1/chat/completions", {"model": server.name, "messages": messages, "max_tokens": 2})


def tail(server: Server, lines: int = 60) -> str:
    """The end of a server's log."""
    text = server.log.read_text("utf-8", "replace").splitlines()
    return "\n".join([f"--- end of the log of {server.name}", *text[-lines:]])


def stop(servers: Sequence[Server]) -> None:
    """End the servers with all their processes, first asked, then forced."""
    for wanted, wait_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        for server in servers:
            _signal(server, wanted)
        end = time.monotonic() + wait_s
        while any(_alive(server) for server in servers) and time.monotonic() < end:
            time.sleep(0.1)
    left = [server.name for server in servers if _alive(server)]
    if left:
        raise RuntimeError(f"processes of {', '.join(left)} could not be ended")


def _healthy(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.root}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _alive(server: Server) -> bool:
    """Whether a process of the server's group still runs; one that ended and waits to be collected does not."""
    server.process.poll()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended in between
        if int(group) == server.process.pid and state != "Z":
            return True
    return False


def _signal(server: Server, number: int) -> None:
    """Send to the server's whole process group, where there still is one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, number)
