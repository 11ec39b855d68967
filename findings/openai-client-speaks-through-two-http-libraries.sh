#!/usr/bin/env bash
# Two calls of the openai package in one process, one by itself and one through LiteLLM, seen by what hooks into httpx:
# OpenTelemetry's instrumentation of httpx and the mock respx.
#
# One would guess that both are seen or neither: it is one package, one version and one User-Agent. And that within
# `respx.mock`, which refuses any request it has no route for, nothing goes out.
# What happens: the call by itself leaves no span and no `traceparent`, and under respx it reaches the real server, past
# a route that would match. The call through LiteLLM is traced and mocked. ChatOpenAI of LangChain goes with the first.
# OpenTelemetry's HTTPX2ClientInstrumentor, from the same distribution, turns it around: now only the first is seen. It
# takes both to see both. A test with a mocked OpenAI asks the real one after the upgrade to openai 3, without an error.
#
# Why: since release 3 openai.OpenAI() makes a client of httpx2, a fork of httpx, but takes one of httpx if it is given
# (openai/_httpx2.py); LiteLLM gives it one (_get_sync_http_client, litellm/llms/openai/common_utils.py).
#
# openai 3.57.0, litellm 1.110.2, langchain-openai 1.7.4, httpx 0.28.1, httpx2 2.16.2, respx 0.23.1,
# opentelemetry-instrumentation-httpx 0.66b2, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  "openai==3.57.0" "litellm==1.110.2" "langchain-openai==1.7.4" "httpx==0.28.1" "httpx2==2.16.2" "respx==0.23.1" \
  "opentelemetry-instrumentation-httpx==0.66b2" "opentelemetry-sdk==1.45.2"
cat > "$folder/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import httpx
import litellm
import openai
import respx
from langchain_openai import ChatOpenAI
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
ANSWER = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}


class Server(BaseHTTPRequestHandler):
    arrived = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.arrived.append((self.headers["user-agent"], "traceparent" in self.headers))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(ANSWER).encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/v1"
asked = {"messages": [{"role": "user", "content": "hello"}]}
names = ("openai", "litellm", "langchain-openai", "httpx", "httpx2", "respx", "opentelemetry-instrumentation-httpx")
print(*(f"{name} {version(name)}" for name in names))

CALLS = {  # each makes its own client, as after a start
    "openai": lambda: openai.OpenAI(base_url=url, api_key="none").chat.completions.create(model="m", **asked),
    "litellm": lambda: litellm.completion(model="openai/m", api_base=url, api_key="none", **asked),
    "langchain": lambda: ChatOpenAI(model="m", base_url=url, api_key="none").invoke("hello"),
}
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))


def traced():
    found = {}
    for name, call in CALLS.items():
        spans.clear()
        Server.arrived.clear()
        call()
        ((agent, parent),) = Server.arrived
        assert agent == f"OpenAI/Python {version('openai')}"
        found[name] = (len(spans.get_finished_spans()), parent)
    return found


old, new = HTTPXClientInstrumentor(), HTTPX2ClientInstrumentor()
old.instrument(tracer_provider=provider)
by_old = traced()
old.uninstrument()
new.instrument(tracer_provider=provider)
by_new = traced()
old.instrument(tracer_provider=provider)
by_both = traced()
for instrument in (old, new):
    instrument.uninstrument()
print("(spans, traceparent) with HTTPXClientInstrumentor:", by_old)
print("(spans, traceparent) with HTTPX2ClientInstrumentor:", by_new)
print("(spans, traceparent) with both:", by_both)

mocked = {}
for name, call in CALLS.items():
    Server.arrived.clear()
    with respx.mock(assert_all_called=False, assert_all_mocked=True) as mock:
        route = mock.post(f"{url}/chat/completions").mock(return_value=httpx.Response(200, json=ANSWER))
        call()
        mocked[name] = (route.called, len(Server.arrived))
print("(the mock answered, requests that went out) under respx:", mocked)

seen, unseen = (1, True), (0, False)
assert by_old == {"openai": unseen, "litellm": seen, "langchain": unseen}
assert by_new == {"openai": seen, "litellm": unseen, "langchain": seen}
assert by_both == dict.fromkeys(CALLS, seen)
assert mocked == {"openai": (False, 1), "litellm": (True, 0), "langchain": (False, 1)}
PY
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" "$folder/probe.py"
