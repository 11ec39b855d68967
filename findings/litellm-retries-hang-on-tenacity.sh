#!/usr/bin/env bash
# A server that always fails, asked through LiteLLM with num_retries=n.
#
# One would guess 1 + n requests, whatever prefix the model has and whatever else is installed: the option is LiteLLM's
# own, documented above the providers.
# What happens: it depends on whether the package tenacity is there, which LiteLLM does not declare. Without it,
# `hosted_vllm/` and `deepseek/` send one request and retry nothing, without a warning, and `openai/` sends 1 + n. With
# it, those two send 1 + n, and `openai/` 1 + 2n (3, 5 and 7 requests with 1, 2 and 3 retries): its client's retries and
# LiteLLM's add up. So no installation has 1 + n for all three, and a package that some other library brings along
# turns retries on, or doubles the load on a server that is failing or limits its rate.
#
# litellm 1.110.2 with openai 3.57.0 and tenacity 9.1.2, seen on 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "litellm==1.110.2" "openai==3.57.0"
cat > "$folder/probe.py" <<'PY'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from importlib.util import find_spec

import litellm

HAS_TENACITY = find_spec("tenacity") is not None
litellm.suppress_debug_info = True


class Server(BaseHTTPRequestHandler):
    status = 500
    asked = 0

    def log_message(self, *_):
        pass

    def do_POST(self):
        Server.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"error": {"message": "busy", "type": "server_error", "code": None}}).encode()
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/v1"
print("litellm", version("litellm"), "openai", version("openai"), "with" if HAS_TENACITY else "without", "tenacity")


def requests(prefix, retries, call):
    Server.asked = 0
    given = {
        "model": f"{prefix}/m", "api_base": url, "api_key": "none", "num_retries": retries,
        "messages": [{"role": "user", "content": "hello"}],
    }
    try:
        call(given)
    except Exception as error:
        return Server.asked, type(error).__name__
    raise SystemExit("a server that always fails was taken for one that answers")


WAYS = {
    "completion": lambda given: litellm.completion(**given),
    "acompletion": lambda given: asyncio.run(litellm.acompletion(**given)),
}
for Server.status in (429, 500):
    for name, call in WAYS.items():
        for prefix, without, beside in (("openai", 1, 2), ("hosted_vllm", 0, 1), ("deepseek", 0, 1)):
            times = beside if HAS_TENACITY else without
            counts = [requests(prefix, retries, call) for retries in (0, 1, 2, 3)]
            print(Server.status, f"{name:11}", f"{prefix:11}", "requests with 0, 1, 2, 3 retries:", *(n for n, _ in counts), counts[0][1])
            assert [n for n, _ in counts] == [1 + times * retries for retries in (0, 1, 2, 3)], "this has changed"
PY
export LITELLM_LOCAL_MODEL_COST_MAP=True
"$folder/venv/bin/python" -W ignore "$folder/probe.py"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "tenacity==9.1.2"
"$folder/venv/bin/python" -W ignore "$folder/probe.py"
