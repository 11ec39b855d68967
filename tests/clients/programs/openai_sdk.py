"""openai 2 and 3, sync and async."""

import json

from openai import AsyncOpenAI, OpenAI
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell

ASKED = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}

SHOWN = {"summary": "auto"}
"""Responses shows reasoning where it is asked to."""


def client(key=KEY, kind=OpenAI):
    return kind(base_url=URL, api_key=key)


def usage_of(chat):
    return chat.prompt_tokens, chat.completion_tokens, chat.completion_tokens_details.reasoning_tokens


def plain():
    reply = client().chat.completions.create(model="duet", messages=ASKED)
    message = reply.choices[0].message
    return seen(message.content, usage_of(reply.usage), reasoning=message.model_extra["reasoning_content"])


async def streamed():
    async with (
        client(kind=AsyncOpenAI) as duet,
        duet.chat.completions.stream(model="duet", messages=ASKED, stream_options={"include_usage": True}) as stream,
    ):
        pieces = [event.delta async for event in stream if event.type == "content.delta"]
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


def of_responses(usage):
    return usage.input_tokens, usage.output_tokens, usage.output_tokens_details.reasoning_tokens


def summary_of(response):
    return "".join(part.text for item in response.output if item.type == "reasoning" for part in item.summary)


def plain_response():
    reply = client().responses.create(model="duet", input=QUESTION, reasoning=SHOWN)
    return seen(reply.output_text, of_responses(reply.usage), reasoning=summary_of(reply))


async def streamed_response():
    async with (
        client(kind=AsyncOpenAI) as duet,
        duet.responses.stream(model="duet", input=QUESTION, reasoning=SHOWN) as stream,
    ):
        pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        reply = await stream.get_final_response()
    return seen(reply.output_text, of_responses(reply.usage), reasoning=summary_of(reply), pieces=len(pieces))


def tool_by_response(*, kept):
    """A round trip; the second request has the first's items, or only its id where the gateway keeps responses."""
    tools = [{"type": "function", "name": "look_up", "parameters": PARAMETERS, "strict": False}]
    duet, talk = client(), [{"role": "user", "content": ERRAND}]
    first = duet.responses.create(model="duet", input=talk, tools=tools, store=kept)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": look_up(**json.loads(item.arguments))}
        for item in first.output
        if item.type == "function_call"
    ]
    more = {"previous_response_id": first.id} if kept else {}
    reply = duet.responses.create(
        model="duet", input=results if kept else [*talk, *first.output, *results], tools=tools, store=kept, **more
    )
    return seen(reply.output_text, of_responses(reply.usage))


tell(
    chat={
        "plain": plain,
        "streamed": streamed,
        "tool": tool,
        "unknown_model": unknown_model,
        "spent": spent,
        "spent_streamed": spent_streamed,
    },
    responses={
        "plain": plain_response,
        "streamed": streamed_response,
        "tool": lambda: tool_by_response(kept=False),
        "tool_by_id": lambda: tool_by_response(kept=True),
        "unknown_model": lambda: client().responses.create(model="gpt-99", input=QUESTION),
        "spent": lambda: client(SPENT_KEY).responses.create(model="duet", input=QUESTION),
    },
)
