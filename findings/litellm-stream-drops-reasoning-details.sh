#!/usr/bin/env bash
# A streamed answer through LiteLLM whose piece holds nothing but `reasoning_details`, as OpenRouter sends signatures and
# encrypted reasoning that have to come back with the next request.
#
# One would guess that the piece arrives, at least with the provider openrouter, whose own field it is: plain
# reasoning does, and so does the same field beside a text.
# What happens: a delta that has only fields which LiteLLM does not know is dropped, for openrouter as for openai and
# hosted_vllm. So an agent that streams loses the signature and is refused, or
# answered worse, one turn later; the same agent without streaming works.
#
# litellm 1.110.2 with openai 3.57.0, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "litellm==1.110.2" "openai==3.57.0"
cat > "$folder/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import litellm

SIGNED = [{"type": "reasoning.encrypted", "data": "SIGNATURE", "index": 0}]
ALONE = [{"role": "assistant"}, {"reasoning_details": SIGNED}, {"content": "hi"}]
BESIDE = [{"role": "assistant"}, {"reasoning_details": SIGNED, "content": "hi"}]
KNOWN = [{"role": "assistant"}, {"reasoning": "SIGNATURE", "reasoning_content": "SIGNATURE"}, {"content": "hi"}]


class Server(BaseHTTPRequestHandler):
    deltas = ALONE

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        pieces = [*((delta, None) for delta in self.deltas), ({}, "stop")]
        same = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        said = [{**same, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in pieces]
        body = "".join(f"data: {json.dumps(one)}\n\n" for one in said) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(body.encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("litellm", version("litellm"), "openai", version("openai"))


def arrives(provider, deltas):
    Server.deltas = deltas
    chunks = litellm.completion(
        model=f"{provider}/m",
        api_base=f"http://127.0.0.1:{server.server_address[1]}/v1",
        api_key="none",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
    )
    return "SIGNATURE" in json.dumps([chunk.model_dump() for chunk in chunks])


for provider in ("openrouter", "openai", "hosted_vllm"):
    found = [arrives(provider, deltas) for deltas in (ALONE, BESIDE, KNOWN)]
    print(f"{provider}: alone in its delta {found[0]}, beside a text {found[1]}, as reasoning {found[2]}")
    assert not found[0]
    assert found[2]
PY
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" "$folder/probe.py"
