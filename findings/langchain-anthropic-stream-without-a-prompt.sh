#!/usr/bin/env bash
# A streamed answer in Anthropic's format: `message_start` tells what the prompt took, `message_delta` at the end tells
# `output_tokens`, the one count that must be there; the counts of the prompt are optional in it.
#
# One would guess that each client adds the two up, as Anthropic's own does: its final message has them all.
# What happens: through LangChain the prompt is 0 tokens, none cached, and the total is the output alone. Only a server
# that says everything again at the end is counted right; one that sends what the format's types demand is metered
# without prompts, and so is whatever sums `usage_metadata`. Not streamed, the same answer is counted right.
#
# Why: _make_message_chunk_from_anthropic_event (langchain_anthropic/chat_models.py) leaves the usage of message_start
# out, on the ground that message_delta has "complete info", and reads an absent count as 0.
#
# langchain-anthropic 1.7.10 with langchain-core 1.8.3 and anthropic 2.14.0, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  "langchain-anthropic==1.7.10" "langchain-core==1.8.3" "anthropic==2.14.0"
cat > "$folder/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import anthropic
from anthropic.types import MessageDeltaUsage
from langchain_anthropic import ChatAnthropic

PROMPT = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50}
SHORT = {"output_tokens": 20}
LONG = {**PROMPT, **SHORT}


class Server(BaseHTTPRequestHandler):
    last = SHORT

    def log_message(self, *_):
        pass

    def do_POST(self):
        streams = json.loads(self.rfile.read(int(self.headers["content-length"]))).get("stream")
        message = {"id": "1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
        text = {"type": "text", "text": ""}
        events = [
            {"type": "message_start", "message": {**message, "content": [], "stop_reason": None,
             "usage": {**PROMPT, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": text},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": self.last},
            {"type": "message_stop"},
        ]
        whole = {**message, "content": [{**text, "text": "hi"}], "stop_reason": "end_turn", "usage": LONG}
        if streams:
            body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        else:
            body = json.dumps(whole)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streams else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
where = {"base_url": f"http://127.0.0.1:{server.server_address[1]}", "api_key": "none", "max_retries": 0}
print(*(f"{name} {version(name)}" for name in ("langchain-anthropic", "langchain-core", "anthropic")))
needed = [name for name, field in MessageDeltaUsage.model_fields.items() if field.is_required()]
print("message_delta must tell:", needed)
assert needed == ["output_tokens"]
model = ChatAnthropic(model="m", max_tokens=99, **where)


def counted():
    asked = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}
    with anthropic.Anthropic(**where).messages.stream(**asked) as stream:
        own = stream.get_final_message().usage
    message = None
    for chunk in model.stream("hello"):
        message = chunk if message is None else message + chunk
    through = message.usage_metadata
    prompt = own.input_tokens + own.cache_read_input_tokens + own.cache_creation_input_tokens
    return (prompt, own.output_tokens), (through["input_tokens"], through["output_tokens"], through["input_token_details"])


for name, Server.last in (("short", SHORT), ("long", LONG)):
    own, through = counted()
    print(f"{name} message_delta: anthropic {own}, langchain {through}")
    assert own == (160, 20)
    assert through[:2] == ((0, 20) if Server.last is SHORT else (160, 20))
    assert through[2].get("cache_read", 0) == (0 if Server.last is SHORT else 100)
whole = model.invoke("hello").usage_metadata
print("not streamed: langchain", (whole["input_tokens"], whole["output_tokens"]))
assert (whole["input_tokens"], whole["output_tokens"]) == (160, 20)
PY
"$folder/venv/bin/python" "$folder/probe.py"
