#!/usr/bin/env bash
# A server refuses with {"error": "words"}, a string where OpenAI has an object, through LiteLLM.
#
# One would guess that the words are in the exception's text or its body, whatever the status.
# What happens: for 400, 422 and 429 the exception's `body` holds them, and its text is only "Error code: 422". For 403 and
# 404 `body` is None as well: the words stand in nothing but the HTTP response that the exception carries along. The
# openai client by itself keeps them in `body` for each status. "Error code: 403" then reads like a wrong key, whatever
# the server really said.
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
import openai

litellm.suppress_debug_info = True
WORDS = "this region is not enabled for the account"


class Server(BaseHTTPRequestHandler):
    status = 403

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": WORDS}).encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/v1"
asked = {"messages": [{"role": "user", "content": "hello"}]}
print("litellm", version("litellm"), "openai", version("openai"))


def where(call):
    try:
        call()
    except Exception as error:
        response = getattr(error, "response", None)
        return {
            "text": WORDS in str(error),
            "body": WORDS in str(getattr(error, "body", None)),
            "response": WORDS in str(getattr(response, "text", "")),
        }
    raise AssertionError("nothing was raised")


seen = {}
for status in (400, 403, 404, 422, 429):
    Server.status = status
    through = where(lambda: litellm.completion(model="openai/m", api_base=url, api_key="none", max_retries=0, **asked))
    alone = where(
        lambda: openai.OpenAI(base_url=url, api_key="none", max_retries=0).chat.completions.create(model="m", **asked)
    )
    seen[status] = through
    print(status, "litellm:", through, "openai:", alone)
    assert alone["body"]
assert seen[422]["body"] and seen[429]["body"]
assert not any((seen[status]["text"], seen[status]["body"]) != (False, False) for status in (403, 404))
PY
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" "$folder/probe.py"
