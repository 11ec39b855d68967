"""anthropic, sync and async."""

from anthropic import Anthropic, AsyncAnthropic
from told import ERRAND, KEY, QUESTION, ROOT, SPENT_KEY, look_up, seen, tell

ASKED = {"model": "duet", "max_tokens": 1000, "messages": [{"role": "user", "content": QUESTION}]}
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


def client(key=KEY, kind=Anthropic):
    return kind(base_url=ROOT, api_key=key)


def told_by(message, pieces=None):
    text = "".join(block.text for block in message.content if block.type == "text")
    thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    counts = message.usage.input_tokens, message.usage.output_tokens, None
    return seen(text, counts, reasoning=thinking, pieces=pieces)


def plain():
    return told_by(client().messages.create(**ASKED))


async def streamed():
    async with client(kind=AsyncAnthropic) as duet, duet.messages.stream(**ASKED) as stream:
        pieces = [piece async for piece in stream.text_stream]
        return told_by(await stream.get_final_message(), len(pieces))


def tool():
    tools = [{"name": "look_up", "input_schema": PARAMETERS}]
    duet, talk = client(), [{"role": "user", "content": ERRAND}]
    first = duet.messages.create(model="duet", max_tokens=1000, messages=talk, tools=tools)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": look_up(**block.input)}
        for block in first.content
        if block.type == "tool_use"
    ]
    talk += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    return told_by(duet.messages.create(model="duet", max_tokens=1000, messages=talk, tools=tools))


def counted():
    tokens = client().messages.count_tokens(model="duet", messages=ASKED["messages"]).input_tokens
    return seen("counted", (tokens,))


tell(
    messages={
        "plain": plain,
        "streamed": streamed,
        "tool": tool,
        "counted": counted,
        "unknown_model": lambda: client().messages.create(**{**ASKED, "model": "gpt-99"}),
        "spent": lambda: client(SPENT_KEY).messages.create(**ASKED),
    }
)
