#!/usr/bin/env bash
# The cost of a model that LiteLLM's list of prices does not hold.
#
# One would guess an error: LiteLLM raises ModelNotMappedError for anthropic/claude-newest, openai/gpt-4.9 and
# openrouter/some/model.
# What happens: whether it is an error depends on the shape of the name. A name that looks like a Claude with a number,
# a GPT from 5 to 9, an o-model, a Gemini from 2.5 on, or anything under wandb/, costs 0.0, by cost_per_token, by
# completion_cost and in the answer's `response_cost`, which is None for other unknown models. So a typo
# (claude-opus-4.5 for claude-opus-4-5), a fine-tuned model, a model newer than the list and one that the list holds
# only under Bedrock's name (claude-opus-4-1-20250805) run for nothing, and a budget in USD never fills.
#
# Why: the rules `fallback_generalizations` at the end of the list give such names their capabilities; get_model_info
# then finds the model (_get_model_info_from_generalization, litellm/utils.py) and puts 0 where the rule has no price.
#
# litellm 1.110.2 with the list it brings, seen on 2026-11-30.
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

litellm.suppress_debug_info = True


class Server(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
        said = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [choice]}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({**said, "usage": usage}).encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("litellm", version("litellm"))


def price(model):
    try:
        return litellm.cost_per_token(model=model, prompt_tokens=1_000_000, completion_tokens=1_000_000)
    except Exception as error:
        return type(error).__name__


LISTED = ("anthropic/claude-opus-4-5", "openai/gpt-5-mini")
REFUSED = ("anthropic/claude-newest", "openai/gpt-4.9", "mistral/unheard-of", "openrouter/some/model")
FREE = (
    "anthropic/claude-opus-4.5",
    "anthropic/claude-opus-4-1-20250805",
    "openai/gpt-5.99",
    "openai/ft:gpt-5.1-2026-01-01:acme::1",
    "openai/o9",
    "gemini/gemini-9-pro",
    "wandb/unheard-of",
)
prices = {model: price(model) for model in (*LISTED, *REFUSED, *FREE)}
for model, found in prices.items():
    listed = model in litellm.model_cost or model.split("/", 1)[1] in litellm.model_cost
    print(f"{model}: {'listed' if listed else 'not listed'}, USD for a million tokens in and out: {found}")
    assert listed == (model in LISTED)
assert all(prices[model][0] > 0 for model in LISTED)
assert all(prices[model] == "ModelNotMappedError" for model in REFUSED)
assert all(prices[model] == (0.0, 0.0) for model in FREE)


def cost_of_answer(model):
    answer = litellm.completion(
        model=model,
        api_base=f"http://127.0.0.1:{server.server_address[1]}/v1",
        api_key="none",
        messages=[{"role": "user", "content": "hello"}],
    )
    return answer._hidden_params["response_cost"]


answers = {model: cost_of_answer(model) for model in ("openai/gpt-5-mini", "openai/gpt-4.9", "openai/gpt-5.99")}
print("response_cost of an answer of 1000 tokens:", answers)
assert answers["openai/gpt-5-mini"] > 0
assert answers["openai/gpt-4.9"] is None
assert answers["openai/gpt-5.99"] == 0.0
PY
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" "$folder/probe.py"
