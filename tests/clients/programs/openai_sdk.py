"""openai 2 and 3, sync and async."""

import json

from openai import AsyncOpenAI, OpenAI
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell

ASKED = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


def client(key=KEY, kind=OpenAI):
    return kind(base_url=URL, api_key=key)


def usage_of(chat):
    return chat.prompt_tokens, chat.completion_tokens, chat.completion_tokens_details.reasoning_tokens


def plain():
    reply = client().chat.completions.create(model="duet", messages=ASKED)
    message = reply.choices[0].message
    return seen(message.content, usage_of(reply.usage), reasoning=message.model_extra["reasoning_content"])


async def streamed():
    pieces = []
    async with (
        client(kind=AsyncOpenAI) as duet,
        duet.chat.completions.stream(
            model="duet", messages=ASKED, stream_options={"include_usage": True}
        ) as stream,
    ):
        async for event in stream:
            if event.type == "content.delta":
                pieces.append(event.delta)
        last = await stream.get_final_completion()
    message = last.choices[0].message
    return seen(
        message.content, usage_of(last.usage), reasoning=message.model_extra["reasoning_content"], pieces=len(pieces)
    )


def tool():
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": PARAMETERS}}]
    duet, talk = client(), [{"role": "user", "content": ERRAND}]
    first = duet.chat.completions.create(model="duet", messages=talk, tools=tools).choices[0]
    talk.append(first.message)
    for call in first.message.tool_calls:
        result = look_up(**json.loads(call.function.arguments))
        talk.append({"role": "tool", "tool_call_id": call.id, "content": result})
    reply = duet.chat.completions.create(model="duet", messages=talk, tools=tools)
    return seen(reply.choices[0].message.content, usage_of(reply.usage))


def unknown_model():
    client().chat.completions.create(model="gpt-99", messages=ASKED)


def spent():
    client(SPENT_KEY).chat.completions.create(model="duet", messages=ASKED)


async def spent_streamed():
    async with client(SPENT_KEY, AsyncOpenAI) as duet:
        await duet.chat.completions.create(model="duet", messages=ASKED, stream=True)



tell(
    chat={
        "plain": plain,
        "streamed": streamed,
        "tool": tool,
        "unknown_model": unknown_model,
        "spent": spent,
        "spent_streamed": spent_streamed,
    }
)
