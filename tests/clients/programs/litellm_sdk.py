"""LiteLLM's own SDK, through each of its providers that reach a gateway."""

import json

import litellm
from told import ERRAND, KEY, QUESTION, ROOT, SPENT_KEY, URL, look_up, seen, tell

ASKED = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": PARAMETERS}}]


def scenarios(provider, url):
    def ask(talk, model="duet", key=KEY, **more):
        return litellm.completion(model=f"{provider}/{model}", api_base=url, api_key=key, messages=talk, **more)

    def told_by(reply, pieces=None):
        message, usage = reply.choices[0].message, reply.usage
        reasoning = usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens
        counts = usage.prompt_tokens, usage.completion_tokens, reasoning
        return seen(message.content, counts, reasoning=message.get("reasoning_content"), pieces=pieces)

    def streamed():
        chunks = list(ask(ASKED, stream=True, stream_options={"include_usage": True}))
        pieces = sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)
        return told_by(litellm.stream_chunk_builder(chunks, messages=ASKED), pieces)

    def tool():
        talk = [{"role": "user", "content": ERRAND}]
        talk.append(ask(talk, tools=TOOLS).choices[0].message)
        for call in talk[-1].tool_calls:
            result = look_up(**json.loads(call.function.arguments))
            talk.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return told_by(ask(talk, tools=TOOLS))

    return {
        "plain": lambda: told_by(ask(ASKED)),
        "streamed": streamed,
        "tool": tool,
        "unknown_model": lambda: ask(ASKED, "gpt-99"),
        "spent": lambda: ask(ASKED, key=SPENT_KEY),
    }


tell(openai=scenarios("openai", URL), hosted_vllm=scenarios("hosted_vllm", URL), anthropic=scenarios("anthropic", ROOT))
