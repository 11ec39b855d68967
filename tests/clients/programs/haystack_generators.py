"""Haystack's generators for chat completions and Responses, with its own invoker of tools."""

from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.components.tools import ToolInvoker
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell


def scenarios(kind, usage_of):
    def ask(talk, model="duet", key=KEY, **more):
        generator = kind(api_key=Secret.from_token(key), model=model, api_base_url=URL, **more)
        return generator.run(talk)["replies"][0]

    def told_by(message, pieces=None):
        reasoning = message.reasoning and message.reasoning.reasoning_text
        return seen(message.text, usage_of(message.meta.get("usage") or {}), reasoning=reasoning, pieces=pieces)

    def streamed():
        pieces = []
        more = {"generation_kwargs": {"stream_options": {"include_usage": True}}} if kind is OpenAIChatGenerator else {}
        reply = ask([ChatMessage.from_user(QUESTION)], streaming_callback=pieces.append, **more)
        return told_by(reply, sum(bool(piece.content) for piece in pieces))

    def tool():
        tools, talk = [create_tool_from_function(look_up)], [ChatMessage.from_user(ERRAND)]
        talk.append(ask(talk, tools=tools))
        talk += ToolInvoker(tools).run(messages=[talk[-1]])["tool_messages"]
        return told_by(ask(talk, tools=tools))

    return {
        "plain": lambda: told_by(ask([ChatMessage.from_user(QUESTION)])),
        "streamed": streamed,
        "tool": tool,
        "unknown_model": lambda: ask([ChatMessage.from_user(QUESTION)], "gpt-99"),
        "spent": lambda: ask([ChatMessage.from_user(QUESTION)], key=SPENT_KEY),
    }


def of_chat(usage):
    details = usage.get("completion_tokens_details") or {}
    return usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("reasoning_tokens")


def of_responses(usage):
    details = usage.get("output_tokens_details") or {}
    return usage.get("input_tokens"), usage.get("output_tokens"), details.get("reasoning_tokens")


tell(chat=scenarios(OpenAIChatGenerator, of_chat), responses=scenarios(OpenAIResponsesChatGenerator, of_responses))
