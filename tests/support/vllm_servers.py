"""Real vLLM servers on the CPU: the embedded model as it is, copies of it that have think tags, and one that counts."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from support import server_process, templates
from support.server_process import ServerProcess

from duet_sdk import models
from duet_sdk.endpoints import Endpoint
from duet_sdk.rendering import TokenizerFiles, signal_template

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
ADAPTER = "gen"
"""The name of the adapter on the server ``drafted``, and of its folder."""
_RANK = 8
FLAGS = {
    "plain": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    "thinker": [
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--reasoning-parser", "qwen3"),
        *("--structured-outputs-config", '{"enable_in_reasoning": true}'),
        "--enable-scale-out",
    ],
    "counter": [],
    "drafted": [
        *("--data-parallel-size", "2"),
        *("--reasoning-parser", "qwen3"),
        *("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}'),
        *("--enable-lora", "--max-lora-rank", str(_RANK), "--lora-modules", f"{ADAPTER}={ADAPTER}"),
    ],
}
"""How each server is started; adapters are folders next to the log."""


@dataclass(frozen=True, slots=True)
class Server(ServerProcess):
    """One running server; ``name`` is the model's name there, ``root`` is where ``/metrics`` and ``/tokenize`` are."""

    folder: Path

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


def adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter of the model in ``base`` that changes nothing."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    width, weights = config["hidden_size"], {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = np.zeros((_RANK, width), dtype=np.float32)
        weights[f"{name}.lora_B.weight"] = np.zeros((width, _RANK), dtype=np.float32)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": ["q_proj"], "bias": "none"}
    facts |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(facts), "utf-8")
    return folder


def launch(python: str, name: str, folder: Path, log: Path, *, flags: Sequence[str] = ()) -> Server:
    """Start a server, with ``flags`` beside its own; it is not ready yet."""
    port = server_process.free_port()
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "8", "--enforce-eager"),
        # SmolLM2's first words are nearly tied; in bfloat16 the kind of CPU decides which of them is greedy.
        *("--dtype", "float32"),
        "--disable-uvicorn-access-log",
        *("--enable-prompt-tokens-details", *FLAGS[name], *flags),
    ]
    if (folder / TAKES_SIGNALS).is_file():
        command += ["--chat-template", str(folder / TAKES_SIGNALS)]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "PYTHON"))},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true",
    }
    started = server_process.start(name, command, port=port, log=log, environment=environment)
    return Server(name, port, log, started.process, folder)


def wait_until_ready(servers: Sequence[Server]) -> None:
    """Wait for all of them, and let each answer once, which is slow the first time.

    Raises:
        RuntimeError: one ended or did not come up in time; the text has the end of its log.
    """
    for server in servers:
        server_process.wait_until_healthy(server, "/health", within_s=START_S)
    for server in servers:
        messages = [{"role": "user", "content": "Hello"}]
        server.post("/v1/chat/completions", {"model": server.name, "messages": messages, "max_tokens": 2})
