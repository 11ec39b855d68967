"""Haystack's generators for chat completions and Responses, alone and in its agent."""

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from told import ERRAND, KEY, QUESTION, SPENT_KEY, URL, look_up, seen, tell


def scenarios(kind, usage_of, **settings):
    def generator(model="duet", key=KEY, **more):
        return kind(api_key=Secret.from_token(key), model=model, api_base_url=URL, **more)

    def ask(*args, **more):
        return generator(*args, **more).run([ChatMessage.from_user(QUESTION)])["replies"][0]

    def told_by(message, pieces=None):
        reasoning = message.reasoning and message.reasoning.reasoning_text
        return seen(message.text, usage_of(message.meta.get("usage") or {}), reasoning=reasoning, pieces=pieces)

    def streamed():
        pieces = []
        more = {"stream_options": {"include_usage": True}} if kind is OpenAIChatGenerator else {}
        reply = ask(streaming_callback=pieces.append, generation_kwargs=settings | more)
        return told_by(reply, sum(bool(piece.content) for piece in pieces))

    def tool():
        agent = Agent(chat_generator=generator(), tools=[create_tool_from_function(look_up)])
        return told_by(agent.run(messages=[ChatMessage.from_user(ERRAND)])["last_message"])

    return {
        "plain": lambda: told_by(ask(generation_kwargs=settings)),
        "streamed": streamed,
        "tool": tool,
        "unknown_model": lambda: ask("gpt-99"),
        "spent": lambda: ask(key=SPENT_KEY),
    }


def of_chat(usage):
    details = usage.get("completion_tokens_details") or {}
    return usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("reasoning_tokens")


def of_responses(usage):
    details = usage.get("output_tokens_details") or {}
    return usage.get("input_tokens"), usage.get("output_tokens"), details.get("reasoning_tokens")


tell(
    chat=scenarios(OpenAIChatGenerator, of_chat),
    responses=scenarios(OpenAIResponsesChatGenerator, of_responses, reasoning={"summary": "auto"}),
)
