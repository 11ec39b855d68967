"""What a pair answers, in the form of chat completions, from which the Agents SDK makes items and events."""

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from agents.exceptions import ModelBehaviorError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails

from duet_sdk import (
    AnswerDelta,
    Done,
    FellBack,
    Reply,
    Retried,
    SignalDelta,
    SignalDone,
    ToolCallDelta,
)
from duet_sdk.stream import Run

MODEL: Final = "duet"
"""In the ``provider_data`` of items: whose they are."""


def usage_of(reply: Reply) -> CompletionUsage:
    """Both stages together, the reasoner's output as reasoning tokens."""
    reasoner, generator = reply.usage.reasoner, reply.usage.generator
    return CompletionUsage(
        prompt_tokens=reasoner.input_tokens + generator.input_tokens,
        completion_tokens=reasoner.output_tokens + generator.output_tokens,
        total_tokens=reply.usage.total_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=(reasoner + generator).cached_tokens or 0),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoner.output_tokens),
    )


def message_of(reply: Reply) -> ChatCompletionMessage:
    """The whole reply: signal, text, tool calls."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in reply.tool_calls
    ]
    told = {"role": "assistant", "content": reply.text or None, "reasoning_content": reply.new_signal}
    return ChatCompletionMessage.model_validate(told | ({"tool_calls": calls} if calls else {}))


async def chunks_of(run: Run) -> AsyncIterator[ChatCompletionChunk]:
    """The run, event by event; usage comes with the last chunk.

    Raises:
        ModelBehaviorError: the answer started over after a part of it had been shown.
    """
    thought = False
    async for event in run:
        match event:
            case SignalDelta(text):
                thought = True
                yield _chunk({"reasoning_content": text})
            case SignalDone(signal) if signal.text and not thought:  # from a cache
                yield _chunk({"reasoning_content": signal.text})
            case AnswerDelta(text):
                yield _chunk({"content": text})
            case ToolCallDelta(at, call, name, arguments):
                function = {"name": name, "arguments": arguments}
                yield _chunk({"tool_calls": [{"index": at, "id": call, "type": "function", "function": function}]})
            case Retried(stage="generator", discard=True) | FellBack(discard=True):
                raise ModelBehaviorError("the answer started over, but streamed text cannot be retracted")
            case Done(reply):
                finish = reply.finish_reason
                yield _chunk(
                    {}, finish_reason=finish if finish in ("length", "tool_calls", "content_filter") else "stop"
                )
                yield _chunk({}).model_copy(update={"choices": [], "usage": usage_of(reply)})


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    told = {"id": "", "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL}
    return ChatCompletionChunk.model_validate({**told, "choices": [choice]})
