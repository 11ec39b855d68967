"""pydantic-ai's agent over each wire."""

from pydantic_ai import Agent
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from told import ERRAND, KEY, QUESTION, ROOT, SPENT_KEY, URL, look_up, seen, tell


def scenarios(kind, provider, url, **settings):
    def agent(model="duet", key=KEY, **more):
        return Agent(kind(model, provider=provider(base_url=url, api_key=key)), model_settings=settings, **more)

    def told_by(run, pieces=None):
        usage = run.usage() if callable(run.usage) else run.usage
        parts = [part for message in run.new_messages() for part in message.parts if isinstance(part, ThinkingPart)]
        counts = usage.input_tokens, usage.output_tokens, usage.details.get("reasoning_tokens")
        return seen(run.output, counts, reasoning="".join(part.content for part in parts), pieces=pieces)

    async def streamed():
        async with agent().run_stream(QUESTION) as run:
            pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
            run.output = "".join(pieces)
            return told_by(run, len(pieces))

    return {
        "plain": lambda: told_by(agent().run_sync(QUESTION)),
        "streamed": streamed,
        "tool": lambda: told_by(agent(tools=[look_up]).run_sync(ERRAND)),
        "unknown_model": lambda: agent("gpt-99").run_sync(QUESTION),
        "spent": lambda: agent(key=SPENT_KEY).run_sync(QUESTION),
    }


tell(
    chat=scenarios(OpenAIChatModel, OpenAIProvider, URL),
    responses=scenarios(OpenAIResponsesModel, OpenAIProvider, URL, openai_reasoning_summary="auto"),
    messages=scenarios(AnthropicModel, AnthropicProvider, ROOT),
)
