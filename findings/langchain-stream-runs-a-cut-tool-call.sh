#!/usr/bin/env bash
# A tool call that ends at the limit of tokens, {"pages": 12 instead of {"pages": 1200}, in an agent of LangChain.
#
# One would guess that the agent does not run it, however the answer came: the arguments are no JSON, the reason is
# "length", and a message has the field `invalid_tool_calls` for just that.
# What happens: an answer that came whole gives an invalid call, and the tool does not run. The same answer as a stream
# gives a valid call with pages=12, `invalid_tool_calls` is empty, and the tool runs with the wrong number. Nobody has to
# ask the model for a stream: `agent.stream(…, stream_mode="messages")` is enough, while "updates" asks for whole
# answers. So a display of tokens, added to a tested agent, changes which tools run.
#
# Why: AIMessageChunk.init_tool_calls closes open JSON by itself (parse_partial_json, langchain_core/messages/ai.py), and
# the message made from the last chunk takes its calls over; parse_tool_call, for whole answers, uses json.loads.
#
# langchain 1.5.2, langchain-core 1.8.3, langchain-openai 1.7.4, langgraph 1.2.24, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  "langchain==1.5.2" "langchain-core==1.8.3" "langchain-openai==1.7.4" "langgraph==1.2.24" "openai==3.57.0"
cat > "$folder/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

CALL = {"id": "call_1", "type": "function", "function": {"name": "print_pages", "arguments": '{"pages": 12'}}
FIRST = {"role": "assistant", "content": None, "tool_calls": [CALL]}
THEN = {"role": "assistant", "content": "done"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}


class Server(BaseHTTPRequestHandler):
    streams = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        again = any(message["role"] != "user" for message in asked["messages"])
        message, end = (THEN, "stop") if again else (FIRST, "length")
        streams = bool(asked.get("stream"))
        self.streams.append(streams)
        same = {"id": "1", "created": 1, "model": "m"}
        if streams:
            delta = {**message, "tool_calls": [{"index": 0, **one} for one in message.get("tool_calls", [])]}
            pieces = [(delta, None), ({}, end)]
            chunks = [{**same, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": piece,
                      "finish_reason": reason}]} for piece, reason in pieces]
            body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        else:
            choice = {"index": 0, "message": message, "finish_reason": end}
            body = json.dumps({**same, "object": "chat.completion", "choices": [choice], "usage": USAGE})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streams else "application/json")
        self.end_headers()
        self.wfile.write(body.encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(*(f"{name} {version(name)}" for name in ("langchain", "langchain-core", "langchain-openai", "langgraph")))

ran = []


@tool
def print_pages(pages: int) -> str:
    """Print so many pages."""
    ran.append(pages)
    return "printed"


model = ChatOpenAI(model="m", base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none", max_retries=0)
agent = create_agent(model, [print_pages])
question = {"messages": [("user", "Print 1200 pages.")]}


def tried(name, call):
    ran.clear()
    Server.streams.clear()
    call()
    print(f"{name}: asked for streams {Server.streams}, the tool ran with {ran}")
    return list(ran)


whole = tried("invoke", lambda: agent.invoke(question))
updates = tried('stream_mode="updates"', lambda: list(agent.stream(question, stream_mode="updates")))
tokens = tried('stream_mode="messages"', lambda: list(agent.stream(question, stream_mode="messages")))

message = model.invoke("Print 1200 pages.")
print("whole: valid", message.tool_calls, "invalid", [one["args"] for one in message.invalid_tool_calls])
merged = None
for chunk in model.stream("Print 1200 pages."):
    merged = chunk if merged is None else merged + chunk
print("streamed: valid", merged.tool_calls, "invalid", merged.invalid_tool_calls)
print("reasons:", message.response_metadata["finish_reason"], merged.response_metadata["finish_reason"])
assert (whole, updates, tokens) == ([], [], [12])
assert not message.tool_calls and len(message.invalid_tool_calls) == 1
assert [one["args"] for one in merged.tool_calls] == [{"pages": 12}] and not merged.invalid_tool_calls
assert message.response_metadata["finish_reason"] == merged.response_metadata["finish_reason"] == "length"
PY
"$folder/venv/bin/python" "$folder/probe.py"
